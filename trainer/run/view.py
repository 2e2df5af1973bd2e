"""`lposekit view RUN`: one self-contained HTML file with a run's curves, throughput and validation images over
time."""

from __future__ import annotations

import base64
import re
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lposekit.errors import LposekitError
from lposekit.report.curves import Curve, Panel, chart, smooth
from lposekit.report.page import PUBLIC_NAME, flatten, write_page
from lposekit.store import LocalStore, Store
from lposekit.store_reads import read_whole
from trainer.run.checkpoint import list_steps
from trainer.run.convergence import pose_convergence
from trainer.run.folder import MAX_SETTINGS_BYTES, SETTINGS_NAME, SETTINGS_TABLE
from trainer.run.metrics import METRICS_NAME, read_metrics
from trainer.run.run_card import read_run_card

REPORT_NAME = "report.html"
MAX_IMAGES = 24
LEAST_GAIN = 0.01
"""What the axis of the gains spans at least, as a share of the loss."""
MAX_IMAGE_BYTES = 2**24
_IMAGE_NAME = re.compile(r"step-\d{1,12}\.jpg")
Line = dict[str, Any]


def write_report(run_dir: Path, *, public: bool = False) -> Path:
    """Write the page of a run folder to `report.html` in it; returns its path.

    public: to `public.html`, without images, prompts and paths: a page that may be shown to others.

    Raises:
        LposekitError: no run folder, a run that has logged nothing yet, or the page cannot be written.
    """
    lines = read_metrics(run_dir / METRICS_NAME)
    steps = [line for line in lines if "loss" in line]
    if not steps:
        raise LposekitError(f"{run_dir}: no step is logged in {METRICS_NAME} yet. Look again later.")
    return write_page(
        run_dir / (PUBLIC_NAME if public else REPORT_NAME),
        "run.html",
        folder=Path(__file__).parent,
        name=run_dir.name,
        card=read_run_card(run_dir),
        public=public,
        last=steps[-1],
        panels=[*_learning(steps), *_validation(lines), *_probe_panels(lines), *_speed(steps)],
        images=[] if public else _images(run_dir),
        checkpoints=list_steps(run_dir),
        settings=[] if public else _settings(run_dir),
        mean_rate=_mean(steps, "samples_per_s"),
        mean_wait=_mean(steps, "data_wait"),
        mean_mfu=_mean(steps, "mfu"),
    )


def _curve(lines: Sequence[Line], field: str, name: str = "") -> Curve:
    chosen = [line for line in lines if field in line]
    return Curve(name or field, [line["step"] for line in chosen], [line[field] for line in chosen])


def _learning(steps: Sequence[Line]) -> list[Panel]:
    loss = _curve(steps, "loss", "each step")
    mean = Curve("running mean", loss.steps, smooth(loss.values))
    return [
        Panel(
            "Training loss",
            "Mean squared error of the noise. It jumps with the timesteps drawn; the running mean is over 5% of "
            "the run.",
            chart("Training loss", [Curve(loss.name, loss.steps, loss.values, faint=True), mean]),
        ),
        Panel(
            "Gradient norm",
            "Before clipping, over all trained weights.",
            chart("Gradient norm", [_curve(steps, "grad_norm")], from_zero=True),
        ),
        Panel(
            "Learning rate",
            "After warm-up and schedule.",
            chart("Learning rate", [_curve(steps, "lr")], from_zero=True),
        ),
    ]


def _validation(lines: Sequence[Line]) -> list[Panel]:
    curve = _curve(lines, "validation/loss")
    if not curve.steps:
        return []
    hint = "Loss of samples that are never trained on, at fixed timesteps and noise."
    return [Panel("Validation loss", hint, chart("Validation loss", [curve]))]


def _probe_panels(lines: Sequence[Line]) -> list[Panel]:
    names = list(dict.fromkeys(name for line in lines for name in line if name.startswith("probe/")))
    if not names:
        return []
    curves = [_curve(lines, name, name.removeprefix("probe/").replace("_", " ")) for name in names]
    first, others = curves[0], curves[1:]
    gains = [
        Curve(
            f"{other.name} - {first.name}",
            first.steps,
            [b - a for a, b in zip(first.values, other.values, strict=True)],
        )
        for other in others
    ]
    pose, step = "probe/matching_pose" in names, pose_convergence(lines)
    title = "Is the pose learned?" if pose else "Is the order of frames learned?"
    hint = (
        "Loss on a fixed noise batch with the matching pose, the pose of another sample, and none. If the curves "
        "coincide, the model ignores the pose."
        if pose
        else "Loss on a fixed noise batch: clips in order, and the same clips with shuffled frames. If the curves "
        "coincide, the model ignores the order."
    )
    taken_off = "" if step is None else f" It is learned at step {step:,}, half-way to what it is worth now."
    return [
        Panel(title, hint, chart(title, curves, mark=step)),
        Panel(
            "What it is worth",
            "How much worse the loss gets without it: above zero and rising means learned." + taken_off,
            # a hundredth of the loss at least: less is noise
            chart("What it is worth", gains, from_zero=True, least_span=LEAST_GAIN * max(first.values), mark=step),
        ),
    ]


def _speed(steps: Sequence[Line]) -> list[Panel]:
    def panel(title: str, hint: str, fields: Sequence[tuple[str, str]], **options: bool) -> Panel:
        return Panel(title, hint, chart(title, [_curve(steps, f, n) for f, n in fields], from_zero=True, **options))

    measured = any(line["mfu"] for line in steps)
    return [
        panel(
            "Throughput",
            "Samples a second over all processes, without the time for validation.",
            [("samples_per_s", "")],
        ),
        panel(
            "Where the time goes",
            "MFU: share of the device's measured matmul peak that does the model's arithmetic."
            if measured
            else "Share of the time in which the model waits for data. (MFU was not measured.)",
            [*([("mfu", "MFU")] if measured else []), ("data_wait", "waiting for data")],
            percent=True,
        ),
        panel("Memory", "GiB; the peak of the device, or the process on a CPU.", [("peak_memory_gib", "")]),
    ]


def _mean(steps: Sequence[Line], field: str) -> float:
    """Mean over the time of the run: a line counts as long as its steps took."""
    before = [0, *(line["step"] for line in steps)]
    seconds = [(line["step"] - start) / line["steps_per_s"] for start, line in zip(before, steps, strict=False)]
    return sum(line[field] * taken for line, taken in zip(steps, seconds, strict=True)) / sum(seconds)


def _images(run_dir: Path) -> list[tuple[str, str]]:
    """(caption, data URI) of the validation images, newest first, spread over the run if there are many."""
    store = LocalStore(run_dir)
    try:
        files = [name for name in store.list("samples") if _IMAGE_NAME.fullmatch(name)]
        count = min(len(files), MAX_IMAGES)
        chosen = [files[round(i * (len(files) - 1) / max(1, count - 1))] for i in range(count)]
        return [(f"step {_step(name):,}", _data_uri(store, f"samples/{name}")) for name in reversed(chosen)]
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as error:
        raise LposekitError(f"{run_dir}: its validation images cannot be read ({error}).") from error


def _step(name: str) -> int:
    return int(name.removeprefix("step-").removesuffix(".jpg"))


def _data_uri(store: Store, name: str) -> str:
    return "data:image/jpeg;base64," + base64.b64encode(read_whole(store, name, MAX_IMAGE_BYTES)).decode()


def _settings(run_dir: Path) -> list[tuple[str, str]]:
    try:
        text = read_whole(LocalStore(run_dir), SETTINGS_NAME, MAX_SETTINGS_BYTES).decode("utf-8")
        return flatten(tomllib.loads(text).get(SETTINGS_TABLE, {}))
    except FileNotFoundError:
        return []
    except (OSError, ValueError, AttributeError, RecursionError) as error:  # AttributeError: no table of that name
        raise LposekitError(f"{run_dir / SETTINGS_NAME}: cannot be read ({error}).") from error
