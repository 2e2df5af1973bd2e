"""Contract of `python -m tests.benchmarks.gpu`: each of its cells runs on a CPU at tiny sizes, so that a GPU's first
run is not the first of all; what is done is not done again; a cell that fails is told, and the others go on."""

from __future__ import annotations

import dataclasses
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

from tests.benchmarks import gpu, gpu_cells
from tests.benchmarks.gpu_cells import run_cells
from tests.benchmarks.gpu_plan import CELLS, Cell, Place, note, read_done
from tests.benchmarks.gpu_report import TITLES, kind_of, report
from tests.benchmarks.gpu_steps import Figures
from tests.benchmarks.run import write_section
from tests.support.train_runs import small_base
from trainer.model.tiny import TEXT_WIDTH

pytestmark = pytest.mark.timeout(1200)
USUAL = ("device", "stage 1 eager, cached, micro-batch 32", "stage 2 eager, encoded", "resume stage 1 eager")


@pytest.fixture(autouse=True)
def as_it_was() -> Iterator[None]:
    yield
    torch.use_deterministic_algorithms(False)
    torch._dynamo.reset()


def place_in(folder: Path) -> Place:
    base = str(small_base())
    return dataclasses.replace(gpu.cpu_place(folder), base=base, small_base=base)


def shallow_place(folder: Path) -> Place:
    """With a UNet of two levels in place of four: half as many blocks to compile."""
    base = folder / "shallow"
    shutil.copytree(small_base(), base, ignore=shutil.ignore_patterns("unet"))
    UNet2DConditionModel(
        block_out_channels=(8, 16),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=1,
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=2,
        norm_num_groups=4,
    ).save_pretrained(base / "unet")
    return dataclasses.replace(place_in(folder), base=str(base), small_base=str(base))


def here(place: Place, done: Path, group: str, names: Sequence[str], seconds: float) -> int:
    run_cells(place, done, group, names)
    return 0


def cells(*parts: str) -> list[Cell]:
    return [cell for cell in CELLS if any(part in cell.name for part in parts)]


def test_the_usual_cells_run_on_a_cpu_and_their_tables_go_into_the_page(tmp_path: Path):
    # mutation: a kind of cell left out of the report -> red.
    done, page, wanted = tmp_path / "build" / "done.jsonl", tmp_path / "page.md", cells(*USUAL)
    gpu.measure(place_in(tmp_path), done, wanted, 600, here)
    found = read_done(done)[0]
    # a CPU has neither of two kernels
    missing = [name for name in found if name.endswith(("cudnn", "efficient"))]
    assert [name for name, line in found.items() if "figures" not in line] == missing
    assert {line["figures"]["losses"] for line in found.values() if "losses" in line.get("figures", {})} == {"equal"}
    write_section("gpu", report(done, wanted), 0.0, page=page)
    text = page.read_text()
    assert "## On a GPU" in text
    for kind in ("device", "steps", "resume"):
        assert TITLES[kind] in text
    assert f"- {missing[0]}: this kernel can do none of the shapes here" in text


@pytest.mark.more
def test_every_cell_runs_on_a_cpu(tmp_path: Path):
    # mutation: pose cells that read an attribute which no pose model has -> red, where MMPose is
    # each group is opened once, and all its passes have one shape: what is compiled, is compiled once
    done, wanted = tmp_path / "done.jsonl", sorted(CELLS, key=lambda cell: cell.group)
    gpu.measure(dataclasses.replace(shallow_place(tmp_path), most=1), done, wanted, 600, here)
    found = read_done(done)[0]
    assert [line for line in found.values() if "error" in line] == []
    left_out = [name for name, line in found.items() if "left_out" in line]
    assert all(name.endswith(("cudnn", "efficient")) or name.startswith("pose") for name in left_out), found
    text = report(done, wanted)
    assert all(TITLES[kind] in text for kind in {kind_of(cell) for cell in CELLS} - {"pose", "pose stage"})
    assert "no time for" not in text


@pytest.mark.more
def test_the_command_measures_in_processes_of_their_own(tmp_path: Path):
    # mutation: a place that does not survive its way into the process (its folder left a text) -> red.
    done, wanted = tmp_path / "done.jsonl", cells("device", "limit stage 1 80")
    gpu.measure(place_in(tmp_path), done, wanted, 300, gpu.start_process)
    found = read_done(done)[0]
    assert [cell.name for cell in wanted if "figures" in found.get(cell.name, {})] == [cell.name for cell in wanted]


def test_what_is_done_is_not_done_again_and_failures_only_if_asked(tmp_path: Path):
    # mutations: the file not looked at; failures kept with `again` -> red each.
    done, wanted = tmp_path / "done.jsonl", cells("device", "group norm")
    note(done, wanted[0], figures={"device": "another"}, seconds=1.0)
    note(done, wanted[1], error="RuntimeError: of before")
    asked: list[str] = []

    def start(place: Place, done: Path, group: str, names: Sequence[str], seconds: float) -> int:
        asked.extend(names)
        for cell in cells(*names):
            note(done, cell, figures={"shape": "this"})
        return 0

    place = place_in(tmp_path)
    gpu.measure(place, done, wanted, 60, start)
    assert not asked
    assert "- group norm: RuntimeError: of before" in report(done, wanted)
    gpu.measure(place, done, wanted, 60, start, again=True)
    assert asked == ["group norm"]
    text = report(done, wanted)
    assert "another" in text
    assert "of before" not in text


def test_a_cell_that_ends_its_process_is_told_and_the_next_ones_run(tmp_path: Path):
    # mutations: the broken cell begun again and again; all of its group left out -> red each.
    done, wanted = tmp_path / "done.jsonl", cells("pose float32")
    assert len(wanted) == 3

    def start(place: Place, done: Path, group: str, names: Sequence[str], seconds: float) -> int:
        for cell in cells(*names):
            note(done, cell, begun=True)
            if cell == wanted[1]:
                return -9
            note(done, cell, figures={"persons/s": 1.0})
        return 0

    gpu.measure(place_in(tmp_path), done, wanted, 60, start)
    found = read_done(done)[0]
    assert ["figures" in found[cell.name] for cell in wanted] == [True, False, True]
    assert f"- {wanted[1].name}: its process ended with -9" in report(done, wanted)


def test_a_cell_that_fails_is_told_with_its_error_and_the_next_ones_of_its_group_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    # mutation: the error of a cell not caught -> red.
    def opened(place: Place) -> Callable[[Cell], Figures]:
        return measure

    def measure(cell: Cell) -> Figures:
        if cell == wanted[1]:
            raise RuntimeError("no kernel for this type\nand a long trace")
        return {"persons/s": 1.0}

    monkeypatch.setattr(gpu_cells, "GROUPS", {"pose": opened})
    done, wanted = tmp_path / "done.jsonl", cells("pose float32")
    gpu.measure(place_in(tmp_path), done, wanted, 60, here)
    found = read_done(done)[0]
    assert ["figures" in found[cell.name] for cell in wanted] == [True, False, True]
    assert f"failed:\n- {wanted[1].name}: RuntimeError: no kernel for this type\n" in report(done, wanted)


def test_when_the_time_is_over_the_rest_is_named_and_left_for_the_next_call(tmp_path: Path):
    done, wanted = tmp_path / "done.jsonl", cells("pose float32")

    def start(place: Place, done: Path, group: str, names: Sequence[str], seconds: float) -> int:
        note(done, wanted[0], begun=True)
        return gpu.TIMED_OUT

    started = time.monotonic()
    gpu.measure(place_in(tmp_path), done, wanted, 60, start)
    assert time.monotonic() - started < 60
    assert "\n".join(["no time for:", *(f"- {cell.name}" for cell in wanted)]) in report(done, wanted)


def test_a_cell_that_cannot_be_measured_here_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def absent(place: Place) -> None:
        raise gpu_cells.LeftOutError("MMPose's wheels are not here")

    monkeypatch.setattr(gpu_cells, "GROUPS", {"pose": absent})
    done, wanted = tmp_path / "done.jsonl", cells("pose float32 batch 32")
    gpu.measure(place_in(tmp_path), done, wanted, 60, here)
    assert f"not measured here:\n- {wanted[0].name}: MMPose's wheels are not here" in report(done, wanted)
