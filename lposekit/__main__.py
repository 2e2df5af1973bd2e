"""`python -m lposekit`."""

import sys

from lposekit.cli import main

sys.exit(main())
