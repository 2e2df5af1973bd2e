"""The stream of micro-batches: worker processes read, decode and draw; the order is that of `SampleOrder` alone."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import signal
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, get_worker_info

from lposekit.errors import LposekitError, UsageError
from trainer.data.batch import SMALL_BYTES, Batch, stack_samples
from trainer.data.joint_order import JointOrder
from trainer.data.order import OrderState, SampleOrder, SampleRef
from trainer.data.reader import SampleReader

log = logging.getLogger(__name__)

SHARED_MEMORY = Path("/dev/shm")
_DEAD_WORKER = re.compile(r"DataLoader worker \(pid(?:\(s\))? ([\d, ]+)\)")


@dataclass(frozen=True, slots=True)
class BatchSplit:
    """One process's part of every global batch: rank `rank` of `world`, in forward passes of `micro_batch`."""

    batch_size: int
    micro_batch: int
    rank: int = 0
    world: int = 1

    @property
    def passes(self) -> int:
        """Forward passes of one step on this process."""
        return self.batch_size // (self.world * self.micro_batch)

    def check(self) -> None:
        """Raises UsageError if the batch cannot be divided so."""
        if self.batch_size % (self.world * self.micro_batch):
            raise UsageError(
                f"a batch of {self.batch_size} samples cannot be divided among {self.world} processes in forward "
                "passes of "
                f"{self.micro_batch}: choose --batch-size, --optim.micro-batch and the number of processes so "
                "that it can"
            )

    def micro_batches(self, refs: Sequence[SampleRef]) -> list[list[SampleRef]]:
        """This process's forward passes of a global batch."""
        part = len(refs) // self.world
        mine = refs[self.rank * part : (self.rank + 1) * part]
        return [list(mine[i : i + self.micro_batch]) for i in range(0, part, self.micro_batch)]


@dataclass(frozen=True, slots=True)
class _Failure:
    """What a worker hands over instead of a batch that it could not make."""

    message: str


@dataclass(frozen=True, slots=True)
class _Parcel:
    """A batch on its way from a worker."""

    values: dict[str, object]

    def pin_memory(self) -> Batch:
        """Called by torch's loader if it pins."""
        return Batch.unpacked(self.values).pin_memory()


@dataclass(slots=True)
class _BatchMaker:
    """Runs in the workers. `reading`: int64 [workers, 3] in shared memory, (pid, dataset, shard) of what each
    reads."""

    reader: SampleReader
    reading: Tensor

    def __getitem__(self, refs: list[SampleRef]) -> _Parcel | _Failure:
        info = get_worker_info()
        samples = []
        for ref in refs:
            if info is not None:
                self.reading[info.id, 1], self.reading[info.id, 2] = ref.dataset, ref.shard
            try:
                samples.append(self.reader.read(ref))
            except LposekitError as error:
                return _Failure(str(error) if info is None else f"{error} (read by worker {info.id})")
        return _Parcel(stack_samples(samples).packed())


@dataclass(slots=True)
class SampleLoader:
    """Micro-batches of a run from any state on. See `BatchSplit` for what "micro" is."""

    reader: SampleReader
    order: SampleOrder | JointOrder
    split: BatchSplit
    workers: int
    prefetch: int
    pin_memory: bool = False
    _reading: Tensor = field(default_factory=lambda: torch.zeros(0, 3, dtype=torch.int64))

    def batches(self, state: OrderState, steps: int) -> Iterator[Batch]:
        """The micro-batches of `steps` steps after `state`, `split.passes` for each step.

        Raises:
            LposekitError: a sample is damaged or a worker died; names shard and worker.
        """
        self.split.check()
        self._reading = torch.zeros(self.workers, 3, dtype=torch.int64).share_memory_()
        # one core a worker; set before the fork, for in a worker this call waits for ever for threads not inherited
        cv2.setNumThreads(1)
        loader = DataLoader(
            _BatchMaker(self.reader, self._reading),  # pyright: ignore
            sampler=_Plan(self.order, self.split, state, steps),
            batch_size=None,
            collate_fn=_as_it_is,  # pyright: ignore
            num_workers=self.workers,
            # workers share the index in memory, and look at their parent to tell its SIGTERM from others'
            multiprocessing_context="fork" if self.workers else None,
            prefetch_factor=self.prefetch if self.workers else None,
            pin_memory=self.pin_memory,
            worker_init_fn=_WorkerStart(self._reading),
            # its own, or it would take a number from the global generator and shift all that follow
            generator=torch.Generator().manual_seed(0),
        )
        with self.named_worker_deaths():
            for batch in loader:
                if isinstance(batch, _Failure):
                    raise LposekitError(batch.message)
                yield Batch.unpacked(batch.values) if isinstance(batch, _Parcel) else batch

    def check_shared_memory(self, folder: Path = SHARED_MEMORY) -> None:
        """Compares what the workers of this node may have under way with what is free; containers give 64 MB by
        default, and a worker that finds no more is killed without a word.

        Raises:
            UsageError: it is too little; says how much is needed.
        """
        if not self.workers or not folder.is_dir():
            return
        sample = self.reader.read(self.reader.ref(0, 0))
        arrays = [getattr(sample, field.name) for field in fields(sample)]
        sizes = [array.nbytes * self.split.micro_batch for array in arrays if isinstance(array, np.ndarray)]
        batch = sum(size for size in sizes if size >= SMALL_BYTES)
        processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        needed = batch * self.workers * self.prefetch * processes
        free = os.statvfs(folder)
        free_bytes = free.f_bavail * free.f_frsize
        if needed > free_bytes:
            raise UsageError(
                f"the loader's workers may have {needed / 2**20:.0f} MiB under way, and {folder} (shared memory) has "
                f"{free_bytes / 2**20:.0f} MiB free. Start the container with --shm-size={-(-needed // 2**30)}g or "
                "more, or lower --loader.workers, --loader.prefetch or --optim.micro-batch."
            )

    def advance(self, state: OrderState, steps: int = 1) -> OrderState:
        """The state after `steps` global batches."""
        for _ in range(steps):
            state = self.order.advance(state, self.split.batch_size)
        return state

    @contextlib.contextmanager
    def named_worker_deaths(self) -> Iterator[None]:
        """Turns torch's report of a dead worker into one that names the worker and the shard that it was reading.

        Torch raises it from a signal handler, so anywhere in the training loop: put this around all of it.
        """
        try:
            yield
        except RuntimeError as error:
            found = _DEAD_WORKER.search(str(error))
            if not found:
                raise
            raise LposekitError(self._describe_deaths([int(pid) for pid in found.group(1).split(",")])) from error

    def _describe_deaths(self, pids: Sequence[int]) -> str:
        reports = []
        for worker, (pid, dataset, shard) in enumerate(self._reading.tolist()):
            if pid in pids:
                where = self.reader.where(dataset, shard)
                reports.append(f"loader worker {worker} (pid {pid}) died while it read {where}")
        what = "; ".join(reports) or f"a loader worker (pid {pids}) died before it read anything"
        return (
            f"{what}. Perhaps it ran out of memory: lower --loader.workers or --loader.prefetch; run again to resume."
        )


@dataclass(frozen=True, slots=True)
class _Plan:
    """The forward passes to come, in order; each is a list of draws."""

    order: SampleOrder | JointOrder
    split: BatchSplit
    state: OrderState
    steps: int

    def __len__(self) -> int:
        return self.steps * self.split.passes

    def __iter__(self) -> Iterator[list[SampleRef]]:
        state = self.state
        for _ in range(self.steps):
            refs, state = self.order.draw(state, self.split.batch_size)
            yield from self.split.micro_batches(refs)


@dataclass(frozen=True, slots=True)
class _WorkerStart:
    reading: Tensor

    def __call__(self, worker: int) -> None:
        self.reading[worker, 0] = os.getpid()
        # Ctrl-C and a scheduler's SIGTERM go to all processes; only the training process decides what follows
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_end_with_parent, daemon=True).start()
        # one worker, one core: torch would start a thread a core in each
        torch.set_num_threads(1)


def _end_with_parent() -> None:
    """Ends the worker when its own parent, the training process, sends SIGTERM: torch does so to those that it cannot
    join. Those of others are left to the parent: a dead worker would take its last checkpoint with it."""
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)


def _as_it_is(batch: _Parcel | _Failure) -> _Parcel | _Failure:
    return batch
