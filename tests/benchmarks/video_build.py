"""Building a video shard against bare loops that decode, scale and encode the same frames, and nothing else.

    python -m tests.benchmarks.video_build [--rounds N] [--skip-memory] [--skip-speed]

Ours is what one worker of a run does for a shard, but for Ray: hash the source, probe it, decode, cut, filter and
encode in the sandbox's child, write tar, parquet and index, sync and commit. Its start is not timed: a worker starts
once for many shards, so it builds a shard of a one-second video first. CPU and memory count worker and child.

Bare loops, all with our crf, preset and GOP: PyAV to PyAV, where images stay YUV planes (swscale scales them, one
thread); decord to OpenCV to PyAV, the way of ours; and, named as weak, decord and PyAV as they come, with x264's
defaults. The first two set what our clips are made with, and the strings of settings that x264 leaves in the files have
to be equal. One single-threaded loop a core: every pass runs on all cores at the same time, from a common start. The
last line is one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from fractions import Fraction
from functools import partial
from itertools import chain, count, islice
from pathlib import Path
from typing import Any

import av
import cv2
import decord
import numpy as np
import numpy.typing as npt
import psutil
import pyarrow.parquet as pq
from av.video.frame import VideoFrame

from lposekit.recipe import Claim
from lposekit.shards.layout import DatasetLayout
from pipelines.job.lock import owned_folder
from pipelines.video.clips.probe import clip_size, probe
from pipelines.video.clips.read_decord import DecordReader
from pipelines.video.clips.records import VideoRow
from pipelines.video.clips.settings import BuildClipsSettings, ShotSettings
from pipelines.video.clips.shots import AdaptiveCuts, with_found_shots
from pipelines.video.settings import BuildVideoSettings
from pipelines.video.shard import VideoPlan
from pipelines.video.worker import VideoWorker
from tests.benchmarks.rounds import Spread, alternate, ratio, table, timed, versions
from tests.support.fixtures import fixtures_root
from tests.support.videos import Image, moving, write_video

SECONDS = 12
FPS = 30
MEMORY_FPS = 12
SETTINGS = BuildClipsSettings(shots=ShotSettings(detector="adaptive"))
OURS = {"given": "ours, shots given", "detected": "ours, shots found"}
BARE = {
    "planes": "bare: PyAV, YUV planes, PyAV; our x264",
    "opencv": "bare: decord, OpenCV, PyAV; our x264",
    "defaults": "weak bare: decord, swscale, PyAV; x264's defaults",
}
MODES = {**BARE, **OURS}
EQUAL_X264 = ("planes", "opencv", *OURS)
X264_LIKE_OURS = {"sc_threshold": "0", "mbtree": "0"}
"""What `Mp4Writer` sets beside crf, preset, GOP and B-frames."""
QUALITY_STEP = 10


def source_video(folder: Path) -> Path:
    """720p H.264 as it comes from cameras and sites (GOP 250, B-frames): a real video again and again, else a pan."""
    real = fixtures_root() / "data/videos/imageio_cockatoo_yuv420.mp4"
    images = _repeated(real) if real.is_file() else (moving(n, n // 300, (1280, 720)) for n in range(SECONDS * FPS))
    return write_video(folder / "source.mp4", images, FPS, gop=250, b_frames=3, crf=23, preset="veryfast")


def _repeated(path: Path) -> Iterator[Image]:
    count = 0
    while count < SECONDS * FPS:
        with av.open(str(path)) as container:
            for frame in container.decode(video=0):
                count += 1
                if count > SECONDS * FPS:
                    return
                yield frame.to_ndarray(format="rgb24")


def first_video(folder: Path) -> Path:
    """One second, for the shard that a worker builds before it is timed; made once for all processes."""
    path = folder / "first.mp4"
    return path if path.exists() else write_video(path, (moving(n) for n in range(FPS)), FPS)


def planes_frames(path: Path, size: tuple[int, int]) -> Iterator[VideoFrame]:
    """Images stay as the file has them, in YUV: no way to RGB and back."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        for frame in container.decode(stream):
            yield frame.reformat(*size, format="yuv420p", interpolation="BILINEAR", threads=1)


def opencv_frames(path: Path, size: tuple[int, int]) -> Iterator[VideoFrame]:
    """OpenCV scales and converts; its conversion is the cheapest, taking the colour of one pixel in four."""
    reader = decord.VideoReader(str(path), num_threads=1)
    for _ in range(len(reader)):
        rgb_HWC = cv2.resize(reader.next().asnumpy(), size, interpolation=cv2.INTER_LINEAR)
        yield VideoFrame.from_ndarray(cv2.cvtColor(rgb_HWC, cv2.COLOR_RGB2YUV_I420), format="yuv420p")


def swscale_frames(path: Path, size: tuple[int, int]) -> Iterator[VideoFrame]:
    """decord scales, and PyAV converts when it encodes: both with swscale."""
    reader = decord.VideoReader(str(path), width=size[0], height=size[1], num_threads=1)
    for _ in range(len(reader)):
        yield VideoFrame.from_ndarray(reader.next().asnumpy(), format="rgb24")


@dataclass(frozen=True)
class BareLoop:
    """Decode, scale, encode."""

    frames: Callable[[Path, tuple[int, int]], Iterator[VideoFrame]]
    x264: Mapping[str, str]

    def run(self, path: Path, out: Path) -> int:
        """Write the clips into `out`; returns the number of frames."""
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            scale = SETTINGS.encode.size / min(stream.width, stream.height)
            size = (2 * round(scale * stream.width / 2), 2 * round(scale * stream.height / 2))
        frames, total = self.frames(path, size), 0
        for number in count():
            clip = islice(frames, round(SETTINGS.clips.length_s * FPS))
            first = next(clip, None)
            if first is None:
                break
            total += self._encode(first, clip, out / f"{number:05d}.mp4", size)
        return total

    def _encode(self, first: VideoFrame, others: Iterable[VideoFrame], path: Path, size: tuple[int, int]) -> int:
        with av.open(str(path), "w", container_options={"movflags": "+faststart"}) as container:
            stream = container.add_stream("libx264", rate=FPS)
            (stream.width, stream.height), stream.pix_fmt = size, "yuv420p"
            codec, settings = stream.codec_context, SETTINGS.encode
            codec.thread_count, codec.gop_size, codec.max_b_frames = 1, settings.gop, 0
            codec.options = {"crf": f"{settings.crf:g}", "preset": settings.preset, **self.x264}
            written = 0
            for frame in chain([first], others):
                frame.pts, frame.time_base = written, Fraction(1, FPS)
                written += 1
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        return written


LOOPS = {
    "planes": BareLoop(planes_frames, X264_LIKE_OURS),
    "opencv": BareLoop(opencv_frames, X264_LIKE_OURS),
    "defaults": BareLoop(swscale_frames, {}),
}


class Ours:
    """One worker that has built a shard already, and its child."""

    def __init__(self, root: Path, run_id: str, settings: BuildClipsSettings, first: Path) -> None:
        parts = {each.name: getattr(settings, each.name) for each in fields(settings)}
        self._layout = DatasetLayout(root)
        self._worker = VideoWorker(Claim(root, run_id), BuildVideoSettings(output=root, **parts))
        self._worker.build(VideoPlan(0, (VideoRow("first", path=str(first)),)))
        self.processes = [psutil.Process(), *psutil.Process().children()]
        assert len(self.processes) == 2, "a worker has one child"

    def build(self, path: Path, *, given: bool) -> int:
        """The shard of one video, with its shots given (none) or found; returns the frames of its clips."""
        self._worker.build(VideoPlan(1, (VideoRow("source", path=str(path), cuts_s=() if given else None),)))
        [row] = pq.read_table(self._layout.parquet(1)).to_pylist()
        assert (row["outcome"], row["decoder"]) == ("kept", "decord")
        return round(sum(row["clip_duration_s"]) * row["fps"])


def work(mode: str, path: Path, out: Path) -> None:
    """One pass in this process (and ours in its child); prints frames, wall and CPU seconds and peaks of memory."""
    cv2.setNumThreads(1)
    if mode in LOOPS:
        print(json.dumps(measured(lambda: LOOPS[mode].run(path, out), [psutil.Process()])))
        return
    root = out / "dataset"
    with owned_folder(DatasetLayout(root)) as run_id:
        worker = Ours(root, run_id, SETTINGS, first_video(path.parent))
        print(json.dumps(measured(lambda: worker.build(path, given=mode == "given"), worker.processes)))


def measured(one_pass: Callable[[], int], processes: Sequence[psutil.Process]) -> dict[str, Any]:
    """The figures of one pass, which begins when the caller says so. `peaks_mb`: of each process."""
    print("ready", flush=True)
    sys.stdin.readline()
    frames: list[int] = []
    taken = timed(lambda: frames.append(one_pass()))
    peaks = [peak_mb(each.pid) for each in processes]
    return {"frames": frames[0], "wall_s": taken.wall_s, "cpu_s": taken.cpu_s, "peaks_mb": peaks}


def peak_mb(pid: int) -> float:
    """A process's peak memory. Not ru_maxrss: a process inherits that from the one that started it."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def detection_ms(path: Path) -> float:
    """CPU milliseconds of a frame that the shot detector alone takes, on the small images that the builder has."""
    info = probe(path, SETTINGS.video.max_frame_pixels, lambda: None)
    reader = DecordReader(path, info, clip_size(info, SETTINGS.encode.size), lambda: None)
    frames = [replace(frame, rgb_HWC=None) for frame in reader.frames(0, len(info.pts))]
    start = time.process_time()
    for _ in with_found_shots(frames, AdaptiveCuts(3.0)):
        pass
    return 1000 * (time.process_time() - start) / len(frames)


def in_processes(mode: str, path: Path, folder: Path, processes: int) -> list[dict[str, Any]]:
    """So many processes at once, each doing one pass; they leave what they write in `folder`/0, 1 and so on."""
    shutil.rmtree(folder, ignore_errors=True)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENCV_FOR_THREADS_NUM": "1"}
    running = []
    for number in range(processes):
        (folder / str(number)).mkdir(parents=True)
        command = [sys.executable, "-m", __spec__.name, "--work", mode, str(path), str(folder / str(number))]
        pipe = subprocess.PIPE
        running.append(subprocess.Popen(command, stdin=pipe, stdout=pipe, env=environment, text=True))
    for process in running:
        assert process.stdout is not None
        while process.stdout.readline().strip() != "ready":
            assert process.poll() is None, f"{mode} ended before it was ready"
    for process in running:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    return [json.loads(process.communicate()[0].splitlines()[-1]) for process in running]


@dataclass(frozen=True)
class Speed:
    """Milliseconds of a frame by round, mean of the processes, and what the clips of one process are."""

    wall_ms: list[float]
    cpu_ms: list[float]
    frames: int
    peak_mb: list[float]
    """Of one process and its child, added up, by round; the highest of the processes."""
    mb: float
    psnr_db: float
    x264: str


def speeds(source: Path, folder: Path, rounds: int) -> dict[str, Speed]:
    """Every mode in turns, on all cores."""
    cores = os.cpu_count() or 1
    forms = {mode: partial(in_processes, mode, source, folder / mode, cores) for mode in MODES}
    passes = alternate(forms, rounds)
    luma = source_luma(source)
    found = {}
    for mode, by_round in passes.items():
        clips = clips_of(folder / mode / "0")
        found[mode] = Speed(
            wall_ms=[per_frame(done, "wall_s") for done in by_round],
            cpu_ms=[per_frame(done, "cpu_s") for done in by_round],
            frames=by_round[0][0]["frames"],
            peak_mb=[max(sum(each["peaks_mb"]) for each in done) for done in by_round],
            mb=sum(clip.stat().st_size for clip in clips) / 1e6,
            psnr_db=psnr_db(clips[0], luma),
            x264=x264_settings(clips[0]),
        )
    for mode in EQUAL_X264:
        assert found[mode].x264 == found["given"].x264, f"{mode} has other settings of x264: {found[mode].x264}"
    return found


def per_frame(done: Sequence[Mapping[str, Any]], kind: str) -> float:
    """Milliseconds, mean of the processes of one pass."""
    return 1000 * sum(each[kind] / each["frames"] for each in done) / len(done)


def clips_of(folder: Path) -> list[Path]:
    """The clips of one process; ours are taken out of the shard."""
    tar = DatasetLayout(folder / "dataset").tar(1)
    if tar.is_file():
        with tarfile.open(tar) as shard:
            shard.extractall(folder, [each for each in shard if each.name.endswith(".mp4")], filter="data")
    return sorted(folder.glob("*.mp4"))


Luma = npt.NDArray[np.uint8]


def source_luma(source: Path) -> list[Luma]:
    """Luma of the source, every tenth image of the first clip, scaled by means over the pixels."""
    with av.open(str(source)) as container:
        info = container.streams.video[0]
        size = clip_size(probe(source, SETTINGS.video.max_frame_pixels, lambda: None), SETTINGS.encode.size)
        frames = islice(container.decode(info), 0, round(SETTINGS.clips.length_s * FPS), QUALITY_STEP)
        return [cv2.resize(_luma(frame), size, interpolation=cv2.INTER_AREA) for frame in frames]


def psnr_db(clip: Path, luma: Sequence[Luma]) -> float:
    """Of the luma of the first clip, which begins with the source in every mode."""
    with av.open(str(clip)) as container:
        frames = islice(container.decode(video=0), 0, None, QUALITY_STEP)
        errors = [np.mean((_luma(f).astype(np.float32) - want) ** 2) for f, want in zip(frames, luma, strict=True)]
    return 10 * math.log10(255**2 / float(np.mean(errors)))


def _luma(frame: VideoFrame) -> Luma:
    return np.asarray(frame.to_ndarray(format="yuv420p")[: frame.height], dtype=np.uint8)


def x264_settings(clip: Path) -> str:
    """The string that x264 writes into the first frame."""
    found = re.search(rb"x264 - core \d+.*?options: ([^\0\x80]*)", clip.read_bytes(), re.DOTALL)
    assert found is not None
    return found.group(1).decode("ascii")


def memory(folder: Path) -> dict[str, dict[str, float]]:
    """Peak memory of a worker and of its child that build one minute, and one hour, of the same small video."""
    first_video(folder)
    peaks = {}
    for name, minutes in (("minute", 1), ("hour", 60)):
        # 60 images in turn: the writing of an hour is cheap, and every window has motion
        images = [moving(number, size=(192, 108)) for number in range(60)]
        numbers = range(minutes * 60 * MEMORY_FPS)
        path = write_video(folder / f"{name}.mp4", (images[n % 60] for n in numbers), MEMORY_FPS, gop=250)
        worker_mb, child_mb = in_processes("detected", path, folder / f"of {name}", 1)[0]["peaks_mb"]
        peaks[name] = {"worker": worker_mb, "child": child_mb}
    return peaks


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--skip-memory", action="store_true")
    parser.add_argument("--skip-speed", action="store_true")
    parser.add_argument("--work", nargs=3, metavar=("MODE", "PATH", "FOLDER"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.work:
        mode, path, out = arguments.work
        work(mode, Path(path), Path(out))
        return
    cv2.setNumThreads(1)
    report: dict[str, Any] = {"bench": "video_build"}
    print(_head(arguments.rounds))
    print(versions("decord2", "av", "opencv-python-headless", "numpy", "pyarrow", "scenedetect-headless"))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if not arguments.skip_speed:
            source = source_video(folder)
            first_video(folder)
            report |= _speed_report(speeds(source, folder, arguments.rounds), detection_ms(source))
        if not arguments.skip_memory:
            report |= _memory_report(memory(folder))
    print(json.dumps(report))


def _head(rounds: int) -> str:
    encode = SETTINGS.encode
    return f"""\
A worker that builds a shard (hash, probe, shots, filters, clips, tar, parquet, index, sync) against bare loops that
only decode, scale and encode. x264 in all rows: {encode.preset}, crf {encode.crf:g}, GOP {encode.gop}, no B-frames,
1 thread; "our x264" also: no scene cuts, no macroblock tree. Source: {SECONDS} s of 1280x720, {FPS} frames/s, H.264,
GOP 250; clips of 910x512. One process a core, {os.cpu_count()} at once; milliseconds of a frame in one process;
median (lowest-highest) of {rounds} alternating rounds."""


def _speed_report(found: Mapping[str, Speed], detection: float) -> dict[str, Any]:
    rows = [
        [MODES[mode], *map(Spread.of, (each.wall_ms, each.cpu_ms, each.peak_mb)), each.frames, each.mb, each.psnr_db]
        for mode, each in found.items()
    ]
    heads = ["row", "wall ms", "CPU ms", "peak memory, MB", "frames", "MB", "luma PSNR, dB"]
    print(f"\n{table(heads, rows)}\n")
    print(f"The shot detector takes {detection:.2f} ms of CPU a frame of the last row.")
    ours, weak = (set(found[mode].x264.split()) for mode in ("given", "defaults"))
    print(f"x264 of the weak loop: {', '.join(sorted(weak - ours))}; elsewhere {', '.join(sorted(ours - weak))}.")
    print("PSNR: first clip, every tenth image, against the source scaled by area.\n")
    strongest_first = sorted(BARE, key=lambda mode: Spread.of(found[mode].wall_ms).middle)
    strongest_first.sort(key=lambda mode: mode not in EQUAL_X264)
    ratios = {
        (peer, mode, kind): ratio(getattr(found[peer], kind), getattr(found[mode], kind))
        for peer in strongest_first
        for mode in OURS
        for kind in ("wall_ms", "cpu_ms")
    }
    rows = [
        [BARE[peer], *(ratios[peer, mode, kind] for mode in OURS for kind in ("wall_ms", "cpu_ms"))]
        for peer in strongest_first
    ]
    heads = [f"{text}: {kind}" for text in OURS.values() for kind in ("wall", "CPU")]
    print(
        f"Peer / ours, the strongest peer first (by wall time, weak peers last):\n\n{table(['peer', *heads], rows)}\n"
    )
    figures = {
        mode: [round(number, 3) for number in (*(Spread.of(ms).middle for ms in (each.wall_ms, each.cpu_ms)), each.mb)]
        for mode, each in found.items()
    }
    told = {f"{peer} / {mode}, {kind}": round(value.middle, 3) for (peer, mode, kind), value in ratios.items()}
    return {"wall_ms, cpu_ms, mb": figures, "ratios": told, "detection_cpu_ms": detection}


def _memory_report(peaks: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    """Both processes: what one holds is not to hide what the other gains."""
    ratios = {who: peaks["hour"][who] / peaks["minute"][who] for who in ("worker", "child")}
    rows = [[who, peaks["minute"][who], peaks["hour"][who], times] for who, times in ratios.items()]
    print(f"Peak memory, video of 192x108 at {MEMORY_FPS} frames/s, shots found:\n")
    print(table(["process", "one minute, MB", "one hour, MB", "hour / minute"], rows))
    return {"peak_mb": peaks, "memory_ratio": max(ratios.values())}


if __name__ == "__main__":
    main()
