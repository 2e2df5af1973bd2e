"""Everything that a GPU is to tell, in one command:

    python -m tests.benchmarks.gpu --minutes 9

Needs neither Ray nor a network. Cells are measured in order of value; what is done is kept in a file, so that a second
call goes on where the time of the first ran out. A cell that fails is recorded with its error, one that kills its
process as well, and the others go on. At the end the tables go into docs/benchmarks.md (`--page` names another file).

On a machine that has only torch, bring these along. The configuration files of Stable Diffusion 1.4 (in the fixtures'
folder, which LPOSEKIT_FIXTURES names; weights are random). The wheels, in the versions of lposekit/pins.txt, that are
not there yet: diffusers, transformers, tokenizers, safetensors, huggingface_hub, einops, av, opencv-python-headless,
pyarrow, pydantic, pydantic-core, webdataset, braceexpand, annotated-types, platformdirs, psutil, rich, fsspec, pytest;
for the pose cells mmpose, mmdet, mmcv-lite, onedl-mmengine, json-tricks, munkres, pycocotools, terminaltables, shapely,
scipy, matplotlib, pillow, addict, termcolor, pyyaml, packaging, six and tqdm, the fixtures' `weights`, and of their
`data/images` the photos and `annotations.jsonl`. Install them by
`python -m pip install --no-index --no-deps --target FOLDER *.whl`, and name FOLDER in PYTHONPATH behind the repository.

`--device cpu` measures the same cells in seconds at tiny sizes, so that a GPU's first run is not the first of all; it
writes no page unless one is named.
"""

from __future__ import annotations

import argparse
import itertools
import json
import logging
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil
import torch

from tests.benchmarks.gpu_plan import CELLS, FUSED, Cell, Place, note, read_done
from tests.benchmarks.gpu_report import report
from tests.benchmarks.rounds import skip
from tests.benchmarks.run import PAGE, write_section
from tests.support.fixtures import REPOSITORY, fixtures_root

log = logging.getLogger(__name__)

Start = Callable[[Place, Path, str, Sequence[str], float], int]
"""Measures cells of a group (their names) within so many seconds, and gives an exit code: 0 unless the process died."""
TIMED_OUT = 124
LEAST_S = 5.0
"""With less time left, no process is started."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=9.0)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--done", type=Path, default=Path("build/gpu-cells.jsonl"), help="the file of finished cells")
    parser.add_argument("--page", type=Path, help="where the tables go; docs/benchmarks.md for a GPU")
    parser.add_argument("--again", action="store_true", help="measure what failed once more")
    parser.add_argument("--only", nargs="+", default=[""], help="cells whose names hold one of these")
    asked = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if asked.device == "cuda" and not torch.cuda.is_available():
        skip("torch sees no GPU here (`--device cpu` measures the same cells at tiny sizes)")
    wanted = [cell for cell in CELLS if any(part in cell.name for part in asked.only)]
    with tempfile.TemporaryDirectory() as folder:
        place = gpu_place(Path(folder)) if asked.device == "cuda" else cpu_place(Path(folder))
        measure(place, asked.done, wanted, 60 * asked.minutes, start_process, again=asked.again)
    text = report(asked.done, wanted)
    print(text)
    page = asked.page or (PAGE if asked.device == "cuda" else None)
    if page is not None:
        write_section("gpu", text, psutil.cpu_percent(interval=1), page=page)


def measure(
    place: Place, done: Path, wanted: Sequence[Cell], seconds: float, start: Start, *, again: bool = False
) -> None:
    """The cells that are not done, group by group in the order of their first cells, until the time is over."""
    deadline = time.monotonic() + seconds
    done.parent.mkdir(parents=True, exist_ok=True)
    if again:
        forget_failures(done)
    prepare(place)
    while True:
        pending = [cell for cell in wanted if cell.name not in read_done(done)[0]]
        left_s = deadline - time.monotonic()
        if not pending or left_s < LEAST_S:
            break
        # neighbours in the order of value share a process
        group = pending[0].group
        names = [cell.name for cell in next(neighbours for _, neighbours in itertools.groupby(pending, key=_group))]
        code = start(place, done, group, names, left_s)
        begun = read_done(done)[1]
        if code == TIMED_OUT:
            log.info("the time is over in %s", begun)
            break
        if code:
            broken = next(cell for cell in pending if cell.name == begun) if begun else pending[0]
            note(done, broken, error=f"its process ended with {code}")


def _group(cell: Cell) -> str:
    return cell.group


def start_process(place: Place, done: Path, group: str, names: Sequence[str], seconds: float) -> int:
    """A process of its own: a limit of the allocator, or a kernel that dies, stays in it."""
    command = [sys.executable, "-m", "tests.benchmarks.gpu_cells", "--done", str(done), "--place", place.as_json()]
    try:
        return subprocess.run(
            [*command, "--group", group, *names], cwd=REPOSITORY, timeout=seconds, check=False
        ).returncode
    except subprocess.TimeoutExpired:
        return TIMED_OUT


def forget_failures(done: Path) -> None:
    found = read_done(done)[0]
    kept = [line for line in found.values() if "figures" in line]
    done.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")


def gpu_place(folder: Path) -> Place:
    return Place("cuda", str(folder / "base"), "tiny", folder, 512, 8, {1: 32, 2: 4}, 7, FUSED)


def cpu_place(folder: Path) -> Place:
    """Tiny sizes, and a backend of torch.compile that needs no compiler."""
    options = {"backend": "eager"}
    return Place("cpu", "tiny", "tiny", folder, 64, 2, {1: 2, 2: 2}, 1, ("flash", "math"), options, most=2)


def prepare(place: Place) -> None:
    """The base, at the sizes of Stable Diffusion 1.4 with random weights, and a dataset for each stage."""
    from tests.support.train_data import write_dataset
    from trainer.model.base import random_base

    if not Path(place.base).exists() and place.base.startswith(str(place.folder)):
        with torch.device(place.device):
            base = random_base(fixtures_root() / "weights" / "stable-diffusion-v1-4-noweights")
        for name in ("tokenizer", "text_encoder", "vae", "unet", "scheduler"):
            getattr(base, name).save_pretrained(Path(place.base) / name)
    for stage, kind in ((1, "image"), (2, "video")):
        if not place.dataset(stage).exists():
            write_dataset(place.dataset(stage), [4], kind)


if __name__ == "__main__":
    main()
