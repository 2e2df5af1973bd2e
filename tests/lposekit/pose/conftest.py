"""One torch thread for every test here."""

import lposekit.pose  # noqa: F401  (sets OMP_WAIT_POLICY, if torch is not loaded yet)

# isort: split
from tests.support.one_thread import one_thread  # noqa: F401
