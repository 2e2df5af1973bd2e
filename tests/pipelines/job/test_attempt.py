"""Contract: of several attempts at a shard the newest commits, and no other one writes a byte of it; an attempt whose
driver is gone commits nothing; no attempt writes into a file that another one has made.

The attempts are the production writer's, in threads of this process, where each has locks of its own as processes do.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Generator, Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest

from lposekit.errors import LposekitError
from lposekit.recipe import Claim, ShardReport
from lposekit.shards.layout import DatasetLayout, sha256_file
from lposekit.shards.rows import RowResult
from lposekit.shards.verify import verify_dataset
from lposekit.shards.writer import ShardWriter
from lposekit.stage_times import StageTimes
from pipelines.image.worker import IMAGE_SHARDS
from pipelines.job import lock
from pipelines.job.attempt import begin_attempt
from pipelines.job.lock import StaleRun, beat, owned_folder
from pipelines.job.shard import write_shard
from tests.support.dataset_folder import make_dataset, make_results

pytestmark = pytest.mark.timeout(180)


@pytest.fixture
def layout(tmp_path: Path) -> DatasetLayout:
    return make_dataset(tmp_path / "d", 1)


def _write(layout: DatasetLayout, run_id: str, rows: Iterator[RowResult]) -> ShardReport:
    def generator() -> Generator[RowResult, None, None]:
        yield from rows

    return write_shard(Claim(layout.root, run_id), 1, generator(), IMAGE_SHARDS, StageTimes())


def _partials(layout: DatasetLayout) -> list[str]:
    """Of shards: that of an activity, which a thread of its own writes, may be there for a moment."""
    return [path.name for path in layout.root.rglob("*.partial") if not path.name.startswith("activity-")]


@pytest.mark.case(80)
def test_an_attempt_that_was_given_up_for_dead_writes_nothing_after_another_one_has_committed(
    layout: DatasetLayout,
) -> None:
    # Mutations tried: partial names of the run alone -> the older attempt finds its file there; no look at the newest
    # attempt in `committing` -> the shard of the older attempt replaces that of the newer one.
    rows, names = make_results(1, 8), []
    with owned_folder(layout) as run_id:

        def slow() -> Iterator[RowResult]:
            yield from rows[:6]
            names.extend(_partials(layout))
            newer = threading.Thread(target=_write, args=(layout, run_id, iter(rows)))
            newer.start()
            newer.join()
            committed.update({path: sha256_file(path) for path in layout.root.glob("00001*")})
            yield from rows[6:7]  # it has fewer rows: its bytes would be others

        committed: dict[Path, str] = {}
        with pytest.raises(StaleRun, match=r"shard 00001: attempt .* has taken over"):
            _write(layout, run_id, slow())
        assert [name for name in names if name.startswith(f"00001.tar.{run_id}-")] == names
        assert len(committed) == 3 + len(names)
        assert _partials(layout) == []
    done = {path: digest for path, digest in committed.items() if path.exists()}
    assert {path: sha256_file(path) for path in done} == done
    assert layout.read_stats(1).count == 8
    assert verify_dataset(layout.root) == [], "every file is of the one attempt that committed"


@pytest.mark.case(80)
def test_a_commit_that_is_under_way_is_waited_for_and_its_lost_report_is_read_from_the_shard(
    layout: DatasetLayout, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Mutation tried: no lock of the shard around the commit -> the second attempt writes the shard once more.
    commit, in_commit, go_on = ShardWriter.commit, threading.Event(), threading.Event()

    def slow_commit(self: ShardWriter, *arguments: object) -> object:
        in_commit.set()
        go_on.wait(30)
        return commit(self, *arguments)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(ShardWriter, "commit", slow_commit)
    reports: list[ShardReport] = []
    drawn: list[int] = []

    def counted() -> Iterator[RowResult]:
        for number, row in enumerate(make_results(1, 8)):
            drawn.append(number)
            yield row

    with owned_folder(layout) as run_id:
        first = threading.Thread(target=lambda: reports.append(_write(layout, run_id, counted())))
        first.start()
        assert in_commit.wait(30)
        second = threading.Thread(target=lambda: reports.append(_write(layout, run_id, counted())))
        second.start()
        second.join(0.3)
        assert second.is_alive(), "it waits for the commit"
        go_on.set()
        first.join()
        second.join()
    assert drawn == list(range(8)), "nothing was built twice"
    assert [(report.num_rows, report.num_samples, report.outcomes) for report in reports] == [
        (8, 4, {"few_keypoints": 2, "http_4xx": 2, "kept": 4})
    ] * 2


@pytest.mark.case(94)
def test_a_worker_whose_driver_is_gone_commits_nothing(layout: DatasetLayout) -> None:
    # Mutation tried: no look at the driver in `committing` -> the shard is committed.
    with contextlib.ExitStack() as driver:
        run_id = driver.enter_context(owned_folder(layout))

        def orphaned() -> Iterator[RowResult]:
            yield from make_results(1, 4)
            driver.close()
            yield from make_results(1, 8)[4:]

        with pytest.raises(StaleRun, match=rf"the driver of run {run_id} is gone|attempt  has taken over"):
            _write(layout, run_id, orphaned())
    assert layout.committed_shards() == [0]
    assert _partials(layout) == []


@pytest.mark.case(94)
def test_a_driver_that_was_killed_is_gone_for_its_workers_though_its_files_are_there(layout: DatasetLayout) -> None:
    # Mutation tried: as above.
    lock = owned_folder(layout)
    run_id = lock.__enter__()
    attempt = begin_attempt(layout, run_id, 1)
    with attempt.committing():
        pass
    work = {path: path.read_bytes() for path in layout.work.rglob("attempt-*")}
    lock.__exit__(None, None, None)
    for path, data in work.items():  # a kill leaves them
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data.split()[0])
    with pytest.raises(StaleRun, match=f"the driver of run {run_id} is gone"), attempt.committing():
        pass


@pytest.mark.case(94)
@pytest.mark.parametrize("beats", [True, False])
def test_where_locks_do_not_reach_another_machine_the_beat_tells_whether_the_driver_lives(
    layout: DatasetLayout, monkeypatch: pytest.MonkeyPatch, beats: bool
) -> None:
    # Mutations tried: the lock alone looked at -> red with beats; any other machine believed -> red without.
    monkeypatch.setattr(lock, "BEAT_S", 0.2)
    monkeypatch.setattr(lock, "BEAT_WAIT_S", 1.0)
    with owned_folder(layout) as run_id:
        attempt = begin_attempt(layout, run_id, 1)
        monkeypatch.setattr("socket.gethostname", lambda: "another machine")
        monkeypatch.setattr(lock.fcntl, "flock", lambda descriptor, how: None)
        done = threading.Event()

        def live() -> None:
            while not done.wait(0.1):
                beat(layout, run_id)

        thread = threading.Thread(target=live)
        if beats:
            thread.start()
        try:
            with nullcontext() if beats else pytest.raises(StaleRun, match="is gone"), attempt.committing():
                pass
        finally:
            done.set()
            if beats:
                thread.join()


@pytest.mark.case(80)
def test_no_attempt_writes_into_a_file_that_is_there(layout: DatasetLayout) -> None:
    # Mutation tried: the partial tar opened with "wb" -> no error.
    (layout.root / "00001.tar.other.partial").write_bytes(b"of somebody else")
    writer = ShardWriter(layout, 1, "other")
    with pytest.raises(LposekitError, match="File exists"):
        writer.add("000010000", {"txt": b"a"})
    assert (layout.root / "00001.tar.other.partial").read_bytes() == b"of somebody else"
