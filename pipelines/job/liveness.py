"""Is the Ray alive that the driver hangs on?

Ray goes on waiting for a node that died, and ends a process, with no word to its owner, once the head has not answered
for a minute. So a thread of the driver asks; who waits for work looks at the answer.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator

from pipelines.job.runner import GaveUp

ASK_EVERY_S = 5.0
SILENT_S = 30.0
"""Ray ends the process after 60 s without its head."""
_RESUME = "Everything committed so far is valid: run the same command again to resume."


Question = Callable[[], bool]


class RayLost(GaveUp):
    """The node of the driver, or the head of the cluster, is gone."""


class Liveness:
    """What is known of the Ray that this process is connected to.

    Args:
        own_node_lives: asks Ray whether the node that this process is connected through lives; may never return.
    """

    def __init__(self, own_node_lives: Question) -> None:
        self._own_node_lives = own_node_lives
        self._asked_at: float | None = None
        self._lost: str | None = None
        self._done = threading.Event()

    @contextlib.contextmanager
    def asked(self) -> Iterator[None]:
        """While inside, a thread asks."""
        thread = threading.Thread(target=self._ask, name="ray-liveness", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._done.set()  # not joined: its question may never be answered

    def check(self) -> None:
        """Raises RayLost, with what is known to be dead."""
        asked_at = self._asked_at
        if self._lost is not None:
            raise RayLost(f"{self._lost} {_RESUME}")
        if asked_at is not None and time.monotonic() - asked_at > SILENT_S:
            raise RayLost(f"the head of the Ray cluster has not answered for {SILENT_S:.0f} s: it is gone. {_RESUME}")

    def _ask(self) -> None:
        while not self._done.wait(ASK_EVERY_S):
            self._asked_at = self._asked_at or time.monotonic()
            try:
                lives = self._own_node_lives()
            except Exception:  # noqa: BLE001 (whatever Ray raises without its head, which may come back)
                continue
            if not lives:
                self._lost = "the Ray node (raylet) of this machine has died, killed by the system for its memory?"
                return
            self._asked_at = None


def ray_liveness() -> Liveness:
    """Of the Ray that this process is connected to."""
    import ray

    own = ray.get_runtime_context().get_node_id()

    def own_node_lives() -> bool:
        return any(node["NodeID"] == own and node["Alive"] for node in ray.nodes())

    return Liveness(own_node_lives)
