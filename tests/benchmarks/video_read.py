"""Reading frames at random from our clips, against the same content at GOP 250; decoders compared in one table.

    python -m tests.benchmarks.video_read [--reads N]

Bars, with clips of 30 s and the reader kept open: one random frame at least 3 times faster, 8 consecutive ones at least
2 times (8 at stride 4 is printed). decord, PyAV (the trainer's) and torchcodec, where it can be loaded, side by
side. The last line is one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import decord
import numpy as np
from pipelines.decode.clip_writer import clip_writer, prepared
from pipelines.decode.video_settings import EncodeSettings

from tests.benchmarks.peers import add_peers
from tests.support.videos import Picture, moving, write_video

SECONDS, FPS, SIZE = 30, 30, (910, 512)
PATTERNS = {"1 frame": (1, 1), "8 frames": (8, 1), "8 at stride 4": (8, 4)}
BARS = {"1 frame": 3.0, "8 frames": 2.0}
Read = Callable[[Sequence[int]], Any]


def content() -> Iterator[Picture]:
    """A textured pan, noise added: as hard to code as real footage of that size."""
    random = np.random.default_rng(0)
    noise = [random.integers(-6, 7, (SIZE[1], SIZE[0], 3), dtype=np.int16) for _ in range(8)]
    for number in range(SECONDS * FPS):
        yield np.clip(moving(number, number // 300, SIZE) + noise[number % 8], 0, 255).astype(np.uint8)


def our_clip(path: Path, pictures: Iterable[Picture]) -> Path:
    settings = EncodeSettings()
    writer = clip_writer(path, SIZE, Fraction(FPS), settings)
    for picture in pictures:
        writer.write(prepared(picture, settings))
    return writer.finish()[0]


def with_decord(path: Path) -> Read:
    reader = decord.VideoReader(str(path), num_threads=1)
    return lambda indices: reader.get_batch(list(indices)).asnumpy()


def with_pyav(path: Path) -> Read:
    container = av.open(str(path))
    stream = container.streams.video[0]
    stream.codec_context.thread_count = 1
    ticks = 1 / (FPS * stream.time_base)

    def read(indices: Sequence[int]) -> list[Picture]:
        wanted = {round(index * ticks) for index in indices}
        container.seek(min(wanted), stream=stream, backward=True)
        found = []
        for frame in container.decode(stream):
            if frame.pts in wanted:
                found.append(frame.to_ndarray(format="rgb24"))
            if len(found) == len(wanted):
                break
        assert len(found) == len(wanted)
        return found

    return read


def with_torchcodec(path: Path) -> Read:
    from torchcodec.decoders import VideoDecoder

    decoder = VideoDecoder(str(path), num_ffmpeg_threads=1, dimension_order="NHWC")
    return lambda indices: decoder.get_frames_at(list(indices)).data.numpy()


def decoders() -> dict[str, Callable[[Path], Read]]:
    """Those that can be loaded. torchcodec comes with `make bench`, and needs FFmpeg's libraries on the machine."""
    found: dict[str, Callable[[Path], Read]] = {"decord": with_decord, "PyAV": with_pyav}
    add_peers()
    try:
        import torchcodec
        import torchcodec.decoders
    except (ImportError, OSError, RuntimeError) as error:
        print(f"torchcodec is left out: {str(error).splitlines()[0]}")
    else:
        print(f"torchcodec {torchcodec.__version__}, decord {decord.__version__}, PyAV {av.__version__}")
        found["torchcodec"] = with_torchcodec
    return found


def random_read_ms(read: Read, frames: int, stride: int, reads: int) -> float:
    """Median milliseconds of one read at a random place; the same places for every reader."""
    random = np.random.default_rng(0)
    times = []
    for first in random.integers(0, SECONDS * FPS - frames * stride, reads):
        began = time.perf_counter()
        read(range(first, first + frames * stride, stride))
        times.append(1000 * (time.perf_counter() - began))
    return statistics.median(times)


def whole_fps(opened: Callable[[Path], Read], path: Path) -> float:
    """Frames per second of CPU, from the first frame to the last, in steps of 30."""
    began = time.process_time()
    read = opened(path)
    for first in range(0, SECONDS * FPS, 30):
        read(range(first, first + 30))
    return SECONDS * FPS / (time.process_time() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reads", type=int, default=60)
    arguments = parser.parse_args()
    report: dict[str, Any] = {"bench": "video_read"}
    with tempfile.TemporaryDirectory() as name:
        ours = our_clip(Path(name) / "ours", content())
        # crf 20 with x264's macroblock tree looks like crf 22, ours, without
        theirs = write_video(
            Path(name) / "gop250.mp4", content(), FPS, gop=250, b_frames=3, crf=20, preset=EncodeSettings().preset
        )
        sizes = {"ours_mb": ours.stat().st_size / 1e6, "gop250_mb": theirs.stat().st_size / 1e6}
        print(f"30 s of 910x512: ours (GOP 12) {sizes['ours_mb']:.1f} MB, GOP 250 {sizes['gop250_mb']:.1f} MB")
        head = "".join(f"{pattern:>22}" for pattern in PATTERNS)
        print(f"{'ms: ours, GOP 250, ratio':26}{head}{'frames/s in a row':>20}")
        for decoder, opened in decoders().items():
            rows = _measure(opened, ours, theirs, arguments.reads)
            cells = "".join(f"{a:8.1f}{b:8.1f}{b / a:6.1f}" for a, b in rows.values())
            fps = whole_fps(opened, ours)
            print(f"{decoder:26}{cells}{fps:20.0f}")
            report[decoder] = {pattern: b / a for pattern, (a, b) in rows.items()} | {"fps": fps}
    report |= sizes
    report["met"] = all(report["decord"][pattern] >= bar for pattern, bar in BARS.items())
    print(json.dumps(report))


def _measure(opened: Callable[[Path], Read], ours: Path, theirs: Path, reads: int) -> dict[str, tuple[float, float]]:
    readers = opened(ours), opened(theirs)
    return {
        pattern: (random_read_ms(readers[0], *shape, reads), random_read_ms(readers[1], *shape, reads))
        for pattern, shape in PATTERNS.items()
    }


if __name__ == "__main__":
    main()
