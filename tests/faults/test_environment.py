"""Contract: a build works with the C locale, a strict umask, another time zone, a clock that jumps, and a folder whose
name has spaces and quotes, to the same bytes; captions of every kind survive it. Too small a limit of open files is
told as such.
"""

from __future__ import annotations

import errno
import itertools
import os
import subprocess
import time
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

import lposekit
from lposekit.errors import LposekitError
from lposekit.shards.layout import DatasetLayout
from lposekit.shards.verify import verify_dataset
from pipelines.job import lock
from pipelines.recipes import build_images as run
from tests.support.build_process import Build, content_digest
from tests.support.execute_here import execute_here
from tests.support.fixtures import REPOSITORY
from tests.support.stub_build import served, stub_pages, stub_settings, write_rows


@pytest.mark.more
@pytest.mark.timeout(400)
@pytest.mark.case(54)
def test_locale_umask_and_odd_paths_change_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "a b'c\"d \u00e4"
    folder.mkdir()
    old = os.umask(0o077)
    try:
        with served(stub_pages(8), tmp_path) as (_, path):
            run(stub_settings(path, tmp_path / "plain"), execute=execute_here)
            listed = write_rows(folder / "the list.jsonl", [])
            listed.write_bytes(path.read_bytes())
            build = Build(
                listed,
                folder / "out put",
                rows_per_shard=4,
                extra=("--pose.batch-size", "4"),
                environment={"LANG": "C", "LC_ALL": "C", "TZ": "Pacific/Kiritimati"},
            )
            assert build.finish() == 0, build.log_path.read_text()
    finally:
        os.umask(old)
    assert verify_dataset(build.output) == []
    assert len(lposekit.open_dataset(build.output)) == 8
    assert content_digest(build.layout) == content_digest(DatasetLayout(tmp_path / "plain"))


@pytest.mark.case(20)
def test_captions_of_every_kind_come_back_as_they_are(tmp_path: Path) -> None:
    captions = [
        "",
        "line\nbreak",
        "\u05e9\u05dc\u05d5\u05dd \u202e rtl",
        "\U0001f3c3 runs",
        "nul\x00here",
        "x" * 200_000,
    ]
    with served(stub_pages(len(captions)), tmp_path, caption=captions) as (_, path):
        run(stub_settings(path, tmp_path / "d"), execute=execute_here)
    dataset = lposekit.open_dataset(tmp_path / "d")
    stored = [sample.caption for sample in dataset]
    assert stored[:4] == captions[:4]
    assert "\x00" not in stored[4]
    assert len(stored[5]) == 10_000
    assert [sample.metadata["caption"] for sample in dataset] == stored == dataset.rows()["caption"].to_pylist()


@pytest.mark.case(85)
def test_a_clock_that_jumps_changes_no_byte_and_no_duration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Mutation tried: the duration of a shard from two looks at the clock -> a day, or less than nothing.
    with served(stub_pages(8), tmp_path) as (_, path):
        run(stub_settings(path, tmp_path / "steady"), execute=execute_here)
        now, jumps = time.time, itertools.cycle([-3600.0, 86400.0, 0.0])
        monkeypatch.setattr(time, "time", lambda: now() + next(jumps))
        report = run(stub_settings(path, tmp_path / "jumping"), execute=execute_here)
        monkeypatch.undo()
    assert (report.exit_code, report.outcomes) == (0, {"kept": 8})
    assert 0 <= report.seconds < 3600
    layouts = [DatasetLayout(tmp_path / name) for name in ("steady", "jumping")]
    assert content_digest(layouts[0]) == content_digest(layouts[1])
    assert verify_dataset(tmp_path / "jumping") == []
    for shard in layouts[1].committed_shards():
        stats = layouts[1].read_stats(shard)
        assert stats.duration is not None
        assert 0 <= stats.duration < 3600


@pytest.mark.case(83)
@pytest.mark.parametrize(("limit", "code"), [("-n 64", 2), ("-Sn 64", 0)])
def test_too_few_open_files_are_told_with_the_number_that_is_wanted_or_raised_where_that_is_permitted(
    tmp_path: Path, limit: str, code: int
) -> None:
    # Mutation tried: `build` without `allow_open_files` -> exit code 0 with 64 files, and errors of anything later.
    with served(stub_pages(1), tmp_path) as (_, path):
        command = Build(path, tmp_path / "d", extra=("--dry-run",)).command()
        done = subprocess.run(
            ["bash", "-c", f'ulimit {limit}; exec "$@"', "-", *command],
            capture_output=True,
            text=True,
            check=False,
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        )
    assert done.returncode == code, done.stderr
    told = "a process may have 64 files open, and a build needs 1024"
    assert (told in done.stderr, "`ulimit -n 1024`" in done.stderr) == (code == 2, code == 2)


@pytest.mark.case(83)
def test_a_folder_whose_owner_cannot_be_read_is_not_said_to_belong_to_another_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Mutation tried: every OSError taken for a missing owner -> "belongs to run None now".
    def out_of_files(*_: object) -> bytes:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    (tmp_path / "_dataset").mkdir()
    monkeypatch.setattr(lock, "read_whole", out_of_files)
    with pytest.raises(LposekitError, match=r"run_id: a process may have .* files open"), _writing(tmp_path):
        pass


def _writing(folder: Path) -> AbstractContextManager[None]:
    return lock.writer_lock(DatasetLayout(folder), "run")
