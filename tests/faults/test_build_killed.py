"""Contract: whoever is killed at whatever moment, a reader never sees part of a shard; the
same command, run again, ends with the bytes of an undisturbed run; shards that were committed are not fetched again.

The kills are real SIGKILLs. The list is served by this process, so its log shows what was fetched.
"""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from lposekit.shards.dataset import PoseSample
from lposekit.shards.verify import verify_dataset
from tests.support.bad_server import BadServer
from tests.support.build_process import (
    Build,
    actor_processes,
    assert_readers_see_whole_shards_only,
    content_digest,
    kill_group,
    wait_for_random_progress,
    wait_until,
)
from tests.support.fixtures import fixture_path
from tests.support.pages import Page
from tests.support.stub_images import stub_image

ROWS, ROWS_PER_SHARD = 40, 10
POINTS = ["shard:before_fsync", "shard:between_tar_and_parquet", "shard:before_stats"]


@pytest.fixture(scope="module")
def server() -> Iterator[BadServer]:
    pages = {f"/{row}.jpg": Page(stub_image(row, num_persons=row % 3)) for row in range(ROWS)}
    pages["/7.jpg"] = Page(b"gone", status=404)
    with BadServer(pages=pages) as running:
        yield running


@pytest.fixture(scope="module")
def list_path(server: BadServer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("list") / "list.jsonl"
    rows = ({"url": f"{server.url}/{row}.jpg", "caption": f"row {row}"} for row in range(ROWS))
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def undisturbed(list_path: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """sha256 of every file of an undisturbed run, which was made without Ray."""
    build = Build(list_path, tmp_path_factory.mktemp("undisturbed") / "d")
    assert build.finish_here().exit_code == 0
    assert verify_dataset(build.output) == []
    return content_digest(build.layout)


def _image_and_pose_are_there(sample: PoseSample) -> None:
    assert sample.rgb_HWC.size
    assert sample.persons


@pytest.mark.more  # `test_video_killed.py` kills a worker, `lposekit/shards/test_writer.py` a writer at each point
@pytest.mark.timeout(600)
@pytest.mark.parametrize("point", POINTS)
@pytest.mark.case(24)
def test_a_worker_killed_at_a_named_point_leaves_no_visible_shard_and_the_run_ends_as_if_nothing_had_been(
    point: str, list_path: Path, undisturbed: dict[str, str], tmp_path: Path
) -> None:
    # Mutation (tried on the writer, see test_writer): _stats.json before the tar -> a shard without its tar is visible.
    marker = tmp_path / "killed"
    build = Build(list_path, tmp_path / "d", environment={"LPOSEKIT_FAULT": f"{point}@{marker}"})
    with build.started() as process:
        wait_until(lambda: marker.exists() or process.poll() is not None, "the fault point")
        assert_readers_see_whole_shards_only(build.layout, _image_and_pose_are_there)
        assert process.wait(150) == 0, build.log_path.read_text()
    assert marker.exists(), "the fault point was never reached"
    assert content_digest(build.layout) == undisturbed


@pytest.mark.timeout(600)
@pytest.mark.parametrize("victim", ["driver", pytest.param("pose actor", marks=pytest.mark.more)])
@pytest.mark.case(27)
def test_a_kill_in_the_middle_is_resumed_to_the_same_bytes_and_nothing_committed_is_fetched_again(
    victim: str, server: BadServer, list_path: Path, undisturbed: dict[str, str], tmp_path: Path
) -> None:
    # Mutation (tried in test_laion_pose): iter_shards without `skip` -> committed rows are fetched again.
    build = Build(list_path, tmp_path / "d")
    _kill_after_commits(build, victim, commits=1)
    assert_readers_see_whole_shards_only(build.layout, _image_and_pose_are_there)
    done = build.layout.committed_shards()
    assert done
    before = len(server.hits)
    assert build.finish() == 0, build.log_path.read_text()
    fetched = {int(hit.path[1:-4]) for hit in server.hits[before:] if hit.path.endswith(".jpg")}
    assert not {row for row in fetched if row // ROWS_PER_SHARD in done}
    assert content_digest(build.layout) == undisturbed


def _kill_after_commits(build: Build, victim: str, commits: int) -> None:
    """Kill the driver's whole group, or one actor, once so many shards are committed."""
    with build.started() as process:
        wait_until(
            lambda: len(build.layout.committed_shards()) >= commits or process.poll() is not None, "commit markers"
        )
        if victim == "driver":
            kill_group(process)
            return
        for actor in actor_processes(process, "PoseActor" if victim == "pose actor" else "ShardWorker")[:1]:
            actor.kill()
        assert process.wait(150) == 0, build.log_path.read_text()


@pytest.mark.more  # `test_video_killed.py` has the same of a video build
@pytest.mark.timeout(400)
@pytest.mark.case(28)
def test_a_second_driver_on_the_same_folder_is_refused(list_path: Path, tmp_path: Path) -> None:
    # Mutation tried: driver_lock with LOCK_SH -> both run.
    build = Build(list_path, tmp_path / "d")
    with build.started() as process:
        wait_until(lambda: (build.output / "_dataset" / "dataset.json").exists(), "the first driver's card")
        second = Build(list_path, build.output, environment={"COLUMNS": "300"})
        assert second.finish() == 2
        assert f"is being built by process {process.pid}" in build.log_path.read_text()
        assert process.wait(150) == 0
    assert verify_dataset(build.output) == []


@pytest.mark.case(82, 95)
@pytest.mark.more  # `test_video_killed.py` has one Ctrl-C on a video build
@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    "signals", [[signal.SIGINT], [signal.SIGINT] * 2, [signal.SIGTERM] * 2], ids=["int", "int-int", "term-term"]
)
@pytest.mark.case(57)
def test_ctrl_c_and_sigterm_end_with_130_and_a_folder_that_resumes(
    signals: list[signal.Signals],
    list_path: Path,
    undisturbed: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Mutations: exit code 0 when stopped -> red; SIGTERM left to Ray -> its dump of the stack.
    monkeypatch.setattr("tests.support.build_process.IGNORED_SIGNALS", (signal.SIGINT,))  # as in a shell's background
    build = Build(list_path, tmp_path / "d")
    with build.started() as process:
        wait_until(lambda: bool(build.layout.committed_shards()), "the first commit")
        for number in signals:
            os.kill(process.pid, number)
            time.sleep(0.3)
        code = process.wait(60)
    assert code == 130 or (code == 0 and len(build.layout.committed_shards()) == 4), build.log_path.read_text()
    assert "***" not in build.log_path.read_text(), "a dump of a stack"
    assert "Traceback" not in build.log_path.read_text()
    assert build.finish_here().exit_code == 0
    assert content_digest(build.layout) == undisturbed


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["driver", "worker", "pose actor"])
@pytest.mark.parametrize("seed", range(20))
def test_a_kill_at_a_random_moment_is_resumed_to_the_same_bytes(
    victim: str, seed: int, list_path: Path, undisturbed: dict[str, str], tmp_path: Path
) -> None:
    rng = random.Random(f"{victim} {seed}")
    build = Build(list_path, tmp_path / "d")
    with build.started() as process:
        wait_for_random_progress(build, process, rng, shards=ROWS // ROWS_PER_SHARD, tar_bytes=60_000)
        if victim == "driver":
            kill_group(process)
        else:
            actors = actor_processes(process, "PoseActor" if victim == "pose actor" else "ShardWorker")
            if actors:
                rng.choice(actors).kill()
            assert process.wait(200) == 0, build.log_path.read_text()
        assert_readers_see_whole_shards_only(build.layout, _image_and_pose_are_there)
    assert build.finish(250) == 0, build.log_path.read_text()
    assert content_digest(build.layout) == undisturbed


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("victim", ["driver", "worker", "pose actor"])
def test_a_kill_with_the_real_models_is_resumed_to_the_same_bytes(victim: str, tmp_path: Path) -> None:
    photos = sorted(path for path in fixture_path("data/images").iterdir() if path.suffix in (".jpg", ".png"))[:30]
    models = ("--detector", "rtmdet-nano-rebuilt", "--pose-model", "tinypose")
    models += ("--weights-dir", str(fixture_path("weights")))
    with BadServer(pages={f"/{i}.jpg": Page(path.read_bytes()) for i, path in enumerate(photos)}) as server:
        rows = ({"url": f"{server.url}/{i}.jpg", "caption": ""} for i in range(len(photos)))
        list_path = tmp_path / "list.jsonl"
        list_path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        whole = Build(list_path, tmp_path / "whole", models)
        assert whole.finish(400) == 0, whole.log_path.read_text()
        build = Build(list_path, tmp_path / "d", models)
        _kill_after_commits(build, victim, commits=1)
        assert build.finish(400) == 0, build.log_path.read_text()
        assert content_digest(build.layout) == content_digest(whole.layout)


def test_the_outcomes_of_the_undisturbed_run_add_up(undisturbed: dict[str, str]) -> None:
    assert Counter(name.rpartition(".")[2] for name in undisturbed)["tar"] == ROWS // ROWS_PER_SHARD
