"""Building a video shard against a bare loop: decord decodes, PyAV encodes the same frames with the same preset.

    python -m tests.benchmarks.video_build [--repeats N] [--skip-memory]

Ours is what one worker of a run does for a shard, but for Ray: hash the source, decode, cut, filter and encode in the
sandbox's child, write tar, parquet and index, sync and commit. Its start is not timed: a worker starts once for many
shards, so it builds a shard of a one-second video first. CPU and memory count worker and child.

Bars: with the shots given, at least 80 % of the bare loop's frames per second; with shot detection at least 60 %; peak
memory on one hour of video at most 1.3 times that on one minute, of the worker as of its child. One single-threaded
loop per core: every pass runs on all cores at the same time, bare and ours in turns. The last line is one line of JSON.
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
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import av
import cv2
import decord
import psutil
import pyarrow.parquet as pq
from av.video.frame import VideoFrame
from pipelines.decode.shots import AdaptiveCuts, with_found_shots
from pipelines.decode.video import clip_size, probe
from pipelines.decode.video_decord import DecordReader
from pipelines.decode.video_records import VideoRow
from pipelines.decode.video_settings import BuildClipsSettings, ShotSettings
from pipelines.lock import owned_folder
from pipelines.settings import BuildVideoSettings
from pipelines.video_shard import VideoJob, VideoPlan
from pipelines.video_shards import VideoWorker

from lposekit.shards.layout import DatasetLayout
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


def first_video(folder: Path) -> Path:
    """One second, for the shard that a worker builds before it is timed; made once for all processes."""
    path = folder / "first.mp4"
    return path if path.exists() else write_video(path, (moving(n) for n in range(FPS)), FPS)


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


class Ours:
    """One worker that has built a shard already, and its child."""

    def __init__(self, root: Path, run_id: str, settings: BuildClipsSettings, first: Path) -> None:
        parts = {each.name: getattr(settings, each.name) for each in fields(settings)}
        self._layout = DatasetLayout(root)
        self._worker = VideoWorker(VideoJob(root, run_id, BuildVideoSettings(output=root, **parts)))
        self._worker.build(VideoPlan(0, (VideoRow("first", path=str(first)),)))
        self.processes = [psutil.Process(), *psutil.Process().children()]
        assert len(self.processes) == 2, "a worker has one child"

    def build(self, path: Path, *, given: bool) -> int:
        """The shard of one video, with its shots given (none) or found; returns the frames of its clips."""
        self._worker.build(VideoPlan(1, (VideoRow("source", path=str(path), cuts_s=() if given else None),)))
        [row] = pq.read_table(self._layout.parquet(1)).to_pylist()
        assert (row["outcome"], row["decoder"]) == ("kept", "decord")
        return round(sum(row["clip_duration_s"]) * row["fps"])


def work(mode: str, path: Path) -> None:
    """One pass in this process (and ours in its child); prints frames, wall and CPU seconds and peaks of memory."""
    settings = BuildClipsSettings(shots=ShotSettings(detector="adaptive"))
    with tempfile.TemporaryDirectory() as name:
        if mode == "bare":
            measured = timed(lambda: bare_loop(path, Path(name), settings), [psutil.Process()])
        else:
            root = Path(name) / "dataset"
            with owned_folder(DatasetLayout(root)) as run_id:
                worker = Ours(root, run_id, settings, first_video(path.parent))
                measured = timed(lambda: worker.build(path, given=mode == "given"), worker.processes)
    print(json.dumps(measured))


def timed(one_pass: Callable[[], int], processes: Sequence[psutil.Process]) -> dict[str, Any]:
    """The figures of one pass, the processes' CPU added up. `peaks_mb`: of each process."""
    wall, cpu = time.monotonic(), cpu_s(processes)
    frames = one_pass()
    wall, cpu = time.monotonic() - wall, cpu_s(processes) - cpu
    return {"frames": frames, "wall_s": wall, "cpu_s": cpu, "peaks_mb": [peak_mb(each.pid) for each in processes]}


def cpu_s(processes: Sequence[psutil.Process]) -> float:
    """CPU seconds that these processes took so far."""
    return sum(each.cpu_times().user + each.cpu_times().system for each in processes)


def peak_mb(pid: int) -> float:
    """A process's peak memory. Not ru_maxrss: a process inherits that from the one that started it."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


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


def memory(folder: Path) -> dict[str, dict[str, float]]:
    """Peak memory of a worker and of its child that build one minute, and one hour, of the same small video."""
    peaks = {}
    for name, minutes in (("minute", 1), ("hour", 60)):
        # 60 pictures in turn: the writing of an hour is cheap, and every window has motion
        pictures = [moving(number, size=(192, 108)) for number in range(60)]
        numbers = range(minutes * 60 * MEMORY_FPS)
        path = write_video(folder / f"{name}.mp4", (pictures[n % 60] for n in numbers), MEMORY_FPS, gop=250)
        worker_mb, child_mb = in_processes("detected", path, 1)[0]["peaks_mb"]
        peaks[name] = {"worker": worker_mb, "child": child_mb}
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
            first_video(Path(name))
            measured, detection = speeds(source, arguments.repeats), detection_ms(source)
        peaks = {} if arguments.skip_memory else memory(Path(name))
    report: dict[str, Any] = {"bench": "video_build"}
    if measured:
        report |= _speed_report(measured)
        report["detection_cpu_ms"] = detection
        print(f"of which the shot detector: {detection:.2f} ms of CPU a frame")
    if peaks:
        report |= _memory_report(peaks)
    print(json.dumps(report))


def _speed_report(measured: dict[str, dict[str, float]]) -> dict[str, Any]:
    bare = measured["bare"]
    print(f"{'':34}{'frames/s':>10}{'of bare':>9}{'CPU ms':>8}{'of bare':>9}")
    for mode, text in (("bare", "decord + PyAV, nothing else"), ("given", "build, shots given"), ("detected", "build")):
        fps, cpu_ms = measured[mode]["fps"], measured[mode]["cpu_ms"]
        print(f"{text:34}{fps:10.1f}{fps / bare['fps']:9.2f}{cpu_ms:8.2f}{bare['cpu_ms'] / cpu_ms:9.2f}")
    met = all(measured[mode]["fps"] >= bar * bare["fps"] for mode, bar in BARS.items())
    return {**measured, "met": met}


def _memory_report(peaks: dict[str, dict[str, float]]) -> dict[str, Any]:
    """The larger of both ratios counts: what one process holds is not to hide what the other one gains."""
    ratios = {who: peaks["hour"][who] / peaks["minute"][who] for who in ("worker", "child")}
    for who, ratio in ratios.items():
        minute, hour = peaks["minute"][who], peaks["hour"][who]
        print(f"peak memory of the {who}: one minute {minute:.0f} MB, one hour {hour:.0f} MB, ratio {ratio:.2f}")
    ratio = max(ratios.values())
    return {"peak_mb": peaks, "memory_ratio": ratio, "memory_met": ratio <= MEMORY_BAR}


if __name__ == "__main__":
    main()
