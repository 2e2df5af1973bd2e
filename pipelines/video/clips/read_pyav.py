"""Frames through PyAV, packet by packet, so that damage has a place.

A decoder that meets damage conceals it and goes on, and later frames copy from the concealed one. So from a packet with
an error (raised, logged, or marked on its frame) up to the next key frame, every frame counts as damaged.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import av
import av.logging
import numpy as np
from av.container import InputContainer
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from lposekit.errors import Outcome, Rejected
from pipelines.video.clips.probe import SourceFrame, VideoInfo, open_container, reason_of, source_frame, video_stream

_REORDER = 32  # longest delay, in frames, between a packet and its image


class PyavReader:
    """Reads any file that `probe` accepts; damaged frames come without an image."""

    def __init__(self, path: Path, info: VideoInfo, size: tuple[int, int], beat: Callable[[], None]) -> None:
        self._path = path
        self._info = info
        self._size = size
        self._beat = beat

    def frames(self, start: int, stop: int) -> Generator[SourceFrame, None, None]:
        damage = _Damage(places_are_counted=self._info.counted)
        expected = start if self._info.seekable else 0
        for frame in self._decoded(expected, damage):
            index = self._index(frame, expected)
            if index < expected:
                continue
            for missing in range(expected, min(index, stop)):
                yield from self._missing(missing, damage)
            expected = index + 1
            if index >= stop:
                break
            if index >= start:
                yield self._source_frame(index, frame, damage)
        for missing in range(max(expected, start), stop):
            yield from self._missing(missing, damage)

    def close(self) -> None:
        """Nothing is held between calls."""

    def _decoded(self, start: int, damage: _Damage) -> Iterator[VideoFrame]:
        with open_container(self._path) as container:
            stream = video_stream(container)
            if start > 0:
                self._seek(container, stream, start)
            packets = container.demux(stream)
            while True:
                self._beat()
                try:
                    packet = next(packets)
                except StopIteration:
                    return
                except av.FFmpegError:
                    damage.truncated = True
                    return
                yield from damage.watch(packet)

    def _seek(self, container: InputContainer, stream: VideoStream, start: int) -> None:
        try:
            # a key frame found by its decoding time may be shown later than the aim
            aim = int(self._info.pts[max(0, start - _REORDER)])
            container.seek(aim, stream=stream, backward=True)
        except av.FFmpegError as error:
            raise Rejected(Outcome.CORRUPT, f"no way to frame {start}: {reason_of(error)}") from error

    def _index(self, frame: VideoFrame, expected: int) -> int:
        if frame.pts is None or self._info.counted:
            return expected
        index = int(np.searchsorted(self._info.pts, frame.pts))
        if index >= len(self._info.pts):
            return len(self._info.pts)
        duplicate = index < expected and self._info.pts[min(expected, len(self._info.pts) - 1)] == frame.pts
        return expected if duplicate else index

    def _missing(self, index: int, damage: _Damage) -> Iterator[SourceFrame]:
        """A time stamp without an image is damage, or a packet that was never meant to be shown (VP8 and VP9)."""
        pts = int(self._info.pts[index])
        if damage.covers(pts):
            yield SourceFrame(index, pts, None, None)

    def _source_frame(self, index: int, frame: VideoFrame, damage: _Damage) -> SourceFrame:
        pts = int(self._info.pts[index])
        if damage.covers(pts):
            return SourceFrame(index, pts, None, None)
        try:
            native_HWC = np.asarray(frame.to_ndarray(format="rgb24"), dtype=np.uint8)
        except (ValueError, av.FFmpegError) as error:
            raise Rejected(
                Outcome.CORRUPT, f"frames of {frame.format.name} cannot be shown: {reason_of(error)}"
            ) from error
        quarter_turns = round(frame.rotation / 90) % 4
        upright_HWC = np.ascontiguousarray(np.rot90(native_HWC, quarter_turns)) if quarter_turns else native_HWC
        return source_frame(index, pts, upright_HWC, self._size)


class _Damage:
    """Which time stamps are damaged, known as soon as their packet has been decoded. Keeps two key-frame groups."""

    def __init__(self, places_are_counted: bool) -> None:
        self.truncated = False
        self._places_are_counted = places_are_counted
        self._first_key: int | None = None
        self._tainted = False
        self._tainted_before: int | None = None
        self._stamps: set[int] = set()

    def covers(self, pts: int) -> bool:
        return pts in self._stamps or self.truncated

    def watch(self, packet: Packet) -> Iterator[VideoFrame]:
        """Decode one packet, noting what goes wrong."""
        if packet.is_keyframe and packet.size:
            # images shown before the key frame but sent after it may still copy from the damaged group
            self._tainted_before = packet.pts if self._tainted else None
            self._tainted = False
        failed = packet.is_corrupt
        frames: list[VideoFrame] = []
        av.logging.set_level(av.logging.INFO)
        try:
            with av.logging.Capture(local=True) as lines:
                try:
                    frames = packet.decode()
                except av.FFmpegError:
                    failed = True
        finally:
            av.logging.set_level(None)
        failed |= bool(lines) or any(frame.is_corrupt for frame in frames)
        if self._first_key is None and packet.is_keyframe:
            self._first_key = packet.pts
        # after a seek, or where a stream was cut, images before the first key frame lack what they copy from
        failed &= self._first_key is None or packet.pts is None or packet.pts >= self._first_key
        self._tainted |= failed
        # an image that is lost moves all later ones to wrong places
        self.truncated |= failed and self._places_are_counted
        stamp = packet.pts if packet.pts is not None else packet.dts
        if stamp is not None and (self._tainted or self._before_key(stamp)):
            self._stamps.add(stamp)
        if failed:
            self._stamps.update(frame.pts for frame in frames if frame.pts is not None and frame.is_corrupt)
        yield from frames

    def _before_key(self, stamp: int) -> bool:
        return self._tainted_before is not None and stamp < self._tainted_before
