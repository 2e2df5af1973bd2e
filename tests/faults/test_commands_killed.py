"""Contract: a command that works on a finished dataset, killed at whatever moment, leaves what was there before or what
it was to write, and where a shard is half replaced a reader is told so; the same command, run again, ends with the
bytes of a run that nobody disturbed. `verify` writes nothing.

The kills are real SIGKILLs at named points, each in a process of its own.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import lposekit
from lposekit.errors import LposekitError
from lposekit.report.html import write_report
from lposekit.shards.layout import DatasetLayout, sha256_file
from lposekit.shards.verify import verify_dataset
from pipelines.image import refilter
from pipelines.recipes import build_images, retry
from tests.support.build_process import content_digest
from tests.support.children import children
from tests.support.execute_here import execute_here
from tests.support.pages import Page
from tests.support.stub_build import served, stub_pages, stub_settings
from tests.support.train_data import write_dataset

pytestmark = [pytest.mark.case(84), pytest.mark.timeout(360)]
BEFORE, HALF = "shard:before_fsync", "shard:between_tar_and_parquet"
more = pytest.mark.more
POINTS = [HALF, *(pytest.param(point, marks=more) for point in (BEFORE, "shard:before_stats"))]


@dataclass(frozen=True)
class Scene:
    """A finished folder with one row that its server failed at, and has now."""

    dataset: Path
    retried: dict[str, str]
    """sha256 of its files after a `retry` that nobody disturbed."""


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    folder = tmp_path_factory.mktemp("finished")
    pages = stub_pages(8, num_detected={1: 9})
    good, pages["/2.jpg"] = pages["/2.jpg"], Page(b"later", status=503)
    with served(pages, folder) as (server, path):
        build_images(stub_settings(path, folder / "d"), execute=execute_here)
        server.pages["/2.jpg"] = good
        shutil.copytree(folder / "d", folder / "undisturbed")
        _retry(folder / "undisturbed")
        yield Scene(folder / "d", content_digest(DatasetLayout(folder / "undisturbed")))


@pytest.fixture
def dataset(scene: Scene, tmp_path: Path) -> Path:
    return Path(shutil.copytree(scene.dataset, tmp_path / "d"))


def _retry(folder: Path) -> None:
    retry(folder, allow_private_addresses=True, execute=execute_here)


def _refilter(folder: Path, output: Path) -> None:
    refilter.run(folder, output, {"min_detected": 0.6})


def _cache(folder: Path) -> None:
    from tests.trainer.test_cache_latents import cache

    cache(folder)


def _call(function: Callable[..., object], arguments: tuple[Any, ...], fault: str) -> None:
    os.environ["LPOSEKIT_FAULT"] = fault
    function(*arguments)


def _killed_at(point: str, marker: Path, function: Callable[..., object], *arguments: Any) -> None:
    process = children().Process(target=_call, args=(function, arguments, f"{point}@{marker}"))
    process.start()
    process.join(120)
    assert process.exitcode == -9, "the point was never reached"


def _tree(folder: Path) -> dict[str, str]:
    return {path.relative_to(folder).as_posix(): sha256_file(path) for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    "point",
    [HALF, *(pytest.param(point, marks=more) for point in (BEFORE, "shard:marker_set_aside", "shard:before_stats"))],
)
def test_a_retry_killed_anywhere_leaves_the_old_rows_or_says_what_is_half_done_and_is_completed(
    scene: Scene, dataset: Path, tmp_path: Path, point: str
) -> None:
    # Mutation tried: `shards_to_read` that does not look for markers set aside -> a dataset without shard 0, silently.
    before = content_digest(DatasetLayout(dataset))
    _killed_at(point, tmp_path / "marker", _retry, dataset)
    if point == BEFORE:
        assert content_digest(DatasetLayout(dataset)) == before
        assert len(lposekit.open_dataset(dataset)) == 7
    else:
        with pytest.raises(LposekitError, match=r"shard 00000 is being replaced.*`lposekit retry"):
            lposekit.open_dataset(dataset)
    _retry(dataset)
    assert content_digest(DatasetLayout(dataset)) == scene.retried
    assert verify_dataset(dataset) == []
    assert len(lposekit.open_dataset(dataset)) == 8


@pytest.mark.parametrize(
    "point", [HALF, pytest.param(BEFORE, marks=more), pytest.param("shard:before_stats", marks=more)]
)
def test_a_refilter_killed_anywhere_leaves_its_source_alone_and_is_resumed(
    dataset: Path, tmp_path: Path, point: str
) -> None:
    # Mutation tried: `refilter` that does not clear up what a killed one left -> `verify` names it.
    source = _tree(dataset)
    _refilter(dataset, tmp_path / "undisturbed")
    _killed_at(point, tmp_path / "marker", _refilter, dataset, tmp_path / "new")
    with pytest.raises(LposekitError, match="no committed shard"):
        lposekit.open_dataset(tmp_path / "new")
    _refilter(dataset, tmp_path / "new")
    built, undisturbed = (content_digest(DatasetLayout(tmp_path / name)) for name in ("new", "undisturbed"))
    assert built == undisturbed
    assert verify_dataset(tmp_path / "new") == []
    assert _tree(dataset) == source


@pytest.mark.parametrize(
    "point", [HALF, pytest.param(BEFORE, marks=more), pytest.param("shard:before_stats", marks=more)]
)
def test_a_cache_of_latents_killed_anywhere_leaves_the_dataset_alone_and_is_completed(
    tmp_path: Path, point: str
) -> None:
    # Mutation tried: `cache-latents` without `remove_partials` -> what the killed one left stays in the folder.
    data = write_dataset(tmp_path / "data", [3, 2])
    shutil.copytree(data, tmp_path / "undisturbed")
    _cache(tmp_path / "undisturbed")
    before = _tree(data)
    _killed_at(point, tmp_path / "marker", _cache, data)
    assert {name: digest for name, digest in _tree(data).items() if "/latents/" not in name} == before
    _cache(data)
    [cache] = (data / "_dataset/latents").iterdir()
    layout = DatasetLayout(cache)
    assert layout.committed_shards() == [0, 1]
    for shard in layout.committed_shards():
        described = layout.read_stats(shard).files
        assert {name: sha256_file(cache / name) for name in described} == {n: f.sha256 for n, f in described.items()}
    tars = {name: digest for name, digest in _tree(data).items() if name.endswith(".tar")}
    undisturbed = {name: digest for name, digest in _tree(tmp_path / "undisturbed").items() if name.endswith(".tar")}
    assert tars == undisturbed
    assert not list(cache.rglob("*.partial"))


def test_a_view_killed_before_its_page_is_there_leaves_the_page_of_before(dataset: Path, tmp_path: Path) -> None:
    # Mutation tried: the page written in place -> it is cut short, or empty.
    page = dataset / "_dataset/report/index.html"
    page.write_text("the page of before")
    before = _tree(dataset)
    _killed_at("file:index.html", tmp_path / "marker", write_report, dataset)
    left = _tree(dataset)
    assert {name: left.get(name) for name in before} == before
    write_report(dataset)
    assert "the page of before" not in page.read_text()
    assert _tree(dataset).keys() == before.keys()


def test_verify_writes_nothing(dataset: Path) -> None:
    os.rename(dataset / "00000_stats.json", dataset / "00000_stats.json.gone")
    before, times = _tree(dataset), {path: path.stat().st_mtime_ns for path in dataset.rglob("*")}
    assert verify_dataset(dataset)
    assert _tree(dataset) == before
    assert {path: path.stat().st_mtime_ns for path in dataset.rglob("*")} == times
