"""Contract: the path of a record names files that exist, in the order in which a record passes them; links
lead somewhere; pins are complete.
"""

from __future__ import annotations

import ast
import re

import pytest

from tests.support.fixtures import REPOSITORY


def _path_of_a_record() -> list[str]:
    page = (REPOSITORY / "CONTRIBUTING.md").read_text(encoding="utf-8")
    table = page.split("## The path of one record")[1].split("\n\n")[2]
    return re.findall(r"`([\w/]+\.py)`", table)


def test_the_path_of_a_record_has_at_most_twelve_files_that_exist() -> None:
    # Mutation tried: a row with a wrong file name -> red.
    files = _path_of_a_record()
    assert 9 <= len(files) <= 12
    assert [name for name in files if not (REPOSITORY / name).is_file()] == []


STAGES_OF_AN_IMAGE = [
    ("pipelines/image/download.py", "stages.download"),
    ("pipelines/image/pose_batches.py", "with_poses"),
    ("pipelines/image/rows.py", "_stored"),
]
"""Files of the table, and what `image_rows` calls for each."""


def test_a_record_goes_through_the_files_of_the_table_in_their_order() -> None:
    # Mutation tried: poses asked for after the rows are encoded, in `image_rows` -> red; two rows of the table
    # exchanged -> red.
    page = ast.parse((REPOSITORY / "pipelines/image/shard.py").read_text(encoding="utf-8"))
    [rows] = [node for node in page.body if isinstance(node, ast.FunctionDef) and node.name == "image_rows"]
    calls = {
        ast.unparse(node.func): (node.lineno, node.col_offset) for node in ast.walk(rows) if isinstance(node, ast.Call)
    }
    places = [calls[called] for _, called in STAGES_OF_AN_IMAGE]
    assert places == sorted(places)
    files = _path_of_a_record()
    positions = [files.index(name) for name, _ in STAGES_OF_AN_IMAGE]
    assert positions == sorted(positions)
    assert files.index("pipelines/image/shard.py") < positions[0]
    assert files.index("pipelines/job/shard.py") > positions[-1]
    assert (rows.end_lineno or 0) - rows.lineno < 50, "the path of a record is no page any more"


CALLS_IN_ORDER = [
    ("pipelines/build.py", "build", ["recipe.preflight", "owned_folder", "recipe.plans", "claim_folder", "_run"]),
    ("pipelines/build.py", "_run", ["execute", "update_card", "write_report", "BuildReport"]),
    ("pipelines/image/worker.py", "ImageWorker.build", ["image_rows", "write_shard"]),
    ("pipelines/image/rows.py", "posed_row", ["keep_verdict", "person_record", "encode_jpeg", "pose_json"]),
    ("pipelines/job/shard.py", "write_shard", ["writer_lock", "_write_row", "rows_table", "ShardReport"]),
    ("trainer/train.py", "train", ["loader.batches", "train_module.step", "writer.save"]),
]


@pytest.mark.parametrize(("page", "function", "calls"), CALLS_IN_ORDER)
def test_the_pages_around_the_stages_call_them_in_order(page: str, function: str, calls: list[str]) -> None:
    # Mutation tried: `claim_folder` before `recipe.plans` in `build` -> red.
    lines = _first_calls(page, function)
    assert [name for name in calls if name not in lines] == []
    assert [lines[name] for name in calls] == sorted(lines[name] for name in calls)


def _first_calls(page: str, function: str) -> dict[str, tuple[int, int]]:
    """Where a function first calls what, by the name that it writes."""
    body: list[ast.stmt] = ast.parse((REPOSITORY / page).read_text(encoding="utf-8")).body
    for part in function.split("."):
        [found] = [node for node in body if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == part]
        body = found.body
    calls = sorted(
        ((node.lineno, node.col_offset), ast.unparse(node.func))
        for statement in body
        for node in ast.walk(statement)
        if isinstance(node, ast.Call)
    )
    return {name: place for place, name in reversed(calls)}


def test_every_relative_link_of_the_pages_leads_somewhere() -> None:
    broken = []
    for page in [*REPOSITORY.glob("*.md"), *(REPOSITORY / "docs").rglob("*.md")]:
        for link in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")):
            if not (page.parent / link).exists():
                broken.append(f"{page.relative_to(REPOSITORY)}: {link}")
    assert broken == []


def test_the_pins_are_what_the_makefile_installs_and_name_every_package_once() -> None:
    lines = (REPOSITORY / "lposekit" / "pins.txt").read_text(encoding="utf-8").splitlines()
    names = [line.partition("==")[0].lower() for line in lines if line and not line.startswith("#")]
    assert len(names) == len(set(names))
    assert {"torch", "mmpose", "mmdet", "mmcv-lite", "ray", "img2dataset"} <= set(names)
    assert not {"torchvision", "chumpy", "xtcocotools", "opencv-python"} & set(names)
