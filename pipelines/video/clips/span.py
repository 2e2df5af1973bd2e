"""Cuts one span of a video into windows while its frames go by, and writes those that pass."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from lposekit.errors import Outcome, Rejected
from pipelines.video.clips.account import DAMAGED, VideoAccount
from pipelines.video.clips.motion import FrameMeasure, MotionMeter, WindowMeasure, judge_window
from pipelines.video.clips.probe import SourceFrame, VideoInfo, VideoReader
from pipelines.video.clips.records import ClipRecord, Span, WindowRecord
from pipelines.video.clips.shots import ShotFrame, cut_finder, with_found_shots, with_given_shots
from pipelines.video.clips.timeline import Tick, resampled
from pipelines.video.clips.windows import MAX_CLIPS, Step, Window, WindowCursor, WindowFrames
from pipelines.video.clips.writer import ClipWriter, Prepared, clip_writer, prepared, sha256_of

_BUFFER_BYTES = 128 * 2**20  # of all open windows: 4 s of 910x512 at 30 fps take 84 MB
_MAX_HELD = 10**6
"""Ticks that only repeat an image, nine hours at 30 fps. A false time stamp can ask for years of them, each a sign of
life: this is what ends such a file."""


@dataclass(frozen=True, slots=True)
class _ClipFrame:
    """One frame of the clip's clock. Damaged ones have no measure."""

    source: SourceFrame
    measure: FrameMeasure | None
    repeated: bool


@dataclass(slots=True)
class _Draft:
    """One open window. Its frames wait in a small buffer, so that few windows that are dropped were ever encoded."""

    stem: Path
    first: SourceFrame | None = None
    last: SourceFrame | None = None
    measures: list[FrameMeasure] = field(default_factory=list)
    repeated: int = 0
    damaged: bool = False
    buffer: list[Prepared] = field(default_factory=list)
    writer: ClipWriter | None = None

    def add(self, frame: _ClipFrame, image: Prepared | None) -> None:
        self.first = self.first or frame.source
        self.last = frame.source
        if frame.measure is None or image is None:
            self.damaged = True
            self.buffer.clear()
            return
        self.repeated += frame.repeated and bool(self.measures)
        self.measures.append(frame.measure)
        if not self.damaged:
            self.buffer.append(image)

    def discard(self) -> None:
        """Remove what was written ahead."""
        if self.writer is not None:
            self.writer.discard()


class SpanClips:
    """Reads one span once. Windows and clips go to the video's account."""

    def __init__(self, account: VideoAccount, span: Span, beat: Callable[[], None]) -> None:
        self._account = account
        self._span = span
        self._beat = beat
        self._held = 0
        self._frames = WindowFrames.at(account.fps, account.settings.clips)
        self._cursor = WindowCursor(self._frames)
        self._meter = MotionMeter(account.fps)
        self._waiting: deque[_ClipFrame] = deque()
        self._drafts: dict[int, _Draft] = {}
        self._origin_pts = 0

    def run(self, reader: VideoReader) -> None:
        """Read the span's frames, and follow the cursor through them."""
        info, account = self._account.info, self._account
        start, stop = _frame_range(self._span, info)
        self._origin_pts = int(info.pts[min(start, len(info.pts) - 1)])
        self._refuse_years(start, min(stop, len(info.pts)))
        shot: int | None = None
        with closing(reader.frames(start, max(start, stop))) as frames:
            decoded = account.times.each("decode", frames)
            for tick in resampled(self._in_shots(decoded), account.fps, info.time_base, info.interval):
                self._alive(tick)
                starts_shot = shot is not None and tick.frame.shot != shot
                shot = tick.frame.shot
                self._waiting.append(self._clip_frame(tick))
                for step in self._cursor.push(starts_shot):
                    self._follow(step)
        for step in self._cursor.finish():
            self._follow(step)

    def _refuse_years(self, start: int, stop: int) -> None:
        """Raises Rejected as `_alive` would in the end, before minutes go by with it."""
        info = self._account.info
        if stop - start > 1:
            ticks = (int(info.pts[stop - 1]) - int(info.pts[start])) * info.time_base * self._account.fps
            self._check_held(int(ticks) - (stop - start))

    def _alive(self, tick: Tick[ShotFrame]) -> None:
        self._beat()
        self._held += tick.repeated
        self._check_held(self._held)

    def _check_held(self, held: int) -> None:
        if held > _MAX_HELD:
            raise Rejected(Outcome.CORRUPT, f"time stamps that leave more than {_MAX_HELD} frames without an image")

    def _in_shots(self, frames: Iterable[SourceFrame]) -> Iterator[ShotFrame]:
        """The frames with their shots; notes where the cuts are."""
        settings, row, info = self._account.settings.shots, self._account.row, self._account.info
        finder = cut_finder(settings) if row.cuts_s is None else None
        if finder is not None:
            marked = with_found_shots(frames, finder)
        else:
            ticks = [float(info.pts[0]) + cut_s / float(info.time_base) for cut_s in sorted(row.cuts_s or ())]
            marked = with_given_shots(frames, [tick - info.interval / 2 for tick in ticks])
        shot: int | None = None
        for frame in marked:
            if shot is not None and frame.shot != shot:
                self._account.cuts_s.append(self._account.seconds(frame.pts))
            shot = frame.shot
            yield frame

    def _clip_frame(self, tick: Tick[ShotFrame]) -> _ClipFrame:
        source = tick.frame.source
        measure = None if source.thumb_HWC is None else self._meter.measure(source.thumb_HWC)
        return _ClipFrame(source, measure, tick.repeated)

    def _follow(self, step: Step) -> None:
        match step.kind:
            case "open":
                self._drafts[step.start] = _Draft(self._account.out_dir / f"window-{step.start}")
            case "void":
                self._drafts.pop(step.start).discard()
            case "skip":
                self._waiting.popleft()
            case "feed":
                self._feed(self._waiting.popleft())
            case "close":
                assert step.window is not None
                self._close(step.window)

    def _feed(self, frame: _ClipFrame) -> None:
        if self._account.full or not self._drafts:
            return
        rgb_HWC = frame.source.rgb_HWC
        with self._account.times.stage("encode"):
            image = None if rgb_HWC is None else prepared(rgb_HWC, self._account.settings.encode)
        for draft in self._drafts.values():
            draft.add(frame, image)
        # drafts that overlap share their images: the fullest one holds nearly all that there are
        fullest = max(self._drafts.values(), key=lambda draft: len(draft.buffer))
        if image is not None and len(fullest.buffer) * image.nbytes > _BUFFER_BYTES:
            with self._account.times.stage("encode"):
                self._write(fullest)

    def _write(self, draft: _Draft) -> ClipWriter:
        account = self._account
        if draft.writer is None:
            draft.writer = clip_writer(draft.stem, account.size, account.fps, account.settings.encode)
        for image in draft.buffer:
            draft.writer.write(image)
            self._beat()
        draft.buffer.clear()
        return draft.writer

    def _close(self, window: Window) -> None:
        draft = self._drafts.pop(window.start, None)
        measured, reason = self._judge(window, draft)
        if draft is not None and reason is None:
            self._account.clips.append(self._clip_record(window, draft, measured))
        elif draft is not None:
            draft.discard()
        start_s, end_s = self._times(window)
        motion = measured.motion if measured else None
        self._account.windows.append(WindowRecord(start_s, end_s, window.stop - window.start, reason, motion))

    def _judge(self, window: Window, draft: _Draft | None) -> tuple[WindowMeasure | None, str | None]:
        if draft is None or window.reason is not None:
            return None, window.reason
        if self._account.full:
            return None, MAX_CLIPS
        if draft.damaged:
            return None, DAMAGED
        measured = judge_window(draft.measures, self._account.fps, self._meter.spacing, self._account.settings.filters)
        return measured, measured.reason

    def _clip_record(self, window: Window, draft: _Draft, measured: WindowMeasure | None) -> ClipRecord:
        assert draft.first is not None
        assert draft.last is not None
        assert measured is not None
        account = self._account
        with account.times.stage("encode"):
            files = [_numbered(path, len(account.clips)) for path in self._write(draft).finish()]
        start_s, end_s = self._times(window)
        return ClipRecord(
            files=tuple(path.name for path in files),
            span=self._span.name,
            start_s=start_s,
            end_s=end_s,
            fps=float(account.fps),
            num_frames=window.stop - window.start,
            width=account.size[0],
            height=account.size[1],
            caption=account.caption(self._span, (start_s + end_s) / 2),
            repeated_frames=draft.repeated,
            motion=measured.motion,
            luma=measured.luma,
            sha256=sha256_of(files),
            source_frames=(draft.first.index, draft.last.index),
        )

    def _times(self, window: Window) -> tuple[float, float]:
        origin_s = self._account.seconds(self._origin_pts)
        fps = self._account.fps
        return round(origin_s + float(window.start / fps), 6), round(origin_s + float(window.stop / fps), 6)


def _numbered(path: Path, number: int) -> Path:
    """`window-48.mp4` becomes `00003.mp4`, `window-48.000007.jpg` becomes `00003.000007.jpg`."""
    _, _, suffix = path.name.partition(".")
    return path.rename(path.with_name(f"{number:05d}.{suffix}"))


def _frame_range(span: Span, info: VideoInfo) -> tuple[int, int]:
    """Source frames of a span: those that begin in it, with a quarter of a frame for rounded times."""
    slack = info.interval / 4
    per_s = 1 / float(info.time_base)
    start = int(np.searchsorted(info.pts, info.pts[0] + span.start_s * per_s - slack))
    stop = len(info.pts)
    if span.end_s is not None:
        stop = int(np.searchsorted(info.pts, info.pts[0] + span.end_s * per_s - slack))
    return start, stop
