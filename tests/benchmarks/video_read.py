"""Reading frames at random from our clips (GOP 12), against the same images at longer GOPs, file sizes beside them.

    python -m tests.benchmarks.video_read [--rounds N]

Peers: x264's defaults (B-frames, macroblock tree, scene cuts, GOP 250) with our preset, at our crf and at our file
size; and GOP 30 at our crf: a key frame a second is what streaming asks for, so a usual choice. The clip of 30 s is one
shot, as ours are. The readers stay open, decode with one thread (a trainer has many workers) and read the same places:
decord, PyAV (the trainer's) and torchcodec. Before it is timed, every reader has to show the images that were written.
The last line is one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fractions import Fraction
from itertools import count, islice
from pathlib import Path
from typing import Any

import av
import cv2
import decord
import numpy as np
import numpy.typing as npt
from av.video.frame import VideoFrame

from pipelines.video.clips.settings import EncodeSettings
from pipelines.video.clips.writer import clip_writer, yuv420
from tests.benchmarks.peers import add_peers
from tests.benchmarks.rounds import Spread, Timing, alternate, ratio, table, timed, versions
from tests.support.fixtures import fixtures_root
from tests.support.videos import Image, moving

SECONDS, FPS, SIZE = 30, 30, (910, 512)
FRAMES = SECONDS * FPS
VIDEO = fixtures_root() / "data/videos/imageio_cockatoo_yuv420.mp4"
SHOT = (148, 280)
"""Images of the real video that are one shot: a bird in a park, the camera in a hand."""
SAME_SIZE = 0.03
READS, STEP = 12, 67
"""Reads of a row in a round, and how far they lie apart. So they meet early and late frames of all three GOPs alike:
the mean distance from a key frame is within 7 % of that of all frames (root mean square over the starts)."""
PATTERNS = {"1 frame": (1, 1), "8 frames": (8, 1), "8 at stride 4": (8, 4)}
OURS, SHORT, EQUAL, LONG = "ours, GOP 12", "GOP 30, our crf", "GOP 250, our size", "GOP 250, our crf"
ALIKE = "GOP 250, our PSNR"
PEERS = (SHORT, EQUAL, LONG)
Planes = npt.NDArray[np.uint8]
Read = Callable[[Sequence[int]], npt.NDArray[np.uint8]]
Opened = Callable[[Path], Read]
Case = tuple[str, str, str]
"""Decoder, file, pattern."""
BEST = "best of these"


def real_shot() -> Iterator[Image]:
    """One shot of a real video, forward and backward in turns: no cut in it."""
    with av.open(str(VIDEO)) as container:
        frames = list(islice(container.decode(video=0), *SHOT))
    shot = [cv2.resize(each.to_ndarray(format="rgb24"), SIZE, interpolation=cv2.INTER_AREA) for each in frames]
    there_and_back = shot + shot[-2:0:-1]
    for number in range(FRAMES):
        yield there_and_back[number % len(there_and_back)]


def pan() -> Iterator[Image]:
    """A textured pan, noise added that comes again after 8 images: easy for long GOPs."""
    random = np.random.default_rng(0)
    noise = [random.integers(-6, 7, (SIZE[1], SIZE[0], 3), dtype=np.int16) for _ in range(8)]
    for number in range(FRAMES):
        yield np.clip(moving(number, 0, SIZE) + noise[number % 8], 0, 255).astype(np.uint8)


@dataclass(frozen=True)
class Clip:
    """A file, and how it looks."""

    path: Path
    crf: float
    key_frames: int
    psnr_db: float

    @property
    def mb(self) -> float:
        return self.path.stat().st_size / 1e6


def our_clip(path: Path, frames: Sequence[Planes]) -> Clip:
    settings = EncodeSettings()
    writer = clip_writer(path, SIZE, Fraction(FPS), settings)
    for planes in frames:
        writer.write(planes)
    [written] = writer.finish()
    return inspected(written, settings.crf, frames)


def peer_clip(path: Path, frames: Sequence[Planes], crf: float, gop: int | None = None) -> Clip:
    """x264's defaults but for our preset and one thread, as ours has. `gop`: default 250."""
    with av.open(str(path), "w", container_options={"movflags": "+faststart"}) as container:
        stream = container.add_stream("libx264", rate=FPS)
        (stream.width, stream.height), stream.pix_fmt = SIZE, "yuv420p"
        codec = stream.codec_context
        codec.thread_count = 1
        codec.options = {"crf": f"{crf:g}", "preset": EncodeSettings().preset} | ({"g": str(gop)} if gop else {})
        for number, planes in enumerate(frames):
            frame = VideoFrame.from_ndarray(planes, format="yuv420p")
            frame.pts, frame.time_base = number, Fraction(1, FPS)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return inspected(path, crf, frames)


def of_equal_size(folder: Path, frames: Sequence[Planes], mb: float, known: Sequence[Clip]) -> Clip:
    """GOP 250 at the crf that gives this size, within 3 %: log size is nearly linear in crf."""
    tried = list(known)
    while abs(tried[-1].mb / mb - 1) > SAME_SIZE and len(tried) < 10:
        near, nearest = sorted(tried, key=lambda clip: abs(math.log(clip.mb / mb)))[1::-1]
        slope = (near.crf - nearest.crf) / math.log(near.mb / nearest.mb)
        crf = nearest.crf + slope * math.log(mb / nearest.mb)
        tried.append(peer_clip(folder / f"crf{len(tried)}.mp4", frames, round(max(0.0, min(51.0, crf)), 2)))
    return tried[-1]


def inspected(path: Path, crf: float, frames: Sequence[Planes]) -> Clip:
    """Luma PSNR against the images that were encoded, one in 20."""
    errors, keys = [], 0
    with av.open(str(path)) as container:
        for number, frame in enumerate(container.decode(video=0)):
            keys += frame.key_frame
            if number % 20 == 7:
                luma = np.s_[: SIZE[1]]
                difference = frame.to_ndarray(format="yuv420p")[luma].astype(np.float32) - frames[number][luma]
                errors.append(float(np.mean(difference**2)))
    return Clip(path, crf, keys, 10 * math.log10(255**2 / float(np.mean(errors))))


def with_decord(path: Path) -> Read:
    reader = decord.VideoReader(str(path), num_threads=1)
    return lambda indices: reader.get_batch(list(indices)).asnumpy()


def with_pyav(path: Path) -> Read:
    container = av.open(str(path))
    stream = container.streams.video[0]
    stream.codec_context.thread_count = 1
    ticks = 1 / (FPS * stream.time_base)

    def read(indices: Sequence[int]) -> npt.NDArray[np.uint8]:
        wanted = {round(index * ticks) for index in indices}
        container.seek(min(wanted), stream=stream, backward=True)
        found = []
        for frame in container.decode(stream):
            if frame.pts in wanted:
                found.append(frame.to_ndarray(format="rgb24", threads=1))  # swscale, too, would take one a core
            if len(found) == len(wanted):
                break
        return np.stack(found)

    return read


def with_torchcodec(path: Path) -> Read:
    from torchcodec.decoders import VideoDecoder

    decoder = VideoDecoder(str(path), num_ffmpeg_threads=1, dimension_order="NHWC")
    return lambda indices: decoder.get_frames_at(list(indices)).data.numpy()


def decoders() -> dict[str, Opened]:
    """Those that can be loaded. torchcodec comes with `make bench`."""
    found: dict[str, Opened] = {"decord": with_decord, "PyAV": with_pyav}
    try:
        import torchcodec.decoders  # noqa: F401
    except (ImportError, OSError, RuntimeError) as error:
        print(f"torchcodec is left out: {str(error).splitlines()[0]}")
    else:
        found["torchcodec"] = with_torchcodec
    return found


def link_ffmpeg(folder: Path) -> None:
    """PyAV's wheel holds FFmpeg under names of its own; here they get the usual ones, for torchcodec, which has none.

    So both decode with the same build, and no FFmpeg has to be installed.
    """
    for library in (Path(av.__file__).parents[1] / "av.libs").glob("lib*.so.*"):
        if named := re.fullmatch(r"(lib(?:av|sw)\w+)-\w+(\.so\.\d+)[.\d]*", library.name):
            (folder / "".join(named.groups())).symlink_to(library)


def places(frames: int, stride: int, turn: int) -> list[range]:
    """Which frames are read in round `turn`, by every reader: every 67th from a random start, in random order."""
    random = np.random.default_rng(turn)
    span = frames * stride
    first = random.integers(0, FRAMES - span - (READS - 1) * STEP)
    starts = (first + STEP * random.permutation(READS)).tolist()
    return [range(start, start + span, stride) for start in starts]


def check(name: str, read: Read, frames: Sequence[Planes]) -> None:
    """The reader shows what was written; it also warms up."""
    indices = [3, FRAMES // 2, FRAMES - 2]
    for index, shown in zip(indices, read(indices), strict=True):
        luma = cv2.cvtColor(shown, cv2.COLOR_RGB2YUV_I420)[: SIZE[1]].astype(int)
        difference = np.abs(luma - frames[index][: SIZE[1]])
        assert difference.mean() < 4, f"{name} shows another image as frame {index}"


def measured(
    readers: Mapping[tuple[str, str], Read], rounds: int
) -> tuple[dict[Case, list[float]], dict[Case, list[float]]]:
    """Milliseconds of a read, wall and CPU, by round."""

    def passes(read: Read, frames: int, stride: int) -> Callable[[], Timing]:
        turns = count()

        def one_pass() -> Timing:
            where = places(frames, stride, next(turns))
            return timed(lambda: [read(indices) for indices in where])

        return one_pass

    forms = {
        (decoder, file, pattern): passes(read, *shape)
        for pattern, shape in PATTERNS.items()
        for (decoder, file), read in readers.items()
    }
    taken = alternate(forms, rounds)
    wall = {case: [1000 * each.wall_s / READS for each in done] for case, done in taken.items()}
    cpu = {case: [1000 * each.cpu_s / READS for each in done] for case, done in taken.items()}
    return wall, cpu


def with_best(ms: dict[Case, list[float]]) -> dict[Case, list[float]]:
    """Adds, for each file and pattern, the decoder that is the fastest on it."""
    best: dict[Case, list[float]] = {}
    for (_, file, pattern), rounds in ms.items():
        case = (BEST, file, pattern)
        best[case] = min(best.get(case, rounds), rounds, key=statistics.median)
    return ms | best


def clips_of(folder: Path, frames: Sequence[Planes], *, read: bool) -> dict[str, Clip]:
    """The files that are read, and one whose size only is told: at crf 20 the macroblock tree looks as ours at 22."""
    folder.mkdir()
    crf = EncodeSettings().crf
    with ThreadPoolExecutor() as pool:  # nothing is timed here
        waiting = {
            OURS: pool.submit(our_clip, folder / "ours", frames),
            SHORT: pool.submit(peer_clip, folder / "gop30.mp4", frames, crf, gop=FPS),
            LONG: pool.submit(peer_clip, folder / "gop250.mp4", frames, crf),
            ALIKE: pool.submit(peer_clip, folder / "crf20.mp4", frames, 20),
        }
        clips = {name: each.result() for name, each in waiting.items()}
    if read:
        clips[EQUAL] = of_equal_size(folder, frames, clips[OURS].mb, [clips[ALIKE], clips[LONG]])
    return clips


def size_rows(content: str, clips: Mapping[str, Clip]) -> list[list[Any]]:
    ours = clips[OURS].mb
    return [
        [content, name, f"{clip.crf:g}", clip.key_frames, clip.mb, ours / clip.mb, clip.psnr_db]
        for name, clip in clips.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--linked", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if not arguments.linked:
        sys.exit(_with_linked_ffmpeg())
    cv2.setNumThreads(1)
    add_peers()
    with tempfile.TemporaryDirectory() as name:
        report(Path(name), arguments.rounds)


def _with_linked_ffmpeg() -> int:
    """The dynamic linker reads its search path when a process starts: so the benchmark runs in a second one."""
    with tempfile.TemporaryDirectory() as name:
        link_ffmpeg(Path(name))
        path = ":".join(filter(None, [name, os.environ.get("LD_LIBRARY_PATH")]))
        command = [sys.executable, "-m", __spec__.name, "--linked", *sys.argv[1:]]
        return subprocess.run(command, env={**os.environ, "LD_LIBRARY_PATH": path}, check=False).returncode


def report(folder: Path, rounds: int) -> None:
    contents = {"real shot": real_shot, "pan": pan} if VIDEO.is_file() else {"pan": pan}
    read_from, *others = contents
    frames = planes_of(contents[read_from])
    clips = clips_of(folder / read_from, frames, read=True)
    rows = size_rows(read_from, clips)
    for content in others:
        rows += size_rows(content, clips_of(folder / content, planes_of(contents[content]), read=False))
    print(_head(read_from, clips, rounds))
    print(versions("decord2", "av", "torchcodec", "torch", "numpy"))
    headings = ["images", "file", "crf", "key frames", "MB", "ours / it", "luma PSNR, dB"]
    print(f"\n{table(headings, rows)}\n", flush=True)

    found = decoders()
    readers = {(decoder, file): found[decoder](clips[file].path) for decoder in found for file in (OURS, *PEERS)}
    for (decoder, file), read in readers.items():
        check(f"{decoder}, {file}", read, frames)
    wall, cpu = measured(readers, rounds)
    print(_times(wall, cpu))
    wall, cpu = with_best(wall), with_best(cpu)
    decoder_names = [*found, BEST]
    print(f"\nPeer / ours, the strongest peer first ({BEST}: each file with the decoder that reads it fastest):\n")
    print(_ratios(wall, cpu, decoder_names))
    print(json.dumps(_as_json(clips, wall, cpu, decoder_names)))


def planes_of(content: Callable[[], Iterator[Image]]) -> list[Planes]:
    return [yuv420(np.ascontiguousarray(image)) for image in content()]


def _head(read_from: str, clips: Mapping[str, Clip], rounds: int) -> str:
    ours, alike, settings = clips[OURS], clips[ALIKE], EncodeSettings()
    times = {name: f"{ours.mb / clip.mb:.2f}" for name, clip in clips.items()}
    look = f"crf {alike.crf:g}: luma PSNR {alike.psnr_db:.1f} dB, ours {ours.psnr_db:.1f}"
    return f"""\
What faster reads cost: of the {read_from}, our file is {times[LONG]} times as large as GOP 250 at our crf,
{times[ALIKE]} times as large as GOP 250 at about our PSNR ({look}),
{times[SHORT]} times as large as GOP 30 at our crf.

Ours: GOP {settings.gop}, crf {settings.crf:g}, {settings.preset}, no B-frames, no macroblock tree, no scene cuts.
Peers: x264's defaults but for preset, crf and GOP 30, a key frame a second, as streaming asks for.
{SECONDS} s of {SIZE[0]}x{SIZE[1]}, one shot. The reader stays open, 1 thread. Means of {READS} reads in random
order, the same for all; median (lowest-highest) of {rounds} alternating rounds, each with places of its own."""


def _times(wall: Mapping[Case, list[float]], cpu: Mapping[Case, list[float]]) -> str:
    rows = [
        [pattern, decoder, file, Spread.of(wall[decoder, file, pattern]), Spread.of(cpu[decoder, file, pattern])]
        for decoder, file, pattern in wall
    ]
    return table(["a read", "decoder", "file", "wall ms", "CPU ms"], rows)


def _ratios(wall: Mapping[Case, list[float]], cpu: Mapping[Case, list[float]], decoder_names: Sequence[str]) -> str:
    rows = [
        [pattern, decoder]
        + [ratio(ms[decoder, peer, pattern], ms[decoder, OURS, pattern]) for peer in PEERS for ms in (wall, cpu)]
        for pattern in PATTERNS
        for decoder in decoder_names
    ]
    return table(["a read", "decoder", *(f"{peer}: {kind}" for peer in PEERS for kind in ("wall", "CPU"))], rows)


def _as_json(
    clips: Mapping[str, Clip],
    wall: Mapping[Case, list[float]],
    cpu: Mapping[Case, list[float]],
    decoder_names: Sequence[str],
) -> dict[str, Any]:
    ratios = {
        f"{decoder}, {pattern}, {peer}": {
            kind: round(ratio(ms[decoder, peer, pattern], ms[decoder, OURS, pattern]).middle, 3)
            for kind, ms in (("wall", wall), ("cpu", cpu))
        }
        for decoder in decoder_names
        for pattern in PATTERNS
        for peer in PEERS
    }
    sizes = {
        name: {"mb": round(clip.mb, 3), "crf": clip.crf, "psnr_db": round(clip.psnr_db, 2)}
        for name, clip in clips.items()
    }
    return {"bench": "video_read", "files": sizes, "ratios": ratios}


if __name__ == "__main__":
    main()
