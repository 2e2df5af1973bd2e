"""Contract: nothing below a dataset or run folder is read or written through a link; `verify` and whoever would write
name the links, and what they lead to stays as it is. Commands wait for no pipe."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

import lposekit
from lposekit.cli import main
from lposekit.errors import LposekitError, UsageError
from lposekit.settings import flatten_settings
from lposekit.shards.card import read_card, write_card
from lposekit.shards.dataset import read_members
from lposekit.shards.files import write_bytes
from lposekit.shards.layout import DatasetLayout
from lposekit.shards.verify import verify_dataset
from lposekit.shards.whole_index import read_index
from pipelines.image.refilter import run as refilter
from pipelines.image.stored import NEEDS_PIXELS, RetryPlan, load_retry
from pipelines.job.progress import BuildProgress
from pipelines.recipes import retry
from tests.support.dataset_folder import make_dataset
from tests.support.execute_here import execute_here
from tests.support.stub_build import stub_settings

SECRET = "not to be read, and not to be written over"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    layout = make_dataset(tmp_path_factory.mktemp("made") / "d", num_shards=1)
    settings = flatten_settings(stub_settings(layout.root / "list.jsonl", layout.root))
    write_card(layout, replace(read_card(layout), settings=settings))
    return layout.root


@pytest.fixture
def layout(made: Path, tmp_path: Path) -> DatasetLayout:
    shutil.copytree(made, tmp_path / "d")
    (tmp_path / "secret").write_text(SECRET)
    return DatasetLayout(tmp_path / "d")


def _link(layout: DatasetLayout, name: str) -> None:
    (layout.root / name).unlink(missing_ok=True)
    (layout.root / name).symlink_to(layout.root.parent / "secret")


WRITTEN = ["driver.lock", "writers.lock", "log.jsonl", "run_id", "run_id.partial", "dataset.json.partial"]


# Mutations tried: `refuse_links` without its raise; `walk` that does not enter folders -> red each.
@pytest.mark.case(71)
@pytest.mark.parametrize("name", [f"_dataset/{name}" for name in WRITTEN] + ["00009.tar", "_dataset/index/x"])
def test_no_command_writes_into_a_folder_with_a_link(layout: DatasetLayout, name: str) -> None:
    assert retry(layout.root, ["dns"], execute=execute_here).exit_code == 0  # no row has it, and all else is done
    _link(layout, name)
    before = sorted(path.name for path in layout.root.rglob("*"))
    with pytest.raises(UsageError, match=name):
        retry(layout.root, ["dns"], execute=execute_here)
    assert (layout.root.parent / "secret").read_text() == SECRET
    assert sorted(path.name for path in layout.root.rglob("*")) == before


@pytest.mark.case(71)
@pytest.mark.parametrize("folder", ["_dataset", "_dataset/index", "_dataset/report", "_dataset/work"])
def test_no_command_writes_into_a_folder_that_a_link_leads_to(
    layout: DatasetLayout, tmp_path: Path, capfd: pytest.CaptureFixture[str], folder: str
) -> None:
    # Mutation tried: `page_path` without its look at the folder (view of `_dataset/report`) -> red.
    (tmp_path / "elsewhere").mkdir()
    shutil.rmtree(layout.root / folder, ignore_errors=True)
    (layout.root / folder).symlink_to(tmp_path / "elsewhere")
    assert main(["view", str(layout.root)]) == (0 if folder == "_dataset/work" else 1)
    with pytest.raises(LposekitError, match=folder):
        refilter(DatasetLayout(make_dataset(tmp_path / "other", 1).root).root, layout.root, {})
    assert list((tmp_path / "elsewhere").iterdir()) == []
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.case(71)
@pytest.mark.parametrize("make", [Path.symlink_to, lambda path, _: os.mkfifo(path)])
def test_a_log_is_never_a_link_or_a_pipe(tmp_path: Path, make: Callable[[Path, Path], None]) -> None:
    # Mutations tried: `open_own` without O_NOFOLLOW; without O_NONBLOCK (the pipe waits) -> red.
    (tmp_path / "secret").write_text(SECRET)
    make(tmp_path / "log.jsonl", tmp_path / "secret")
    with pytest.raises(OSError, match=r"log\.jsonl"):
        BuildProgress(tmp_path / "log.jsonl", 1, {}).ready()
    assert (tmp_path / "secret").read_text() == SECRET


@pytest.mark.case(71)
def test_a_file_is_replaced_and_what_links_beside_it_lead_to_is_not(tmp_path: Path) -> None:
    # Mutation tried: without the removal of a partial file of before; partial opened with "wb" -> red.
    (tmp_path / "secret").write_text(SECRET)
    for name in ("page.html", "page.html.partial"):
        (tmp_path / name).symlink_to(tmp_path / "secret")
    write_bytes(tmp_path / "page.html", b"new")
    assert (tmp_path / "page.html").read_bytes() == b"new"
    assert not (tmp_path / "page.html").is_symlink()
    assert (tmp_path / "secret").read_text() == SECRET


FILES = [
    "00000.tar",
    "00000.parquet",
    "00000_stats.json",
    "_dataset/dataset.json",
    "_dataset/index/00000.parquet",
    "_dataset/thumbnails/00000.parquet",
]


def _linked(path: Path) -> None:
    aside = path.rename(path.parents[3 if "index" in path.parts or "thumbnails" in path.parts else 2] / "aside")
    path.symlink_to(aside)


def _piped(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _endless(path: Path) -> None:
    path.unlink()
    path.symlink_to("/dev/zero")


# Mutations tried: `verify` without the finding of links; `_verify_files` that reads by path; `read_members`
# and `read_table` through pathlib -> red each (pipes by the time limit).
@pytest.mark.case(71, 73)
@pytest.mark.parametrize("make", [_linked, _piped, _endless])
@pytest.mark.parametrize("name", FILES)
@pytest.mark.timeout(180)
def test_what_is_no_file_of_the_folder_is_named_and_not_read(
    layout: DatasetLayout, capfd: pytest.CaptureFixture[str], name: str, make: Callable[[Path], None]
) -> None:
    path = layout.root / name
    make(path)
    assert main(["verify", str(layout.root)]) == 1
    told = capfd.readouterr()
    assert name in told.out + told.err
    assert ("no regular file" if make is _piped else "a link") in told.out + told.err
    assert main(["view", str(layout.root)]) == 1
    assert main(["refilter", str(layout.root), "--output", f"{layout.root}-new"]) in (1, 2)
    said = capfd.readouterr().err
    assert "unexpected" not in said
    assert "Traceback" not in said


@pytest.mark.case(71, 73)
def test_a_link_that_no_marker_speaks_of_is_a_finding(layout: DatasetLayout) -> None:
    _link(layout, "_dataset/report-of-others")
    (found,) = verify_dataset(layout.root)
    assert str(found).startswith("_dataset/report-of-others: a link")


@pytest.mark.case(71)
def test_a_tar_that_becomes_a_link_is_refused_by_samples_too(layout: DatasetLayout) -> None:
    dataset = lposekit.open_dataset(layout.root)
    _linked(layout.tar(0))
    with pytest.raises(LposekitError, match=r"sample 000000000 cannot be read \(00000\.tar: a link"):
        _ = dataset[0]
    with pytest.raises(LposekitError, match="a link"):
        read_members(read_index(layout.root)[0], 0)


@pytest.mark.case(73, 74)
@pytest.mark.parametrize("name", ["/etc/hostname", "../secret", "_dataset/../../secret"])
def test_a_marker_that_names_a_file_elsewhere_is_a_finding(layout: DatasetLayout, name: str) -> None:
    # Mutation tried: `_files` of the marker without its check -> the other check, of the store, says so.
    stats = json.loads(layout.stats(0).read_text())
    stats["files"][name] = {"bytes": len(SECRET), "sha256": "0" * 64}
    layout.stats(0).write_text(json.dumps(stats))
    (found,) = [str(each) for each in verify_dataset(layout.root)]
    assert "lies outside the dataset folder" in found


@pytest.mark.case(73)
@pytest.mark.parametrize("text", ["[]", "[" * 100_000, '{"kind": ' * 100_000, "null", '"image"', "{"])
@pytest.mark.parametrize("name", ["_dataset/dataset.json", "00000_stats.json"])
def test_json_that_is_no_object_or_too_deep_is_told_without_a_traceback(
    layout: DatasetLayout, capfd: pytest.CaptureFixture[str], name: str, text: str
) -> None:
    (layout.root / name).write_text(text)
    assert main(["verify", str(layout.root)]) == 1
    told = capfd.readouterr()
    assert name in told.out + told.err
    assert "unexpected" not in told.err


@pytest.mark.case(73)
@pytest.mark.parametrize("name", ["x_stats.json.r.replaced", "00000_stats.json.a_stats.json.b.replaced"])
def test_names_like_those_of_a_killed_run_end_no_command(layout: DatasetLayout, name: str) -> None:
    # Mutation tried: names taken apart unseen -> red (ValueError).
    (layout.root / name).write_text("{}")
    assert retry(layout.root, ["dns"], execute=execute_here).exit_code == 0
    assert name in str(verify_dataset(layout.root))


@pytest.mark.case(71)
def test_the_list_of_rows_that_need_pixels_is_no_link(layout: DatasetLayout) -> None:
    _link(layout, f"_dataset/{NEEDS_PIXELS}")
    with pytest.raises(LposekitError, match="a link"):
        load_retry(layout, RetryPlan(0, frozenset()))
