"""Checkpoints written behind the training loop: it waits neither for the disk nor for hashes, and hardly for the copy.

The tensors are copied while the next step runs forward and backward, which changes none of them; whoever is about to
change them waits for the copy's end (`settle`). One checkpoint at a time: the next one waits for the one before. What
goes wrong in writing is raised in the loop, at its next step or at its end.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType

import torch
from torch import Tensor

from trainer.run.checkpoint import Checkpoint, prune, save_checkpoint

log = logging.getLogger(__name__)


@dataclass(slots=True)
class CheckpointWriter:
    """Writes the checkpoints of a run and removes its oldest. Used as a context: what was handed over is on disk when
    it is left, whatever ended the run, except for a second Ctrl-C, which waits for nothing.

    keep, keeps: as `prune` takes them. whole: steps whose checkpoints were written or read whole by this process, so
    that their hashes need no second look.
    """

    run_dir: Path
    keep: int
    keeps: Callable[[int], bool]
    whole: set[int] = field(default_factory=set)
    _copies: dict[str, Tensor] = field(default_factory=dict)
    _copied: threading.Event = field(default_factory=threading.Event)
    _step: int = 0
    _thread: threading.Thread | None = None
    _error: BaseException | None = None

    @property
    def busy(self) -> bool:
        """Whether a checkpoint is on its way to the disk."""
        return self._thread is not None and self._thread.is_alive()

    def save(self, checkpoint: Checkpoint) -> None:
        """Begin to copy and write a checkpoint, whose tensors must not change until `settle` was called.

        Raises:
            LposekitError: the one before could not be written.
        """
        self.wait()
        self._copied.clear()
        self._step = checkpoint.step
        source = Source(checkpoint.tensors)
        # a daemon: a process that is told to end at once does not wait for it
        self._thread = threading.Thread(target=self._write, args=(checkpoint, source), name="checkpoint", daemon=True)
        self._thread.start()

    def settle(self) -> None:
        """Until the tensors of the last checkpoint may change."""
        if self._thread is not None:
            self._copied.wait()

    def check(self) -> None:
        """Raises what went wrong in the background, if anything did."""
        error, self._error = self._error, None
        if error is not None:
            raise error

    def wait(self) -> None:
        """Until all is on disk; raises as `check`."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self.check()

    def __enter__(self) -> CheckpointWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if error is None:
            self.wait()
        elif isinstance(error, Exception):
            try:
                self.wait()
            except Exception as second:  # noqa: BLE001 - the first error is the one to tell
                log.warning("the last checkpoint was not written: %s", second)
        elif self.busy:
            log.warning(
                "ended while the checkpoint of step %d was being written: it may be lost, and the run then goes on "
                "from the one before it",
                self._step,
            )
        elif self._error is not None:
            log.warning("the checkpoint of step %d was not written: %s", self._step, self._error)

    def _write(self, checkpoint: Checkpoint, source: Source) -> None:
        try:
            try:
                copied = replace(checkpoint, tensors=self._copy(source))
            finally:
                self._copied.set()
            save_checkpoint(self.run_dir, copied)
            self.whole.add(checkpoint.step)
            prune(self.run_dir, self.keep, self.keeps, self.whole)
        except BaseException as error:  # noqa: BLE001 - raised again by whoever asks
            self._error = error

    def _copy(self, source: Source) -> dict[str, dict[str, Tensor]]:
        """Copies on the CPU, in memory that is kept from one checkpoint to the next: fresh memory costs more than the
        copy."""
        copies: dict[str, dict[str, Tensor]] = {}
        kept, self._copies = self._copies, {}
        with source.readable():
            for file, tensors in source.files.items():
                copies[file] = {}
                for name, value in tensors.items():
                    target = _like(value, kept.get(f"{file}/{name}"))
                    copy_tensor(target, value)
                    copies[file][name] = self._copies[f"{file}/{name}"] = target
        return copies


class Source:
    """Tensors as they are now, to be read from another thread. On a GPU the reader uses a stream of its own, so that it
    waits for what is queued now and not for what is queued later."""

    def __init__(self, files: Mapping[str, Mapping[str, Tensor]]) -> None:
        self.files = files
        on_gpu = [value.device for tensors in files.values() for value in tensors.values() if value.is_cuda]
        self._stream = torch.cuda.Stream(on_gpu[0]) if on_gpu else None
        if self._stream is not None:
            self._stream.wait_stream(torch.cuda.current_stream(on_gpu[0]))

    @contextlib.contextmanager
    def readable(self) -> Iterator[None]:
        """Inside, the tensors may be copied; behind it, the copies are there."""
        if self._stream is None:
            yield
            return
        with torch.cuda.stream(self._stream):
            yield
            self._stream.synchronize()


def copy_tensor(target: Tensor, value: Tensor) -> None:
    # unpinned memory waits for the device; pinned copies are waited for all together
    target.copy_(value.detach(), non_blocking=True)


def _like(value: Tensor, kept: Tensor | None) -> Tensor:
    """Contiguous memory on the CPU for a copy of a tensor."""
    if kept is not None and kept.shape == value.shape and kept.dtype == value.dtype:
        return kept
    return torch.empty(value.shape, dtype=value.dtype, pin_memory=value.is_cuda)
