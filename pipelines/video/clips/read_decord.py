"""Frames through decord: fast, and silent about damage. That is found out here, and the file then read otherwise."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import decord
from decord import DECORDError, DECORDLimitReachedError  # the second is not one of the first

from pipelines.video.clips.native_log import NativeLog
from pipelines.video.clips.probe import DamageSuspectedError, SourceFrame, VideoInfo, source_frame

_ANY_COPY = 1e-6  # decord's fault tolerance as a share of the frames: raise at the first frame replaced by a copy


class DecordReader:
    """Reads a file whose packets are in order (`VideoInfo.orderly`): frame i is the one with the i-th time stamp."""

    def __init__(self, path: Path, info: VideoInfo, size: tuple[int, int], beat: Callable[[], None]) -> None:
        self._path = path
        self._info = info
        self._size = size
        self._beat = beat
        self._reader: decord.VideoReader | None = None
        self._position = 0

    def frames(self, start: int, stop: int) -> Generator[SourceFrame, None, None]:
        if not self._info.seekable:
            raise DamageSuspectedError(f"{self._info.container}: decord misplaces frames where there is no index")
        if not self._info.orderly:
            raise DamageSuspectedError("packets without time stamps, marked as damaged, or not to be shown")
        with NativeLog() as log:
            try:
                yield from self._frames(start, stop, log)
            except (
                DECORDError,
                DECORDLimitReachedError,
                RuntimeError,
                StopIteration,
                IndexError,
                AssertionError,
                UnicodeEncodeError,  # a file name that is no UTF-8
            ) as err:
                raise DamageSuspectedError(f"decord: {str(err).splitlines()[0] if str(err) else err!r}") from err

    def _frames(self, start: int, stop: int, log: NativeLog) -> Iterator[SourceFrame]:
        reader = self._opened()
        if start != self._position:
            reader.seek_accurate(start)
        for index in range(start, stop):
            upright_HWC = reader.next().asnumpy()
            self._position = index + 1
            if complaint := log.complaint():
                raise DamageSuspectedError(complaint)
            if upright_HWC.shape[2] != 3:  # decord2 3.4 takes the padding of short rows (96 pixels) for a channel
                raise DamageSuspectedError(f"decord answers with {upright_HWC.shape[2]} channels")
            self._beat()
            yield source_frame(index, int(self._info.pts[index]), upright_HWC, self._size)

    def _opened(self) -> decord.VideoReader:
        if self._reader is None:
            decord.logging.set_level(decord.logging.INFO)  # FFmpeg tells of concealed errors at this level
            self._reader = decord.VideoReader(str(self._path.resolve()), num_threads=1, fault_tol=_ANY_COPY)  # pyright: ignore[reportArgumentType]
            if len(self._reader) != len(self._info.pts):
                raise DamageSuspectedError(f"decord counts {len(self._reader)} frames of {len(self._info.pts)}")
        return self._reader

    def close(self) -> None:
        """Free the decoder and its thread."""
        self._reader = None
