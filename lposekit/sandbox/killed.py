"""A decoder that was killed from outside is no proof against the file that it was at: a fresh one tries again.

The kernel kills whoever is large when memory is short, and whatever clears up after a driver that died kills decoders
before their workers. Only a death that repeats, with pauses in between, is held against the file.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TypeVar

from lposekit.sandbox.sandbox import SandboxKilled

logger = logging.getLogger(__name__)

T = TypeVar("T")
PAUSES_S = (0.5, 2.0)
"""Before the second and the third try: what killed the child may still be at it."""


def again_if_killed(attempt: Callable[[], T], killed: type[Exception] = SandboxKilled) -> T:
    """The result of `attempt`, which is called again, each time with a fresh child, if its child was killed.

    Args:
        killed: what `attempt` raises then.

    Raises:
        whatever the last attempt raises.
    """
    for pause_s in PAUSES_S:
        try:
            return attempt()
        except killed as error:
            logger.warning("killed from outside, tried again: %s", error)
            time.sleep(pause_s)
    return attempt()
