"""Contract on damaged and hostile files: a typed outcome within the deadline, the child alive for the next file,
nothing lost from the account, and no frame silently repeated or replaced in what is kept.

Each file is built in the sandbox, as in a real run. Truncated and damaged files are cut from good ones at fixed places.
"""

from __future__ import annotations

import shutil
import struct
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from lposekit.errors import LposekitError, Outcome
from lposekit.sandbox.sandbox import Sandbox
from pipelines.video.clips.child import TARGET, build_in_child
from pipelines.video.clips.records import ClipRecord, VideoResult, VideoRow
from pipelines.video.clips.settings import (
    BuildClipsSettings,
    ClipSettings,
    EncodeSettings,
    ShotSettings,
)
from tests.support.videos import box_payload, moving, read_images, read_number, write_video

HOW = BuildClipsSettings(
    shots=ShotSettings(detector="none"),
    clips=ClipSettings(length_frames=24, min_length_frames=12),
    encode=EncodeSettings(preset="ultrafast"),
)
FRAMES = 120
MEMORY_BYTES = 2 * 2**30
pytestmark = pytest.mark.timeout(480)


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(TARGET, memory_limit_bytes=MEMORY_BYTES) as one:
        yield one


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """One video, its index behind, in front, and where a cut file has none and just ends; groups of 12, B-frames."""
    folder = tmp_path_factory.mktemp("good")
    files = {}
    for name, faststart in (("index_last", False), ("index_first", True)):
        images = (moving(number) for number in range(FRAMES))
        path = write_video(folder / f"{name}.mp4", images, faststart=faststart, preset="veryfast")
        files[name] = path.read_bytes()
    for name in ("no_index.mkv", "no_index.ts"):
        files[name] = write_video(folder / name, (moving(n) for n in range(FRAMES)), preset="veryfast").read_bytes()
    return files


def build(
    sandbox: Sandbox,
    folder: Path,
    data: bytes | bytearray,
    name: str = "a.mp4",
    how: BuildClipsSettings = HOW,
    heartbeat_timeout_s: float = 20,
) -> VideoResult:
    """Build the clips in the child, with its deadlines; checks the law of windows."""
    path = folder / name
    path.write_bytes(data)
    out = folder / "out"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    result = build_in_child(
        sandbox, path, VideoRow("a"), how, out, timeout_s=60, heartbeat_timeout_s=heartbeat_timeout_s
    )
    assert len(result.windows) == len(result.clips) + sum(result.dropped.values())
    assert len(list(out.iterdir())) == len(result.clips)
    return result


@pytest.fixture(scope="module")
def sound(sandbox: Sandbox, good: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory) -> dict[float, str]:
    """sha256 of each clip of the undamaged video, by its start. Their frames are the true ones."""
    folder = tmp_path_factory.mktemp("sound")
    result = build(sandbox, folder, good["index_last"])
    assert (result.outcome, len(result.clips), result.decoder) == (Outcome.KEPT, 5, "decord")
    assert not misnumbered_clips(result, folder)
    return {clip.start_s: clip.sha256 for clip in result.clips}


def altered_clips(result: VideoResult, sound: dict[float, str], folder: Path) -> set[float]:
    """Kept clips that differ in any pixel from the undamaged ones, or, where there is no such clip to compare with
    (what is left of a truncated video is shorter), show other frames than their record names."""
    whole = [clip for clip in result.clips if (clip.num_frames, clip.repeated_frames) == (24, 0)]
    changed = {clip.start_s for clip in whole if clip.sha256 != sound[clip.start_s]}
    return changed | misnumbered_clips(result, folder)


def misnumbered_clips(result: VideoResult, folder: Path) -> set[float]:
    """Clips, by their start, whose images are not the source frames that their record names."""
    return {
        clip.start_s
        for clip in result.clips
        if not shows_its_frames(clip, [read_number(shown) for shown in read_images(folder / "out" / clip.files[0])])
    }


def shows_its_frames(clip: ClipRecord, shown: Sequence[int]) -> bool:
    """Whether these numbers, drawn in a clip's images, are its source frames, every repeated one counted.

    Where a file just ends, images are lost that are shown before the last one and sent after it; the one before them
    is then held longer, and the last ones' numbers are not their places.
    """
    first, last = clip.source_frames
    if clip.repeated_frames == 0:
        return list(shown) == list(range(first, last + 1))
    distinct = sorted(set(shown))
    repeated = len(shown) - len(distinct)
    in_place = shown[0] == first and list(shown) == sorted(shown)
    return in_place and (repeated, len(distinct)) == (clip.repeated_frames, last + 1 - first)


# mutation tried: PyavReader's `_missing` yielding nothing and `covers` False keeps clips with concealed frames: red
# mutation tried: `_Draft.add` that counts no repeated frame makes both files without an index red
@pytest.mark.parametrize("places", [8, pytest.param(50, marks=pytest.mark.more)])
@pytest.mark.parametrize("index", ["index_last", "index_first", "no_index.mkv", "no_index.ts"])
@pytest.mark.case(36)
def test_truncated_anywhere(
    sandbox: Sandbox, tmp_path: Path, good: dict[str, bytes], sound: dict[float, str], index: str, places: int
) -> None:
    data = good[index]
    build(sandbox, tmp_path, data)
    pid = sandbox.pid
    kept = 0
    for cut in np.linspace(0, len(data) - 1, places).astype(int):
        result = build(sandbox, tmp_path, data[:cut])
        assert result.outcome in {Outcome.KEPT, Outcome.CORRUPT, Outcome.TOO_SHORT}, (cut, result.detail)
        assert not altered_clips(result, sound, tmp_path), cut
        kept += len(result.clips)
    assert sandbox.pid == pid  # the child lived through all of them
    assert kept <= 5 if index == "index_last" else kept > places


def flipped(data: bytes, seed: int, count: int) -> bytearray:
    random = np.random.default_rng(seed)
    begin, end = box_payload(data, b"mdat")
    damaged = bytearray(data)
    for place in random.integers(begin, end, count):
        damaged[place] ^= 1 << int(random.integers(8))
    return damaged


# a flip that yields another valid image is invisible to any decoder; the seeds in which that happens are counted
# mutation tried: no damage check in DecordReader (complaint ignored, fault_tol=-1) makes this test red
@pytest.mark.parametrize(
    ("count", "seeds", "invisible"), [(1, 5, 0), pytest.param(1, 20, 2, marks=pytest.mark.more), (200, 20, 0)]
)
@pytest.mark.case(37)
def test_flipped_bits(
    sandbox: Sandbox,
    tmp_path: Path,
    good: dict[str, bytes],
    sound: dict[float, str],
    count: int,
    seeds: int,
    invisible: int,
) -> None:
    altered, damaged = 0, 0
    for seed in range(seeds):
        result = build(sandbox, tmp_path, flipped(good["index_last"], seed, count))
        assert result.outcome in {Outcome.KEPT, Outcome.CORRUPT}
        assert all(clip.repeated_frames == 0 for clip in result.clips)
        altered += bool(altered_clips(result, sound, tmp_path))
        damaged += "damaged" in result.dropped
    assert altered <= invisible
    assert damaged >= seeds - invisible


def without_moov(data: bytes) -> bytes:
    begin, _ = box_payload(data, b"moov")
    return data[: begin - 8]


@pytest.mark.case(36)
def test_missing_index_is_corrupt(sandbox: Sandbox, tmp_path: Path, good: dict[str, bytes]) -> None:
    result = build(sandbox, tmp_path, without_moov(good["index_last"]))
    assert (result.outcome, result.clips) == (Outcome.CORRUPT, ())


def test_index_that_points_behind_the_end_is_corrupt(sandbox: Sandbox, tmp_path: Path, good: dict[str, bytes]) -> None:
    data = bytearray(good["index_last"])
    begin, end = box_payload(data, b"stco")
    for place in range(begin + 8, end, 4):
        struct.pack_into(">I", data, place, 2**31 - 1)
    assert build(sandbox, tmp_path, data).outcome is Outcome.CORRUPT


@pytest.mark.case(36)
def test_ten_hours_in_the_header_take_no_longer(sandbox: Sandbox, tmp_path: Path) -> None:
    data = bytearray(write_video(tmp_path / "b.mkv", (moving(n) for n in range(48))).read_bytes())
    struct.pack_into(">d", data, data.index(b"\x44\x89\x88") + 3, 36_000_000.0)
    result = build(sandbox, tmp_path, data, "a.mkv")
    assert (result.outcome, len(result.clips)) == (Outcome.KEPT, 2)
    assert (result.info["header_duration_s"], result.info["duration_s"]) == (36_000, pytest.approx(1.92))


@pytest.mark.case(36)
def test_audio_alone_is_no_video(sandbox: Sandbox, tmp_path: Path) -> None:
    with av.open(str(tmp_path / "b.m4a"), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 16000), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    result = build(sandbox, tmp_path, (tmp_path / "b.m4a").read_bytes())
    assert result.outcome is Outcome.NO_VIDEO_STREAM


@pytest.mark.case(36)
def test_stream_without_a_single_frame_is_corrupt(sandbox: Sandbox, tmp_path: Path) -> None:
    with av.open(str(tmp_path / "b.mkv"), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        container.start_encoding()
    assert build(sandbox, tmp_path, (tmp_path / "b.mkv").read_bytes(), "a.mkv").outcome is Outcome.CORRUPT


@pytest.mark.case(36)
def test_a_hundred_thousand_frames_a_second_are_no_clip(sandbox: Sandbox, tmp_path: Path) -> None:
    path = write_video(tmp_path / "b.mp4", (moving(n) for n in range(30)), 100_000)
    in_seconds = BuildClipsSettings(shots=ShotSettings(detector="none"))
    result = build(sandbox, tmp_path, path.read_bytes(), how=in_seconds)
    # the container rounds 0.3 ms to nothing, and then no frame of it is to be shown
    assert result.outcome in {Outcome.TOO_SHORT, Outcome.CORRUPT}


@pytest.mark.case(36)
def test_rate_of_zero_in_the_header_is_measured_instead(sandbox: Sandbox, tmp_path: Path) -> None:
    data = bytearray(write_video(tmp_path / "b.avi", (moving(n) for n in range(48))).read_bytes())
    struct.pack_into("<I", data, data.index(b"avih") + 8, 0)  # microseconds for each frame
    result = build(sandbox, tmp_path, data, "a.avi")
    assert (result.outcome, result.info["fps"]) == (Outcome.KEPT, 25)


@pytest.mark.case(36)
def test_eight_k_is_refused(sandbox: Sandbox, tmp_path: Path) -> None:
    path = write_video(tmp_path / "b.mp4", [np.zeros((4320, 7680, 3), np.uint8)], b_frames=0)
    result = build(sandbox, tmp_path, path.read_bytes())
    assert result.outcome is Outcome.TOO_MANY_PIXELS


# mutation tried: `float(seconds)` of whatever the child says: a commit marker that its own reader refuses
def test_a_child_that_states_an_impossible_time_costs_its_video(tmp_path: Path, good: dict[str, bytes]) -> None:
    target = "tests.pipelines.video.clips.video_targets:build_or_misbehave"
    with Sandbox(target, memory_limit_bytes=MEMORY_BYTES) as one:
        result = build(one, tmp_path, good["index_last"], "timeless.mp4")
    assert (result.outcome, result.clips) == (Outcome.CORRUPT, ())
    assert "nan seconds" in result.detail


# mutation tried: no loop over leftovers in build_in_child makes this test red
@pytest.mark.parametrize(
    ("name", "outcome"),
    [("hang.mp4", Outcome.DECODE_HANG), ("crash.mp4", Outcome.CORRUPT), ("greedy.mp4", Outcome.CORRUPT)],
)
def test_child_that_hangs_with_the_gil_crashes_or_eats_memory_costs_one_video(
    tmp_path: Path, good: dict[str, bytes], name: str, outcome: Outcome
) -> None:
    target = "tests.pipelines.video.clips.video_targets:build_or_misbehave"
    with Sandbox(target, memory_limit_bytes=MEMORY_BYTES) as one:
        assert build(one, tmp_path, good["index_last"]).outcome is Outcome.KEPT
        began = time.monotonic()
        result = build(one, tmp_path, good["index_last"], name, heartbeat_timeout_s=1.5)
        assert time.monotonic() - began < 15
        assert (result.outcome, result.clips) == (outcome, ())
        assert build(one, tmp_path, good["index_last"]).outcome is Outcome.KEPT


# mutations tried: `build_in_child` without `again_if_killed`: `worker_crash`; without `_empty` before an attempt: a
# file of the first one is left
@pytest.mark.case(94)
def test_child_that_is_killed_from_outside_costs_nothing_and_leaves_nothing(
    tmp_path: Path, good: dict[str, bytes]
) -> None:
    target = "tests.pipelines.video.clips.video_targets:build_or_misbehave"
    with Sandbox(target, memory_limit_bytes=MEMORY_BYTES) as one:
        assert build(one, tmp_path, good["index_last"], "killed-once.mp4").outcome is Outcome.KEPT
    assert (tmp_path / "killed-once.killed").exists()


class _OnAFullDisk(Sandbox):
    """Whose clips go to a disk that is full; `build_in_child` empties the folder before each call."""

    def call(self, payload: Any, **how: Any) -> Any:
        (Path(payload["out_dir"]) / "window-0.mp4").symlink_to("/dev/full")
        return super().call(payload, **how)


# mutation tried: `disk_full` answered as `worker_crash` raises nothing: red
def test_full_disk_ends_the_shard_and_not_the_video(tmp_path: Path, good: dict[str, bytes]) -> None:
    target = "tests.pipelines.video.clips.video_targets:build_or_misbehave"
    with _OnAFullDisk(target, memory_limit_bytes=MEMORY_BYTES) as one:
        out = tmp_path / "out"
        out.mkdir()
        path = tmp_path / "no-space.mp4"
        path.write_bytes(good["index_last"])
        everywhere = Path("/")
        with pytest.raises(LposekitError, match="the disk is full"):
            build_in_child(
                one, path, VideoRow("a"), HOW, out, timeout_s=60, heartbeat_timeout_s=20, work_root=everywhere
            )


# mutation tried: no `except OSError` in build_clips_payload makes this test red (`corrupt`)
def test_clip_larger_than_a_file_may_be_is_not_blamed_on_the_video(tmp_path: Path, good: dict[str, bytes]) -> None:
    target = "tests.pipelines.video.clips.video_targets:build_or_misbehave"
    with Sandbox(target, memory_limit_bytes=MEMORY_BYTES) as one:
        out = tmp_path / "out"
        out.mkdir()
        path = tmp_path / "full.mp4"
        path.write_bytes(good["index_last"])
        result = build_in_child(one, path, VideoRow("a"), HOW, out, timeout_s=60, heartbeat_timeout_s=20)
    assert (result.outcome, result.clips) == (Outcome.WORKER_CRASH, ())
    assert str(out) in result.detail
