"""What a run measures: `metrics.jsonl`, TensorBoard, and where the time goes.

Losses are written as decimal numbers and as hexadecimal floats: the latter compare runs bit for bit.
"""

from __future__ import annotations

import json
import logging
import math
import os
import secrets
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import numpy as np
import numpy.typing as npt
import psutil
import torch

from lposekit.errors import LposekitError, UsageError
from lposekit.shards.files import disk_error, open_own, write_bytes
from lposekit.store import LocalStore
from lposekit.store_reads import kind_of, read_whole
from trainer.model.linear import project

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

log = logging.getLogger(__name__)

METRICS_NAME = "metrics.jsonl"
WANDB_NAME = "wandb-id"
MAX_ID_BYTES = 200
MAX_METRICS_BYTES = 2**31 - 2**12


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a metrics file; one that a kill cut short is left out, and all behind it.

    Raises:
        LposekitError: the file is refused, too large, or cannot be read.
    """
    lines = []
    try:
        data = read_whole(LocalStore(path.parent), path.name, MAX_METRICS_BYTES)
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as error:
        raise LposekitError(f"{path}: cannot be read ({error}).") from error
    for text in data.splitlines():
        try:
            line = json.loads(text)
        except (ValueError, RecursionError):
            break
        if not isinstance(line, dict) or not isinstance(line.get("step"), int):
            break
        lines.append(line)
    return lines


def rewind(path: Path, step: int) -> None:
    """Drop what a killed run wrote after the checkpoint that is resumed; those steps are made again.

    At step 0 there is no checkpoint and all is made again, the validation before the first step as well. Raises
    LposekitError if the disk is full.
    """
    if kind_of(LocalStore(path.parent), path.name) is None:
        return
    kept = [line for line in read_metrics(path) if line["step"] <= step] if step else []
    write_bytes(path, "".join(json.dumps(line) + "\n" for line in kept).encode())


@contextmanager
def _named_disk_error(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise disk_error(error, path) from error


class JsonLines:
    """A file of one JSON object a line, complete up to the last line after any kill.

    Writing raises LposekitError if the disk is full.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._stream: TextIO | None = None

    def write(self, values: Mapping[str, object]) -> None:
        """One line. Numbers that JSON has not (the infinite gradient of a step that fp16 skips) are left out."""
        finite = {name: value for name, value in values.items() if not isinstance(value, float) or math.isfinite(value)}
        with _named_disk_error(self.path):
            if self._stream is None:
                self._stream = os.fdopen(open_own(self.path, os.O_WRONLY | os.O_APPEND), "a", encoding="utf-8")
            self._stream.write(json.dumps(finite, allow_nan=False) + "\n")
            self._stream.flush()

    def close(self) -> None:
        if self._stream is not None:
            # what could not be written was reported when it was; closing only tries once more
            with suppress(OSError):
                self._stream.close()


class ScalarBoard:
    """TensorBoard's scalars and images; nothing at all if switched off."""

    def __init__(self, folder: Path, enabled: bool, purge_step: int) -> None:
        self.folder = folder
        self.enabled = enabled
        self.purge_step = purge_step
        self._writer: SummaryWriter | None = None

    def write(self, values: Mapping[str, object], step: int) -> None:
        for name, value in values.items():
            if self.enabled and isinstance(value, int | float) and name != "step":
                with _named_disk_error(self.folder):
                    self._open().add_scalar(name, value, step)

    def image(self, name: str, rgb_HWC: npt.NDArray[np.uint8], step: int) -> None:
        if self.enabled:
            with _named_disk_error(self.folder):
                self._open().add_image(name, rgb_HWC, step, dataformats="HWC")

    def close(self) -> None:
        if self._writer is not None:
            with _named_disk_error(self.folder):
                self._writer.close()

    def _open(self) -> SummaryWriter:
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter  # one second, and only the main process writes

            # drops the scalars of steps that a resumed run makes again
            self._writer = SummaryWriter(str(self.folder), purge_step=self.purge_step)
        return self._writer


def wandb_id(output: Path, *, resumed: bool) -> str:
    """The id of a run folder at Weights & Biases, kept in it: two folders of one name are two runs there. A resumed run
    without one is of an older version, whose id was its name."""
    path = output / WANDB_NAME
    with suppress(OSError, ValueError):
        if found := read_whole(LocalStore(output), WANDB_NAME, MAX_ID_BYTES).decode("ascii").strip():
            return found
    made = output.name if resumed else f"{output.name}-{secrets.token_hex(4)}"
    write_bytes(path, f"{made}\n".encode())
    return made


class WandbBoard:
    """Scalars and images for Weights & Biases; nothing at all if switched off. A resumed run goes on with the same run
    there, by the id that its folder keeps.

    Raises:
        UsageError: it is not installed.
    """

    def __init__(self, output: Path, enabled: bool, settings: Mapping[str, object], *, resumed: bool) -> None:
        self._run: Any = None
        if enabled:
            try:
                import wandb  # pyright: ignore - an extra
            except ImportError as error:
                raise UsageError(
                    f"--watch.wandb needs the extra of that name: pip install 'lposekit[wandb]' ({error})"
                ) from error
            self._image: Any = wandb.Image
            name, run_id = output.name, wandb_id(output, resumed=resumed)
            self._run = wandb.init(id=run_id, name=name, resume="allow", config=dict(settings))

    def write(self, values: Mapping[str, object], step: int) -> None:
        if self._run is not None:
            numbers = {name: value for name, value in values.items() if isinstance(value, int | float)}
            self._run.log(numbers, step=step)

    def image(self, name: str, rgb_HWC: npt.NDArray[np.uint8], step: int) -> None:
        if self._run is not None:
            self._run.log({name: self._image(rgb_HWC)}, step=step)

    def close(self) -> None:
        if self._run is not None:
            self._run.finish()


@dataclass(slots=True)
class Clock:
    """Time since the last report, and how much of it went into waiting for data or into validation (probes,
    images)."""

    _start: float = field(default_factory=time.perf_counter)
    _spent: dict[str, float] = field(default_factory=dict)
    _steps: int = 0
    _tflop: float = 0.0

    @contextmanager
    def spending(self, what: str) -> Iterator[None]:
        """Counts the time inside under a name."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self._spent[what] = self._spent.get(what, 0.0) + time.perf_counter() - start

    def tick(self, tflop: float) -> None:
        """One step is done. `tflop`: its arithmetic, on one process."""
        self._steps += 1
        self._tflop += tflop

    def report(self, samples_per_step: int, peak_tflops: float) -> dict[str, float]:
        """Rates since the last report. `peak_tflops` is that of one process.

        Time spent on validation is left out: it is not training.
        """
        total = max(time.perf_counter() - self._start - self._spent.get("validation", 0.0), 1e-9)
        steps_per_s = self._steps / total
        tflops = self._tflop / total
        rates = {
            "steps_per_s": steps_per_s,
            "samples_per_s": steps_per_s * samples_per_step,
            "tflops": tflops,
            "mfu": tflops / peak_tflops if peak_tflops else 0.0,
            "data_wait": self._spent.get("data", 0.0) / total,
        }
        self._start, self._spent, self._steps, self._tflop = time.perf_counter(), {}, 0, 0.0
        return rates


def peak_memory_gib(device: torch.device) -> float:
    """Largest memory of the device so far; on a CPU, what the process holds now."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return psutil.Process().memory_info().rss / 2**30


def measure_peak_tflops(device: torch.device, dtype: torch.dtype) -> float:
    """Matmul throughput of this device now, in TFLOP/s: the best of a few large products."""
    side = 8192 if device.type == "cuda" else 1024
    # of zeros and ones a GPU makes more than of numbers as they come: it draws less power. Not of the run's generator
    generator = torch.Generator(device).manual_seed(0)
    a, weight = (torch.randn(side, side, generator=generator, device=device, dtype=dtype) for _ in range(2))
    layer = torch.nn.Linear(side, side, bias=False, device="meta", dtype=dtype)
    layer.weight = torch.nn.Parameter(weight)
    with torch.no_grad():
        seconds = min(_time_product(layer, a) for _ in range(5))
    return 2 * side**3 / seconds / 1e12


def _time_product(layer: torch.nn.Linear, a: torch.Tensor) -> float:
    if a.device.type == "cuda":
        torch.cuda.synchronize(a.device)
    start = time.perf_counter()
    project(layer, a)
    if a.device.type == "cuda":
        torch.cuda.synchronize(a.device)
    return time.perf_counter() - start
