"""Contract: whoever of a video build is killed or interrupted at whatever moment, a reader never sees part of a shard;
the same command, run again, ends with the bytes of an undisturbed run, and both accounts close. A decoder killed from
outside costs nothing: a fresh one builds its video.

Kills are real SIGKILLs, Ctrl-C a real SIGINT to the whole process group. A moment is told by what is on the disk:
commit markers, partial tars, and the clips of the video at hand.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest

from lposekit.errors import UsageError
from lposekit.shards.dataset import PoseSample, open_dataset
from lposekit.shards.verify import verify_dataset
from tests.support.build_process import (
    VideoBuild,
    actor_processes,
    assert_readers_see_whole_shards_only,
    content_digest,
    decoder_processes,
    kill_group,
    wait_for_random_progress,
    wait_until,
)
from tests.support.videos import moving, write_video

NUM_VIDEOS, VIDEOS_PER_SHARD = 10, 2
LONG_VIDEO = 2
"""The first video of shard 1: seconds of work, 14 clips. The others have one clip or two, and one in three a cut."""
POINTS = ["shard:before_commit", "shard:between_tar_and_parquet", "shard:before_stats"]
VICTIMS = ["driver", "worker", "decoder"]
MOMENTS = 20

pytestmark = pytest.mark.timeout(480)


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    for number in range(NUM_VIDEOS):
        cut = 28 if number % 3 == 0 else 10_000
        frames = 700 if number == LONG_VIDEO else 60
        images = (moving(frame, number + frame // cut, (240, 180)) for frame in range(frames))
        write_video(folder / f"{number}.mp4", images, gop=250)
        (folder / f"{number}.txt").write_text(f"video {number}")
    return folder


@pytest.fixture(scope="module")
def undisturbed(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """sha256 of every file of an undisturbed run, which was made without Ray."""
    build = _build(videos, tmp_path_factory.mktemp("undisturbed") / "d")
    report = build.finish_here()
    assert report.outcomes == {"kept": NUM_VIDEOS}
    assert verify_dataset(build.output) == []
    return content_digest(build.layout)


def _build(videos: Path, output: Path, workers: int = 1, **environment: str) -> VideoBuild:
    return VideoBuild(
        videos,
        output,
        workers=workers,
        rows_per_shard=VIDEOS_PER_SHARD,
        extra=("--encode.preset", "ultrafast", "--clips.length-s", "2"),
        environment=environment,
    )


def _assert_clip_is_there(sample: PoseSample) -> None:
    assert sample.members["mp4"][4:8] == b"ftyp"
    assert sample.caption == f"video {int(sample.metadata['source'].rpartition('/')[2][:-4])}"


def _assert_whole(build: VideoBuild, undisturbed: dict[str, str]) -> None:
    """The folder is the undisturbed one, and nothing else lies in it; rows and windows add up (see `verify`)."""
    assert content_digest(build.layout) == undisturbed
    assert verify_dataset(build.output) == []
    assert not build.layout.work.exists()


def _wait_for_the_long_video(build: VideoBuild, process: subprocess.Popen[str]) -> None:
    """Its decoder is at work: two of its clips are written, and there are more to come."""
    wait_until(lambda: build.clips_in_work(LONG_VIDEO) >= 2 or process.poll() is not None, "the long video")
    assert process.poll() is None, build.log_path.read_text()


@pytest.mark.parametrize(
    "point",
    [pytest.param(point, marks=[pytest.mark.slow if point != POINTS[1] else pytest.mark.more]) for point in POINTS],
)
def test_a_driver_killed_with_its_workers_in_a_commit_is_resumed_to_the_same_bytes(
    videos: Path, undisturbed: dict[str, str], tmp_path: Path, point: str
) -> None:
    # Mutation tried: no `remove_partials` in `owned_folder` -> what the killed run left stays in the folder.
    marker = tmp_path / "killed"
    build = _build(videos, tmp_path / "d", workers=2, LPOSEKIT_FAULT=f"{point}@{marker}")
    with build.started() as process:
        wait_until(lambda: marker.exists() or process.poll() is not None, "the fault point")
        kill_group(process)
    assert marker.exists(), "the fault point was never reached"
    assert_readers_see_whole_shards_only(build.layout, _assert_clip_is_there)
    build.finish_here()
    _assert_whole(build, undisturbed)


@pytest.mark.case(94)
@pytest.mark.more  # `test_build_killed.py` kills the driver of an image build
def test_a_driver_killed_alone_after_a_shard_is_resumed_at_once_and_no_committed_shard_is_built_again(
    videos: Path, undisturbed: dict[str, str], tmp_path: Path
) -> None:
    # Mutation tried: `iter_plans` without `skip` -> shard 0 is built again.
    build = _build(videos, tmp_path / "d")
    with build.started() as process:
        _wait_for_the_long_video(build, process)
        os.kill(process.pid, signal.SIGKILL)  # its worker lives on for a while, in the middle of a shard
        process.wait(30)
        done = {shard: build.layout.tar(shard).stat().st_ino for shard in build.layout.committed_shards()}
        assert_readers_see_whole_shards_only(build.layout, _assert_clip_is_there)
        build.finish_here()
    assert list(done) == [0]
    assert {shard: build.layout.tar(shard).stat().st_ino for shard in done} == done
    _assert_whole(build, undisturbed)


@pytest.mark.more  # `test_build_killed.py` has the same of an image build
def test_a_worker_killed_while_a_video_is_decoded_is_replaced_and_the_run_ends_as_if_nothing_had_been(
    videos: Path, undisturbed: dict[str, str], tmp_path: Path
) -> None:
    # Mutation tried: one try for each shard in `ShardRunner` -> exit 3, shard 1 is missing.
    build = _build(videos, tmp_path / "d", workers=2)
    with build.started() as process:
        _wait_for_the_long_video(build, process)
        [decoding] = [worker for worker in actor_processes(process, "ShardWorker") if _is_at_the_long_video(worker.pid)]
        decoding.kill()
        assert_readers_see_whole_shards_only(build.layout, _assert_clip_is_there)
        assert process.wait(150) == 0, build.log_path.read_text()
    assert "the worker of shard 00001 died (try 1)" in build.log_path.read_text()
    _assert_whole(build, undisturbed)


def _is_at_the_long_video(pid: int) -> bool:
    """Whether a decoder below this process has the long video open."""
    name = f"{LONG_VIDEO}.mp4"
    return any(Path(file.path).name == name for child in decoder_processes(pid) for file in child.open_files())


@pytest.mark.case(94)
def test_a_decoder_killed_from_outside_costs_nothing_and_the_run_ends_with_the_same_bytes(
    videos: Path, undisturbed: dict[str, str], tmp_path: Path
) -> None:
    # Mutation tried: `build_in_child` without `again_if_killed` -> worker_crash.
    build = _build(videos, tmp_path / "d")

    def kill_decoder() -> None:
        wait_until(lambda: build.clips_in_work(LONG_VIDEO) >= 2, "the long video")
        for decoder in decoder_processes(os.getpid()):
            decoder.kill()

    killer = threading.Thread(target=kill_decoder)
    killer.start()
    report = build.finish_here()
    killer.join()
    assert (report.exit_code, report.outcomes) == (0, {"kept": NUM_VIDEOS})
    _assert_whole(build, undisturbed)


@pytest.mark.parametrize("times", [1, pytest.param(2, marks=pytest.mark.more)])
def test_ctrl_c_finishes_the_shard_in_work_and_a_second_one_drops_it(
    videos: Path, undisturbed: dict[str, str], tmp_path: Path, times: int
) -> None:
    # Mutation tried: a first SIGINT that drops, a second one that is ignored -> red with one, with two.
    build = _build(videos, tmp_path / "d")
    with build.started() as process:
        _wait_for_the_long_video(build, process)
        if times == 2:  # a fast machine would finish the video between the two
            _hold_the_decoders(process)
        for _ in range(times):
            os.killpg(process.pid, signal.SIGINT)
            time.sleep(0.3)
        assert process.wait(60) == 130, build.log_path.read_text()
    assert build.layout.committed_shards() == ([0, 1] if times == 1 else [0])
    assert ("dropped: the run was interrupted" in build.log_path.read_text()) == (times == 2)
    assert_readers_see_whole_shards_only(build.layout, _assert_clip_is_there)
    build.finish_here()
    _assert_whole(build, undisturbed)


def _hold_the_decoders(process: subprocess.Popen[str]) -> None:
    for decoder in decoder_processes(process.pid):
        decoder.suspend()


def test_a_second_driver_on_the_same_folder_is_refused(videos: Path, tmp_path: Path) -> None:
    # Mutation tried: `driver_lock` with LOCK_SH -> the second driver builds.
    build = _build(videos, tmp_path / "d")
    with build.started() as process:
        wait_until(build.layout.card.exists, "the first driver's card")
        with pytest.raises(UsageError, match=f"is being built by process {process.pid} "):
            build.finish_here()
    assert build.layout.committed_shards() == []


@pytest.mark.slow
@pytest.mark.parametrize("moment", range(MOMENTS))
def test_a_kill_at_a_random_moment_is_resumed_to_the_same_bytes(
    videos: Path, undisturbed: dict[str, str], tmp_path: Path, moment: int
) -> None:
    victim, rng = VICTIMS[moment % len(VICTIMS)], random.Random(f"video {moment}")
    build = _build(videos, tmp_path / "d", workers=2)
    with build.started() as process:
        wait_for_random_progress(build, process, rng, shards=NUM_VIDEOS // VIDEOS_PER_SHARD - 1, tar_bytes=40_000)
        time.sleep(rng.uniform(0, 0.3))
        victims = actor_processes(process, "ShardWorker") if victim == "worker" else decoder_processes(process.pid)
        if victim == "driver":
            kill_group(process)
        else:
            if victims:
                rng.choice(victims).kill()
            assert process.wait(200) == 0, build.log_path.read_text()
        assert_readers_see_whole_shards_only(build.layout, _assert_clip_is_there)
    assert build.finish(200) == 0, build.log_path.read_text()
    outcomes = [row["outcome"] for row in open_dataset(build.output).rows().to_pylist()]
    assert outcomes == ["kept"] * NUM_VIDEOS
    _assert_whole(build, undisturbed)
    if not victims:
        pytest.skip("the workers were gone at this moment: nothing was killed in its work")
