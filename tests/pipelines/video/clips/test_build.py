"""Contract of the clip builder: clips hold exactly the frames that the window function names, each with its caption;
every candidate window is written or dropped for a reason that it deserves.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import pytest

from lposekit.errors import Outcome, UsageError
from lposekit.sandbox.confinement import Places
from lposekit.sandbox.sandbox import Sandbox
from lposekit.setting_values import check_values, flag
from pipelines.video.clips import span as span_clips
from pipelines.video.clips.account import MAX_CLIPS_OF_VIDEO
from pipelines.video.clips.answer import unpacked
from pipelines.video.clips.build import build_clips
from pipelines.video.clips.child import TARGET, build_in_child
from pipelines.video.clips.records import Span, TimedCaption, VideoResult, VideoRow
from pipelines.video.clips.settings import (
    BuildClipsSettings,
    ClipFilterSettings,
    ClipSettings,
    EncodeSettings,
    ShotSettings,
    VideoSettings,
)
from pipelines.video.rows import CLIP_DIGITS
from tests.support.clip_windows import clip_windows
from tests.support.videos import Image, dark, grey_noise, moving, plain, read_images, read_number, write_video

RATES = [Fraction(24000, 1001), Fraction(25), Fraction(30000, 1001), Fraction(60)]
NO_MARGIN = {"cut_margin_frames": 0}


def settings(
    decoder: str = "decord", detector: str = "adaptive", clip_format: str = "mp4", size: int = 512, **clips: object
) -> BuildClipsSettings:
    return BuildClipsSettings(
        video=VideoSettings(decoder=decoder),  # type: ignore[arg-type]
        shots=ShotSettings(detector=detector),  # type: ignore[arg-type]
        clips=ClipSettings(**clips),  # type: ignore[arg-type]
        encode=EncodeSettings(preset="ultrafast", size=size, format=clip_format),  # type: ignore[arg-type]
    )


def build(
    folder: Path, path: Path, how: BuildClipsSettings, row: VideoRow | None = None
) -> tuple[VideoResult, list[list[int]]]:
    """The result, and the numbers drawn in the frames of each clip. Checks the law of windows."""
    out = folder / f"out-{len(list(folder.iterdir()))}"
    out.mkdir()
    result = build_clips(path, row or VideoRow("a", caption="a caption"), how, out)
    assert len(result.windows) == len(result.clips) + sum(result.dropped.values())
    assert sorted(file.name for file in out.iterdir()) == sorted(name for clip in result.clips for name in clip.files)
    shown = [[read_number(image) for name in clip.files for image in read_images(out / name)] for clip in result.clips]
    assert [clip.num_frames for clip in result.clips] == [len(numbers) for numbers in shown]
    return result, shown


def shots(*lengths: int, size: tuple[int, int] = (320, 240)) -> Iterable[Image]:
    number = 0
    for shot, length in enumerate(lengths):
        for _ in range(length):
            yield moving(number, shot, size)
            number += 1


def expected(boundaries: Sequence[int], fps: Fraction, how: BuildClipsSettings) -> list[list[int]]:
    windows = clip_windows(boundaries, fps, how.clips)
    return [list(range(window.start, window.stop)) for window in windows if window.reason is None]


@pytest.mark.parametrize("decoder", ["decord", "pyav"])
@pytest.mark.parametrize("fps", RATES)
def test_clips_hold_exactly_the_frames_that_the_window_function_names(
    tmp_path: Path, fps: Fraction, decoder: str
) -> None:
    path = write_video(tmp_path / "a.mp4", shots(70, 45, 85), fps)
    how = settings(decoder, length_s=1.0, min_length_s=0.3)
    result, shown = build(tmp_path, path, how)
    assert shown == expected([0, 70, 115, 200], fps, how)
    assert result.decoder == decoder
    assert [round(cut_s * fps) for cut_s in result.cuts_s] == [70, 115]
    for clip in result.clips:
        assert clip.fps == pytest.approx(float(fps))
        assert clip.end_s - clip.start_s == pytest.approx(clip.num_frames / fps, abs=1e-5)
        assert clip.repeated_frames == 0
        with av.open(str(next(tmp_path.glob("out-*")) / clip.files[0])) as container:
            assert container.streams.video[0].average_rate == fps


# mutation tried: `self._end_shot(now, CUT)` in WindowCursor.push (no margin before a cut) makes this test red
@pytest.mark.parametrize("margin", [0, 1, 4])
@pytest.mark.parametrize("stride", [7, 12, 30])
@pytest.mark.case(39)
def test_no_clip_spans_a_cut(tmp_path: Path, margin: int, stride: int) -> None:
    path = write_video(tmp_path / "a.mp4", shots(31, 18, 3, 40, 26))
    how = settings(length_frames=12, stride_frames=stride, min_length_frames=4, cut_margin_frames=margin)
    _, shown = build(tmp_path, path, how)
    boundaries = [0, 31, 49, 52, 92, 118]
    assert shown == expected(boundaries, Fraction(25), how)
    for numbers in shown:
        assert not any(numbers[0] - margin < cut <= numbers[-1] + margin for cut in boundaries[1:-1])


def test_given_cuts_are_used_and_none_is_searched(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", shots(30, 30))
    how = settings(length_frames=20, min_length_frames=5, **NO_MARGIN)
    row = VideoRow("a", cuts_s=(2.0, 1.0, 0.48))
    result, shown = build(tmp_path, path, how, row)
    assert shown == expected([0, 12, 25, 50, 60], Fraction(25), how)
    assert result.cuts_s == pytest.approx((0.48, 1.0, 2.0))


def test_without_detector_the_video_is_one_shot(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", shots(30, 30))
    _, shown = build(tmp_path, path, settings(detector="none", length_frames=60))
    assert shown == [list(range(60))]


def test_variable_rate_is_resampled_by_time_stamps(tmp_path: Path) -> None:
    # frame n is shown from pts[n] on: 25 per second, then 12.5, then 50
    pts, at = [], 0
    for number in range(120):
        pts.append(at)
        at += 40 if number < 40 else 80 if number < 60 else 20
    path = write_video(tmp_path / "a.mkv", (moving(number) for number in range(120)), pts=pts, b_frames=0)
    how = settings(detector="none", length_s=60.0, fps=10.0)
    result, shown = build(tmp_path, path, how)
    assert result.info["variable_frame_rate"]
    for tick, number in enumerate(shown[0]):
        distance = [abs(stamp - tick * 100) for stamp in pts]
        assert distance[number] == min(distance), tick
    assert len(shown[0]) == pytest.approx(at / 100, abs=1)


def test_held_frames_of_a_variable_rate_are_counted_as_repeated(tmp_path: Path) -> None:
    pts = [number * 40 for number in range(60) if number % 10 != 5]
    path = write_video(tmp_path / "a.mkv", (moving(n) for n in range(60) if n % 10 != 5), pts=pts, b_frames=0)
    result, shown = build(tmp_path, path, settings(detector="none", length_s=60.0))
    assert result.clips[0].repeated_frames == 6
    assert len(shown[0]) == 60
    assert len(set(shown[0])) == 54


@pytest.mark.parametrize(("target", "every"), [(30.0, 2), (20.0, 3), (60.0, 1), (240.0, 1)])
def test_target_rate_takes_the_nearest_frames_and_never_invents_any(tmp_path: Path, target: float, every: int) -> None:
    path = write_video(tmp_path / "a.mp4", (moving(number) for number in range(90)), 60)
    result, shown = build(tmp_path, path, settings(detector="none", length_s=60.0, fps=target))
    assert shown == [list(range(0, 90, every))]
    assert result.clips[0].fps == 60 / every


@pytest.mark.parametrize("rotation", [90, 180, 270])
def test_clips_of_rotated_videos_are_upright(tmp_path: Path, rotation: int) -> None:
    path = write_video(tmp_path / "a.mp4", shots(30), rotation=rotation)
    result, shown = build(tmp_path, path, settings(detector="none"))
    assert shown == [list(range(30))]
    assert (result.clips[0].width, result.clips[0].height) == (320, 240)


@pytest.mark.parametrize(
    ("size", "stored"), [((321, 241), (320, 240)), ((480, 270), (320, 180)), ((101, 400), (100, 400))]
)
def test_odd_and_large_sizes_are_stored_even_at_the_shorter_side(tmp_path: Path, size, stored) -> None:
    path = write_video(tmp_path / "a.mkv", shots(30, size=size), codec="ffv1", b_frames=0)
    result, shown = build(tmp_path, path, settings(detector="none", size=stored[1] if stored[1] == 180 else 512))
    assert shown == [list(range(30))]
    assert (result.clips[0].width, result.clips[0].height) == stored


# mutation tried: any one filter of motion._drop_reason taken out makes this test red
def test_filters_drop_the_windows_that_deserve_it_and_no_other(tmp_path: Path) -> None:
    second = range(25)
    parts: list[tuple[str | None, list[Image]]] = [
        (None, [moving(n, 0) for n in second]),
        ("black", [plain(0)] * 25),
        (None, [moving(n, 1) for n in second]),
        ("frozen", [moving(9, 2)] * 25),
        ("dark", [dark(n) for n in second]),
        ("low_motion", [grey_noise(n) for n in second]),
        (None, [moving(n, 3, step=1) for n in second]),
    ]
    path = write_video(tmp_path / "a.mp4", (image for _, part in parts for image in part), crf=8)
    how = settings(length_frames=25, min_length_frames=10, **NO_MARGIN)
    row = VideoRow("a", cuts_s=tuple(float(second) for second in range(1, len(parts))))
    result, _ = build(tmp_path, path, how, row)
    assert [window.reason for window in result.windows] == [reason for reason, _ in parts]
    assert result.outcome is Outcome.KEPT


def test_video_of_dropped_windows_only_has_no_clip(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", [plain(0)] * 50)
    result, _ = build(tmp_path, path, settings())
    assert result.outcome is Outcome.NO_CLIP
    assert "black 1" in result.detail


@pytest.mark.parametrize("count", [1, 2, 10])
def test_video_below_the_shortest_clip_is_too_short(tmp_path: Path, count: int) -> None:
    path = write_video(tmp_path / "a.mp4", shots(count))
    result, _ = build(tmp_path, path, settings())
    assert (result.outcome, result.dropped) == (Outcome.TOO_SHORT, {"too_short": 1})


def test_clips_beyond_the_limit_are_counted(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", shots(100))
    result, shown = build(tmp_path, path, settings(length_frames=20, max_clips=2))
    assert shown == [list(range(20)), list(range(20, 40))]
    assert result.dropped == {"max_clips": 3}


# mutation tried: `full` without the limit of keys writes all five: red
def test_a_video_has_no_more_clips_than_its_keys_can_number(tmp_path: Path, monkeypatch) -> None:
    assert MAX_CLIPS_OF_VIDEO == 10**CLIP_DIGITS
    monkeypatch.setattr("pipelines.video.clips.account.MAX_CLIPS_OF_VIDEO", 3)
    path = write_video(tmp_path / "a.mp4", shots(100))
    for limit in (None, 4):
        result, shown = build(tmp_path, path, settings(length_frames=20, max_clips=limit))
        assert len(shown) == 3
        assert result.dropped == {"max_clips": 2}


# mutation tried: the whole answer as JSON of the arena ends as `corrupt`: red
def test_long_caption_of_many_clips_comes_back_whole(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", (moving(i, size=(64, 64)) for i in range(300)))
    how = settings(length_frames=1, stride_frames=1, clip_format="frames")
    how = replace(how, filters=ClipFilterSettings(min_motion=0))
    caption = "somebody walks " * 5000
    out = tmp_path / "out"
    out.mkdir()
    with Sandbox(TARGET, memory_limit_bytes=2 * 2**30) as sandbox:
        result = build_in_child(
            sandbox, path, VideoRow("a", caption=caption), how, out, timeout_s=60, heartbeat_timeout_s=30
        )
    assert (result.outcome, result.detail) == (Outcome.KEPT, "")
    assert sum(len(clip.caption) for clip in result.clips) > 20 * 2**20
    assert {clip.caption for clip in result.clips} == {caption}


# mutation tried: beats of decoded frames only: red
def test_every_tick_of_a_held_image_is_a_sign_of_life(tmp_path: Path) -> None:
    pts = [*range(0, 1000, 40), *range(60_000, 61_000, 40)]
    path = write_video(tmp_path / "a.mp4", shots(50), pts=pts, b_frames=0)
    out = tmp_path / "out"
    out.mkdir()
    beats = []
    result = build_clips(path, VideoRow("a"), settings(), out, lambda: beats.append(1))
    assert result.dropped["frozen"] >= 14
    assert len(beats) > 25 * 60


# mutation tried: no check of `_MAX_HELD` keeps the file: red
def test_time_stamps_that_ask_for_years_are_corrupt(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("pipelines.video.clips.span._MAX_HELD", 1000)
    for gap_s, outcome in ((30, Outcome.KEPT), (60, Outcome.CORRUPT)):
        pts = [*range(0, 2000, 40), *range(gap_s * 1000, gap_s * 1000 + 2000, 40)]
        path = write_video(tmp_path / f"{gap_s}.mp4", shots(100), pts=pts, b_frames=0)
        assert build(tmp_path, path, settings(length_s=1.0))[0].outcome is outcome


# mutation tried: no `_refuse_years` counts a million ticks, for 9 s: red
@pytest.mark.case(36, 86)
def test_time_stamps_that_ask_for_days_are_told_before_their_time_goes_by(tmp_path: Path) -> None:
    pts = [*range(0, 2000, 40), *range(10**8, 10**8 + 2000, 40)]
    path = write_video(tmp_path / "a.mp4", shots(100), pts=pts, b_frames=0)
    out = tmp_path / "out"
    out.mkdir()
    beats: list[int] = []
    result = build_clips(path, VideoRow("a"), settings(length_s=1.0), out, lambda: beats.append(1))
    assert (result.outcome, list(out.iterdir())) == (Outcome.CORRUPT, [])
    assert "without an image" in result.detail
    assert len(beats) < 10_000


def test_caption_is_the_timed_one_nearest_to_the_middle_of_the_clip(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", shots(75))
    captions = (
        TimedCaption("at frame 60", frame=60),
        TimedCaption("at 0.4 s", time_s=0.4),
        TimedCaption("at 1.4 s", time_s=1.4),
    )
    result, _ = build(tmp_path, path, settings(length_frames=25), VideoRow("a", caption="row", captions=captions))
    assert [clip.caption for clip in result.clips] == ["at 0.4 s", "at 1.4 s", "at frame 60"]
    assert [(caption.text, caption.time_s) for caption in result.captions] == [
        ("at 0.4 s", 0.4),
        ("at 1.4 s", 1.4),
        ("at frame 60", 2.4),
    ]


def test_spans_are_built_apart_each_with_its_caption(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", shots(250), gop=50)
    spans = (Span(1.0, 3.0, "first", "s0"), Span(6.0, 7.2, None, "s1"), Span(9.0, None, "last", "s2"), Span(90.0, 95.0))
    result, shown = build(tmp_path, path, settings(length_s=1.0), VideoRow("a", caption="row", spans=spans))
    starts = [(25, 50), (50, 75), (150, 175), (225, 250)]
    assert shown == [list(range(*each)) for each in starts]
    assert [(clip.span, clip.caption) for clip in result.clips] == [
        ("s0", "first"),
        ("s0", "first"),
        ("s1", "row"),
        ("s2", "last"),
    ]
    assert [clip.start_s for clip in result.clips] == [1.0, 2.0, 6.0, 9.0]
    assert result.dropped == {"too_short": 2}  # the rest of s1, and the span behind the end


def test_frames_format_holds_the_same_frames(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", shots(40))
    result, shown = build(tmp_path, path, settings(clip_format="frames", length_frames=20))
    assert shown == [list(range(20)), list(range(20, 40))]
    assert result.clips[1].files[0] == "00001.000000.jpg"


@pytest.mark.parametrize("decoder", ["decord", "pyav"])
def test_same_input_same_bytes(tmp_path: Path, decoder: str) -> None:
    path = write_video(tmp_path / "a.mp4", shots(60, 40))
    first, second = (build(tmp_path, path, settings(decoder, length_frames=30))[0] for _ in range(2))
    assert first == second
    assert len(first.clips) == 3


def test_long_windows_written_ahead_are_the_same_as_buffered_ones(tmp_path: Path, monkeypatch) -> None:
    path = write_video(tmp_path / "a.mp4", [*shots(60), *[plain(0)] * 60])
    how = settings(length_frames=40, stride_frames=15, min_length_frames=20)
    buffered, _ = build(tmp_path, path, how)
    limit = 320 * 240 * 5
    monkeypatch.setattr("pipelines.video.clips.span._BUFFER_BYTES", limit)
    held = []
    add = span_clips._Draft.add
    monkeypatch.setattr(
        span_clips._Draft, "add", lambda draft, *seen: (add(draft, *seen), held.append(len(draft.buffer)))
    )
    ahead, _ = build(tmp_path, path, how)
    assert ahead == buffered
    assert ahead.dropped
    assert max(held) * 320 * 240 * 1.5 <= limit + 3 * 320 * 240 * 1.5


def test_result_survives_the_way_through_the_sandbox(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", shots(60))
    how = settings(length_frames=30)
    direct, _ = build(tmp_path, path, how)
    out = tmp_path / "sandboxed"
    out.mkdir()
    row = VideoRow("a", caption="a caption")
    payload = {"path": str(path), "row": row.to_plain(), "settings": how.to_plain(), "out_dir": str(out)}
    places = Places(writes=(str(tmp_path),))
    with Sandbox(TARGET, memory_limit_bytes=2 * 2**30, places=places) as sandbox:
        answer = sandbox.call(payload, timeout_s=60, heartbeat_timeout_s=30)
    assert unpacked(answer) == direct
    assert [file.name for file in sorted(out.iterdir())] == ["00000.mp4", "00001.mp4"]


@pytest.mark.parametrize(
    ("part", "problem"),
    [
        (settings(length_frames=0), "clips.length_frames"),
        (settings(fps=-1.0), "clips.fps"),
        (settings(length_s=math.inf), "clips.length_s"),
        (settings(length_s=math.nan), "clips.length_s"),
        (settings(stride_s=0.0), "clips.stride_s"),
        (settings(min_length_s=-1.0), "clips.min_length_s"),
        (settings(cut_margin_s=-0.1), "clips.cut_margin_s"),
        (settings(cut_margin_frames=-1), "clips.cut_margin_frames"),
        (settings(max_clips=0), "clips.max_clips"),
        (settings(fps=math.inf), "clips.fps"),
        (BuildClipsSettings(video=VideoSettings(max_frame_pixels=0)), "video.max_frame_pixels"),
        (BuildClipsSettings(shots=ShotSettings(threshold=math.nan)), "shots.threshold"),
        (BuildClipsSettings(filters=ClipFilterSettings(max_black_share=1.5)), "filters.max_black_share"),
        (BuildClipsSettings(filters=ClipFilterSettings(min_motion=math.nan)), "filters.min_motion"),
        (BuildClipsSettings(encode=EncodeSettings(crf=math.nan)), "encode.crf"),
        (BuildClipsSettings(encode=EncodeSettings(gop=13)), "encode.gop"),
        (BuildClipsSettings(encode=EncodeSettings(size=8)), "encode.size"),
        (BuildClipsSettings(encode=EncodeSettings(preset="quick")), "encode.preset"),
        (BuildClipsSettings(encode=EncodeSettings(crf=60)), "encode.crf"),
        (BuildClipsSettings(encode=EncodeSettings(jpeg_quality=0)), "encode.jpeg_quality"),
    ],
)
def test_wrong_settings_are_named(part: BuildClipsSettings, problem: str) -> None:
    with pytest.raises(UsageError, match=f"^{flag(problem)} "):
        check_values(part)
    check_values(BuildClipsSettings())


def test_settings_survive_the_way_through_the_sandbox() -> None:
    part = settings("pyav", length_frames=7, fps=12.5, clip_format="frames")
    assert BuildClipsSettings.from_plain(part.to_plain()) == part


# mutation tried: a repetition counted where the window does not show the image before it
def test_an_image_is_repeated_only_where_its_window_shows_it_twice(tmp_path: Path) -> None:
    # frame 3 stays for five intervals: the clock's ticks show 0 1, 2 3, 3 3, 4 4, 4 5
    stamps = [0, 40, 80, 120, 320, 360]
    path = write_video(tmp_path / "a.mkv", (moving(number) for number in range(6)), pts=stamps, b_frames=0)
    result, shown = build(tmp_path, path, settings(detector="none", length_frames=2, min_length_frames=2))
    assert [tuple(numbers) for numbers in shown] == [(0, 1), (2, 3), (3, 3), (4, 4), (4, 5)]
    assert [clip.repeated_frames for clip in result.clips] == [0, 0, 1, 1, 0]


# mutation tried: no slack for rounded times
@pytest.mark.parametrize("rounded_by_s", [-0.008, 0.0, 0.008])
def test_a_span_begins_and_ends_at_the_frames_that_its_rounded_times_mean(tmp_path: Path, rounded_by_s: float) -> None:
    path = write_video(tmp_path / "a.mp4", (moving(number) for number in range(30)))
    spans = (Span(0.4 + rounded_by_s, 0.8 + rounded_by_s),)
    how = settings(detector="none", length_frames=20, min_length_frames=2)
    _, shown = build(tmp_path, path, how, VideoRow("a", spans=spans))
    assert shown == [list(range(10, 20))]
