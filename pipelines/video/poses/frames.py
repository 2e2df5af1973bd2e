"""The frames of a video in batches, upright, with square pixels, at a constant rate; decoded in a killable child.

PyAV reads them, not decord: it says which frames are damaged while it goes, where decord's silence about damage would
mean to begin again after the poses of half a video were computed. Decoding takes a tenth of the time of the models.

Memory: two batches. Arrays: `rgb_HWC` uint8.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lposekit.errors import Outcome, Rejected
from lposekit.sandbox.child import beat
from lposekit.sandbox.confinement import Places, folder_of
from lposekit.sandbox.sandbox import Sandbox, SandboxCrashed, SandboxKilled, SandboxMemory, SandboxTimeout
from pipelines.video.clips.probe import SourceFrame, VideoInfo, probe, reason_of
from pipelines.video.clips.read_pyav import PyavReader
from pipelines.video.clips.timeline import Tick, resampled
from pipelines.video.poses.settings import FrameLimits

TARGET = "pipelines.video.poses.frames:serve"
_MAX_FPS = Fraction(240)
_BATCH_BYTES = 2**28


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame of the clock. `rgb_HWC` is None where it is damaged, and where it shows the same as the one before
    (`repeated`)."""

    rgb_HWC: npt.NDArray[np.uint8] | None
    repeated: bool

    @property
    def damaged(self) -> bool:
        return self.rgb_HWC is None and not self.repeated


@dataclass(frozen=True, slots=True)
class StreamFacts:
    """`width`, `height`: of the upright frames. `num_frames` is expected from the time stamps, not promised.

    `cut_off`: frames of the container's index that the file no longer holds, as after a broken copy.
    """

    fps: Fraction
    width: int
    height: int
    num_frames: int
    cut_off: int = 0


class DecoderKilled(Rejected):
    """The child was killed from outside, which says nothing about the video: it may be begun again."""

    def __init__(self, detail: object) -> None:
        super().__init__(Outcome.WORKER_CRASH, f"the decoder was killed from outside each time: {detail}")


class FrameSource:
    """Reads one video after the other in one child process.

    Its methods raise `Rejected` for all that a file does: a hang is `decode_hang`, a crash `corrupt`; `DecoderKilled`
    for what others do to the child.
    """

    def __init__(self, limits: FrameLimits, root: Path | None = None) -> None:
        """`root`: a folder that many of the videos lie below; one child, which may read it, serves them all."""
        self._limits = limits
        self._root = root
        self._sandbox = Sandbox(TARGET, memory_limit_bytes=limits.memory_bytes)

    def open(self, path: Path) -> StreamFacts:
        """Begin with a video."""
        self._sandbox.open_to(Places((folder_of(path, self._root),)))
        limits = {"max_frame_pixels": self._limits.max_frame_pixels, "max_frames": self._limits.max_frames}
        answer = self._ask({"open": str(path), **limits})
        try:
            numbers = [int(answer[name]) for name in ("width", "height", "num_frames", "cut_off")]
            facts = StreamFacts(Fraction(answer["fps"]), *numbers)
            if not (0 < facts.fps <= _MAX_FPS and 0 < facts.width < 2**16 and 0 < facts.height < 2**16):
                raise ValueError(facts)
        except (KeyError, TypeError, ValueError) as error:
            raise _unreadable(error) from error
        return facts

    def batches(self, facts: StreamFacts, batch_size: int) -> Iterator[list[Frame]]:
        """The frames of the video that was opened last, the next batch being decoded meanwhile."""
        count = max(1, min(batch_size, _BATCH_BYTES // (facts.width * facts.height * 3)))
        with ThreadPoolExecutor(1, thread_name_prefix="frames") as pool:
            ahead: Future[list[Frame]] | None = pool.submit(self._next, facts, count)
            while ahead is not None:
                batch = ahead.result()
                ahead = pool.submit(self._next, facts, count) if batch else None
                if batch:
                    yield batch

    def close(self) -> None:
        self._sandbox.close()

    def _next(self, facts: StreamFacts, count: int) -> list[Frame]:
        answer = self._ask({"count": count})
        try:
            frames = [Frame(each["rgb"], each["repeated"] is True) for each in answer["frames"]]
            shape = facts.height, facts.width, 3
            for frame in frames:
                if frame.rgb_HWC is not None and (frame.rgb_HWC.shape, frame.rgb_HWC.dtype) != (shape, np.uint8):
                    raise ValueError(f"a frame of {frame.rgb_HWC.shape} in a video of {shape}")
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise _unreadable(error) from error
        return frames

    def _ask(self, payload: Mapping[str, Any]) -> Any:
        try:
            return self._sandbox.call(payload, timeout_s=None, heartbeat_timeout_s=self._limits.heartbeat_timeout_s)
        except Rejected as rejected:
            if rejected.outcome is Outcome.WORKER_CRASH:  # by a child that does not know the video: a new one
                raise DecoderKilled(rejected.detail) from rejected
            raise
        except SandboxTimeout as error:
            raise Rejected(Outcome.DECODE_HANG, str(error)) from error
        except SandboxKilled as error:
            raise DecoderKilled(error) from error
        except (SandboxCrashed, SandboxMemory) as error:
            raise Rejected(Outcome.CORRUPT, f"the decoder died on it: {error}") from error


def _unreadable(error: Exception) -> Rejected:
    return Rejected(Outcome.CORRUPT, f"the decoder's answer cannot be read: {error!r}")


# ---- the child's side ----


@dataclass(slots=True)
class _Open:
    ticks: Iterator[Tick[SourceFrame]]


_open: _Open | None = None


def serve(payload: Mapping[str, Any]) -> dict[str, Any]:
    """The sandbox's target: {"open": path, limits} gives the facts, {"count": n} up to n frames; none: the end."""
    global _open
    if "open" in payload:
        _open = None  # the decoder before it, if any, goes first
        _open, answer = _opened(Path(payload["open"]), payload["max_frame_pixels"], payload["max_frames"])
        return answer
    if _open is None:
        raise Rejected(Outcome.WORKER_CRASH, "the decoder process died between two frames")
    frames: list[dict[str, Any]] = []
    for _ in range(payload["count"]):
        tick = next(_open.ticks, None)
        if tick is None:
            break
        beat()
        frames.append({"rgb": None if tick.repeated else tick.frame.rgb_HWC, "repeated": tick.repeated})
    return {"frames": frames}


def _opened(path: Path, max_frame_pixels: int, max_frames: int) -> tuple[_Open, dict[str, Any]]:
    if not path.is_file() or path.stat().st_size == 0:
        raise Rejected(Outcome.CORRUPT, "the file is empty" if path.is_file() else "no regular file")
    try:
        info = probe(path, max_frame_pixels, beat)
    except OSError as error:
        raise Rejected(Outcome.CORRUPT, f"it cannot be read: {reason_of(error)}") from error
    # what a poses file can say: at most 9 digits on either side
    fps = min(info.fps, _MAX_FPS).limit_denominator(10**6)
    num_frames = math.ceil(info.duration_s * fps - 0.5)
    if num_frames > max_frames:
        raise Rejected(
            Outcome.TOO_BIG, f"{num_frames} frames over {info.duration_s:.0f} s; limits.max_frames allows {max_frames}"
        )
    reader = PyavReader(path, info, (info.width, info.height), beat)
    ticks = resampled(_shown(reader, info), fps, info.time_base, info.interval)
    # a header may say anything; it is believed where the file ends in the middle of a packet too
    cut_off = 0 if info.orderly else max(0, min(info.header_frames, max_frames) - len(info.pts))
    sizes = {"width": info.width, "height": info.height, "num_frames": num_frames, "cut_off": cut_off}
    return _Open(ticks), {"fps": str(fps), **sizes}


def _shown(reader: PyavReader, info: VideoInfo) -> Iterator[SourceFrame]:
    return reader.frames(0, len(info.pts))
