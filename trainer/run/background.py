"""Checkpoints written behind the training loop: the loop stops for a copy of the weights, not for disk and hashes.

One checkpoint at a time: the next one waits for the one before. What goes wrong in writing is raised in the loop, at
its next step or at its end.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
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
    _thread: threading.Thread | None = None
    _error: BaseException | None = None

    def save(self, checkpoint: Checkpoint) -> None:
        """Copy a checkpoint's tensors, and write it while the caller goes on.

        Raises:
            LposekitError: the one before could not be written.
        """
        self.wait()
        copied = replace(checkpoint, tensors=self._copy(checkpoint.tensors))
        # a daemon: a process that is told to end at once does not wait for it
        self._thread = threading.Thread(target=self._write, args=(copied,), name="checkpoint", daemon=True)
        self._thread.start()

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

    def _write(self, checkpoint: Checkpoint) -> None:
        try:
            save_checkpoint(self.run_dir, checkpoint)
            self.whole.add(checkpoint.step)
            prune(self.run_dir, self.keep, self.keeps, self.whole)
        except BaseException as error:  # noqa: BLE001 - raised again by whoever asks
            self._error = error

    def _copy(self, files: Mapping[str, Mapping[str, Tensor]]) -> dict[str, dict[str, Tensor]]:
        """Copies on the CPU, in memory that is kept from one checkpoint to the next: fresh memory costs more than the
        copy."""
        copies: dict[str, dict[str, Tensor]] = {}
        kept, self._copies = self._copies, {}
        for file, tensors in files.items():
            copies[file] = {}
            for name, value in tensors.items():
                target = _like(value, kept.get(f"{file}/{name}"))
                # unpinned copies wait for the device; pinned ones all together, below
                target.copy_(value.detach(), non_blocking=True)
                copies[file][name] = self._copies[f"{file}/{name}"] = target
        if any(value.is_cuda for tensors in files.values() for value in tensors.values()):
            torch.cuda.synchronize()
        return copies


def _like(value: Tensor, kept: Tensor | None) -> Tensor:
    """Contiguous memory on the CPU for a copy of a tensor."""
    if kept is not None and kept.shape == value.shape and kept.dtype == value.dtype:
        return kept
    return torch.empty(value.shape, dtype=value.dtype, pin_memory=value.is_cuda)
