"""Run plans, one shard each, on Ray actors: as many at a time as there are workers, bounded tries, clean stop.

The contract: a plan whose worker dies is tried again on a fresh worker, up to `attempts` times; a plan that raises is
reported as failed at once (the same input raises again); the others go on. A worker that cannot be made ends the run,
with its own error; so do a Ray that died, and work that stands still (see `Watch`). Nothing is submitted ahead of a
free worker, so memory does not grow with the number of plans.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from lposekit.errors import LposekitError
from lposekit.recipe import ActorHandle, Plan, SetupFailed, ShardReport
from lposekit.records import shard_name

if TYPE_CHECKING:
    from ray import ObjectRef

logger = logging.getLogger(__name__)

WAIT_S = 0.2


@contextlib.contextmanager
def raise_setup_error() -> Iterator[None]:
    """Raises the error itself where Ray reports that something failed with `SetupFailed`."""
    from ray.exceptions import RayTaskError

    try:
        yield
    except RayTaskError as failed:
        cause = failed.cause if isinstance(failed.cause, SetupFailed) else None
        if cause is None:
            raise
        raise cause.error from None


@dataclass(slots=True)
class RunResult:
    """How a run ended."""

    reports: int = 0
    failures: dict[int, str] = field(default_factory=dict)
    """Shard -> why it is not committed."""
    stopped: str | None = None
    """Why no further shards were handed out: `interrupted`, or the network's failure."""


class GaveUp(LposekitError):
    """To wait any longer makes no sense; what was committed until then is valid."""


class Watch(Protocol):
    """Looked at while the driver waits."""

    def look(self, in_work: Mapping[int, int]) -> None:
        """Raises GaveUp: nothing moves any more. `in_work`: shard -> attempt."""
        ...

    def moved(self) -> None:
        """Called with each report."""
        ...


class NoWatch:
    """Waits for ever."""

    def look(self, in_work: Mapping[int, int]) -> None:
        pass

    def moved(self) -> None:
        pass


@dataclass(slots=True)
class _Work:
    plan: Plan
    worker: ActorHandle
    attempt: int


class ShardRunner:
    """Hands plans to workers and collects their reports.

    Args:
        spawn: makes one worker actor with a remote method `build(plan)`.
        workers: actors that are there already.
        num_workers: plans in work at the same time.
        attempts: tries of a plan whose worker died.
        on_report: called with each plan's report, in the driver.
        on_work: called with the shards in work whenever they change.
        stop: set by Ctrl-C: nothing more is handed out, and what is in work is finished.
        drop: set by a second Ctrl-C: what is in work is dropped.
        watch: tells when it makes no sense to wait any longer.
    """

    def __init__(
        self,
        spawn: Callable[[], ActorHandle],
        *,
        workers: Sequence[ActorHandle] = (),
        num_workers: int,
        attempts: int,
        on_report: Callable[[ShardReport], None],
        on_work: Callable[[Sequence[int]], None] = lambda _: None,
        stop: threading.Event,
        drop: threading.Event,
        watch: Watch | None = None,
    ) -> None:
        self._watch = watch or NoWatch()
        self._spawn = spawn
        self._num_workers = num_workers
        self._attempts = attempts
        self._on_report = on_report
        self._on_work = on_work
        self._stop = stop
        self._drop = drop
        self._idle = list(workers)
        self._work: dict[ObjectRef, _Work] = {}
        self._result = RunResult()

    def run(self, plans: Iterator[Plan]) -> RunResult:
        """Build all plans; see the module's contract."""
        try:
            self._run(plans)
        finally:
            self._close()
        if self._stop.is_set():
            self._result.stopped = "interrupted"
        return self._result

    def _run(self, plans: Iterator[Plan]) -> None:
        import ray

        exhausted = False
        while True:
            while not exhausted and not self._halted() and len(self._work) < self._num_workers:
                plan = next(plans, None)
                if plan is None:
                    exhausted = True
                else:
                    self._hand_out(plan, attempt=1)
            if not self._work:
                return
            done, _ = ray.wait(list(self._work), timeout=WAIT_S)
            if self._drop.is_set():
                return
            for reference in done:
                self._collect(reference, self._work.pop(reference))
            if done:
                self._tell_work()
            self._watch.look({work.plan.shard: work.attempt for work in self._work.values()})

    def _halted(self) -> bool:
        return self._stop.is_set() or self._result.stopped is not None

    def _hand_out(self, plan: Plan, attempt: int) -> None:
        worker = self._idle.pop() if self._idle else self._spawn()
        self._work[worker.build.remote(plan)] = _Work(plan, worker, attempt)
        self._tell_work()

    def _tell_work(self) -> None:
        self._on_work([work.plan.shard for work in self._work.values()])

    def _collect(self, reference: ObjectRef, work: _Work) -> None:
        import ray
        from ray.exceptions import RayActorError, RayTaskError

        shard = work.plan.shard
        try:
            report: ShardReport = ray.get(reference)
        except RayTaskError as error:  # first: one of an actor that the worker asked is a RayActorError as well
            if isinstance(error.cause, SetupFailed):
                raise error.cause.error from None
            self._idle.append(work.worker)
            self._fail(shard, _brief(error.cause or error))
        except RayActorError as error:
            logger.warning("the worker of shard %s died (try %d): %s", shard_name(shard), work.attempt, _brief(error))
            if work.attempt < self._attempts and not self._halted():
                self._hand_out(work.plan, work.attempt + 1)
            else:
                self._fail(shard, f"its worker died {work.attempt} times")
        else:
            self._idle.append(work.worker)
            self._accept(report)

    def _accept(self, report: ShardReport) -> None:
        self._result.reports += 1
        self._watch.moved()
        if not report.committed:
            self._result.failures[report.shard] = report.note
            self._result.stopped = f"the network seems to be down: {report.note}"
        self._on_report(report)

    def _fail(self, shard: int, why: str) -> None:
        logger.error("shard %s: not committed: %s", shard_name(shard), why)
        self._result.failures[shard] = why

    def _close(self) -> None:
        import ray

        for work in self._work.values():
            self._result.failures[work.plan.shard] = "dropped: the run was interrupted"
            ray.kill(work.worker)
        for worker in self._idle:
            ray.kill(worker)
        self._idle.clear()


def _brief(error: BaseException) -> str:
    """The telling part of an error that crossed processes: the last line of a traceback, without Ray's advice."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1].partition(" Some common causes")[0] if lines else type(error).__name__
