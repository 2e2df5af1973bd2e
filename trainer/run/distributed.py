"""Several processes as one: started by torchrun, or one process alone, where all of this does nothing.

Data parallel only: what is trained fits any GPU that can hold the frozen rest.
"""

from __future__ import annotations

import contextlib
import datetime
import logging
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from lposekit.errors import LposekitError, UsageError

LAST_COLLECTIVE_S = 0.2
T = TypeVar("T")

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class World:
    """This process among all that train together."""

    device: torch.device
    rank: int = 0
    size: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this process writes the run folder."""
        return self.rank == 0

    def wrap(self, module: nn.Module) -> nn.Module:
        """The module with gradients averaged over all processes in its backward pass."""
        if self.size == 1:
            return module
        ids = [self.device.index] if self.device.type == "cuda" else None
        return DistributedDataParallel(module, ids, gradient_as_bucket_view=True)

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over all processes, in place."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def gather(self, value: T) -> list[T]:
        """The values of all processes, by rank. Small ones: they travel as bytes."""
        if self.size == 1:
            return [value]
        values = [value] * self.size
        dist.all_gather_object(values, value)
        return values

    def from_main(self, value: T) -> T:
        """The main process's value, in all of them."""
        if self.size == 1:
            return value
        holder = [value]
        dist.broadcast_object_list(holder, src=0)
        return holder[0]

    def barrier(self) -> None:
        """Wait for all processes."""
        if self.size > 1:
            dist.barrier()


def choose_device(name: str) -> torch.device:
    """`auto`: this process's GPU where there is one.

    Raises:
        UsageError: a GPU is asked for and there is none.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda":
        name = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise UsageError(f"--compute.device {name}: torch sees no GPU here. Use --compute.device cpu, or auto.")
    return torch.device(name)


@contextlib.contextmanager
def open_world(device: torch.device, timeout_s: float) -> Iterator[World]:
    """Joins the processes that torchrun started; alone without torchrun.

    Raises:
        LposekitError: another process died or did not answer in time; raised in all of them.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield World(device)
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    backend = "nccl" if device.type == "cuda" else "gloo"
    try:
        dist.init_process_group(backend, timeout=datetime.timedelta(seconds=timeout_s))
        yield World(device, dist.get_rank(), size)
        # leave together, or the first to go looks dead to the others
        dist.barrier()
    except dist.DistError as error:
        raise _lost(error, timeout_s) from error
    except RuntimeError as error:
        if not _is_connection_loss(error):
            raise
        raise _lost(error, timeout_s) from error
    finally:
        # gloo's thread needs the interpreter lock to let go of the last collective's tensors. The end of the group
        # waits for that thread without giving the lock away: seen to hang for good, so let it finish first.
        time.sleep(LAST_COLLECTIVE_S)
        if dist.is_initialized():
            dist.destroy_process_group()


def _is_connection_loss(error: RuntimeError) -> bool:
    # gloo reports a peer that is gone as a plain RuntimeError
    text = str(error).lower()
    return any(words in text for words in ("gloo", "connection reset", "connection closed", "timed out", "broken pipe"))


def _lost(error: BaseException, timeout_s: float) -> LposekitError:
    first = str(error).splitlines()[0] if str(error) else type(error).__name__
    rank = os.environ.get("RANK", "?")
    return LposekitError(
        f"rank {rank}: another training process died or did not answer within {timeout_s:g} s ({first}). "
        "Nothing of this step was applied; look at the other ranks' messages, then run the same command again to "
        "resume."
    )
