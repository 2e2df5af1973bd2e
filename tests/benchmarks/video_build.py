"""Building clips against a bare loop: decord decodes, PyAV encodes the same frames with the same preset, nothing else.

    python -m tests.benchmarks.video_build [--repeats N] [--skip-memory]

Bars: with the shots given, at least 80 % of the bare loop's frames per second; with shot detection at least 60 %; peak
memory on one hour of video at most 1.3 times that on one minute. One single-threaded process per core: every pass runs
on all cores at the same time, bare and ours in turns. The last line is one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import cv2
import decord
from av.video.frame import VideoFrame

from pipelines.decode.shots import AdaptiveCuts, with_found_shots
from pipelines.decode.video import clip_size, probe
from pipelines.decode.video_build import build_clips
from pipelines.decode.video_decord import DecordReader
from pipelines.decode.video_records import VideoRow
from pipelines.decode.video_settings import BuildClipsSettings, ShotSettings
from tests.support.fixtures import fixtures_root
from tests.support.videos import Picture, moving, write_video

SECONDS = 12
FPS = 30
MEMORY_FPS = 12
MODES = ("bare", "given", "detected")
BARS = {"given": 0.8, "detected": 0.6}
MEMORY_BAR = 1.3


def source_video(folder: Path) -> Path:
    """720p H.264 as it comes from cameras and sites (GOP 250, B-frames): a real video again and again, else a pan."""
    real = fixtures_root() / "data/videos/imageio_cockatoo_yuv420.mp4"
    pictures = _repeated(real) if real.is_file() else (moving(n, n // 300, (1280, 720)) for n in range(SECONDS * FPS))
    return write_video(folder / "source.mp4", pictures, FPS, gop=250, b_frames=3, crf=23, preset="veryfast")


def _repeated(path: Path) -> Iterator[Picture]:
    count = 0
    while count < SECONDS * FPS:
        with av.open(str(path)) as container:
            for frame in container.decode(video=0):
                count += 1
                if count > SECONDS * FPS:
                    return
                yield frame.to_ndarray(format="rgb24")


def bare_loop(path: Path, out: Path, settings: BuildClipsSettings) -> int:
    """What anybody would write: decode at the stored size with decord, encode with PyAV."""
    width, height = clip_size(probe(path, settings.video.max_frame_pixels, lambda: None), settings.encode.size)
    reader = decord.VideoReader(str(path), width=width, height=height, num_threads=1)
    clip_frames = round(settings.clips.length_s * FPS)
    for start in range(0, len(reader), clip_frames):
        with av.open(str(out / f"{start}.mp4"), "w") as container:
            stream = container.add_stream("libx264", rate=FPS)
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            codec = stream.codec_context
            codec.thread_count, codec.gop_size, codec.max_b_frames = 1, settings.encode.gop, 0
            codec.options = {"crf": f"{settings.encode.crf:g}", "preset": settings.encode.preset}
            for _ in range(start, min(start + clip_frames, len(reader))):
                frame = VideoFrame.from_ndarray(reader.next().asnumpy(), format="rgb24")
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
    return len(reader)


def ours(path: Path, out: Path, settings: BuildClipsSettings, *, given: bool) -> int:
    """The builder, with the shots given (none) or found."""
    result = build_clips(path, VideoRow("source", cuts_s=() if given else None), settings, out)
    assert result.decoder == "decord"
    return sum(clip.num_frames for clip in result.clips)


def work(mode: str, path: Path) -> None:
    """One pass in this process; prints frames, wall and CPU seconds and peak memory as JSON."""
    settings = BuildClipsSettings(shots=ShotSettings(detector="adaptive"))
    with tempfile.TemporaryDirectory() as name:
        wall, cpu = time.monotonic(), time.process_time()
        if mode == "bare":
            frames = bare_loop(path, Path(name), settings)
        else:
            frames = ours(path, Path(name), settings, given=mode == "given")
        wall, cpu = time.monotonic() - wall, time.process_time() - cpu
    # not ru_maxrss: a process inherits that from the one that started it
    status = Path("/proc/self/status").read_text()
    peak_mb = int(status.split("VmHWM:")[1].split()[0]) / 1024
    print(json.dumps({"frames": frames, "wall_s": wall, "cpu_s": cpu, "peak_mb": peak_mb}))


def detection_ms(path: Path) -> float:
    """CPU milliseconds of a frame that the shot detector alone takes, on the small pictures that the builder has."""
    settings = BuildClipsSettings(shots=ShotSettings(detector="adaptive"))
    info = probe(path, settings.video.max_frame_pixels, lambda: None)
    reader = DecordReader(path, info, clip_size(info, settings.encode.size), lambda: None)
    frames = [replace(frame, rgb_HWC=None) for frame in reader.frames(0, len(info.pts))]
    cv2.setNumThreads(1)
    start = time.process_time()
    for _ in with_found_shots(frames, AdaptiveCuts(3.0)):
        pass
    return 1000 * (time.process_time() - start) / len(frames)


def in_processes(mode: str, path: Path, count: int) -> list[dict[str, Any]]:
    """`count` processes at once, each doing one pass."""
    command = [sys.executable, "-m", __spec__.name, "--work", mode, str(path)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENCV_FOR_THREADS_NUM": "1"}
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, text=True) for _ in range(count)]
    return [json.loads(process.communicate()[0].splitlines()[-1]) for process in running]


def speeds(path: Path, repeats: int) -> dict[str, dict[str, float]]:
    """Median frames per second of a process and CPU milliseconds of a frame, for each mode, in turns."""
    passes: dict[str, list[dict[str, Any]]] = {mode: [] for mode in MODES}
    cores = os.cpu_count() or 1
    for _ in range(repeats):
        for mode in MODES:
            passes[mode] += in_processes(mode, path, cores)
    return {
        mode: {
            "fps": statistics.median(each["frames"] / each["wall_s"] for each in done),
            "cpu_ms": statistics.median(1000 * each["cpu_s"] / each["frames"] for each in done),
        }
        for mode, done in passes.items()
    }


def memory(folder: Path) -> dict[str, float]:
    """Peak memory of one process that builds one minute, and one hour, of the same small video."""
    peaks = {}
    for name, minutes in (("minute", 1), ("hour", 60)):
        # 60 pictures in turn: the writing of an hour is cheap, and every window has motion
        pictures = [moving(number, size=(192, 108)) for number in range(60)]
        numbers = range(minutes * 60 * MEMORY_FPS)
        path = write_video(folder / f"{name}.mp4", (pictures[n % 60] for n in numbers), MEMORY_FPS, gop=250)
        peaks[name] = in_processes("detected", path, 1)[0]["peak_mb"]
    return peaks


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--skip-memory", action="store_true")
    parser.add_argument("--skip-speed", action="store_true")
    parser.add_argument("--work", nargs=2, metavar=("MODE", "PATH"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.work:
        work(arguments.work[0], Path(arguments.work[1]))
        return
    with tempfile.TemporaryDirectory() as name:
        measured = {}
        if not arguments.skip_speed:
            source = source_video(Path(name))
            measured, detection = speeds(source, arguments.repeats), detection_ms(source)
        peaks = {} if arguments.skip_memory else memory(Path(name))
    report: dict[str, Any] = {"bench": "video_build"}
    if measured:
        report |= _speed_report(measured)
        report["detection_cpu_ms"] = detection
        print(f"of which the shot detector: {detection:.2f} ms of CPU a frame")
    if peaks:
        ratio = peaks["hour"] / peaks["minute"]
        print(f"peak memory: one minute {peaks['minute']:.0f} MB, one hour {peaks['hour']:.0f} MB, ratio {ratio:.2f}")
        report |= {"peak_mb": peaks, "memory_ratio": ratio, "memory_met": ratio <= MEMORY_BAR}
    print(json.dumps(report))


def _speed_report(measured: dict[str, dict[str, float]]) -> dict[str, Any]:
    bare = measured["bare"]
    print(f"{'':34}{'frames/s':>10}{'of bare':>9}{'CPU ms':>8}{'of bare':>9}")
    for mode, text in (("bare", "decord + PyAV, nothing else"), ("given", "build, shots given"), ("detected", "build")):
        fps, cpu_ms = measured[mode]["fps"], measured[mode]["cpu_ms"]
        print(f"{text:34}{fps:10.1f}{fps / bare['fps']:9.2f}{cpu_ms:8.2f}{bare['cpu_ms'] / cpu_ms:9.2f}")
    met = all(measured[mode]["fps"] >= bar * bare["fps"] for mode, bar in BARS.items())
    return {**measured, "met": met}


if __name__ == "__main__":
    main()
