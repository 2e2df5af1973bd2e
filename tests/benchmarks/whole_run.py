"""A whole run from a list of URLs to kept images with poses: a hand-made pipeline against `lposekit build-laion-pose`.

    python -m tests.benchmarks.whole_run [FOLDER] [--shapes 300x50 1000x250] [--rounds 3] [--weak-rounds 1]

The photos of FOLDER (default: the fixtures' data/images) are served over loopback HTTPS under opaque names by another
process. Same models, thresholds and number of threads on all sides:

- strong: img2dataset with two processes and one TLS context each (`img2dataset_download.py`), then two single-threaded
  processes over its tars with batched MMDet and MMPose (`mmpose_script.py`), in the best of some batch sizes and memory
  layouts, which a search finds before the rounds;
- engine: the same, with both networks run by the engine that ours runs by default (OpenVINO), in the best batch size;
- weak: img2dataset with its defaults, then MMPoseInferencer on one image at a time with two threads, which takes the
  whole image for a person where no box is found;
- ours: `lposekit build-laion-pose` with two pose processes of one thread, its networks exported by an earlier run.

Each form runs as a command of its own. "work" begins when the models are loaded (in a download: with the first shard
of the process that is last to begin) and ends with the last image; what is before and after (imports, Ray, the child
processes of img2dataset, our report) is start-up and end. A shape is rows x rows a shard, on all sides (our default is
1000 rows a shard); the weak form takes part in the first alone. CPU time is that of all processes, Ray's included
(`process_tree.py`). The last line of each shape is one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import ssl
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tests.benchmarks.img2dataset_download import PROCESSES, THREADS
from tests.benchmarks.mmpose_script import BOX_SCORE, ENGINE, KEYPOINT_SCORE, MIN_AREA, MIN_SIDE_PX, Form
from tests.benchmarks.process_tree import Timeline, run_measured
from tests.benchmarks.rounds import Spread, Timing, alternate, ratio, skip, table, versions
from tests.support.bad_server import separate_server
from tests.support.fixtures import fixtures_root
from tests.support.photo_list import serve_folder, write_list

SEARCH_ROWS = 48
DETECTOR, POSE_MODEL = "rtmdet-nano-rebuilt", "tinypose"
PHASES = ("work", "whole")
FIGURES = ("wall_s", "cpu_s")


@dataclass(frozen=True)
class Run:
    """One form over the whole list: its phases, the images that reached the models, and those kept."""

    start: Timing
    work: Timing
    end: Timing
    images: int = 0
    kept: int = 0

    @classmethod
    def of(cls, timeline: Timeline, ready: float, done: float, images: int = 0, kept: int = 0) -> Run:
        """The phases of a command whose work lay between two moments (seconds since 1970)."""
        moments = (timeline.start, ready, done, timeline.end)
        cpu_s = [timeline.cpu_at(moment) for moment in moments]
        start, work, end = (Timing(moments[i + 1] - moments[i], cpu_s[i + 1] - cpu_s[i]) for i in range(3))
        return cls(start, work, end, images, kept)

    @property
    def whole(self) -> Timing:
        return _sum(self.start, self.work, self.end)

    def then(self, other: Run) -> Run:
        """This stage, then the next one, whose counts hold."""
        start, work, end = _sum(self.start, other.start), _sum(self.work, other.work), _sum(self.end, other.end)
        return Run(start, work, end, other.images, other.kept)


def _sum(*timings: Timing) -> Timing:
    return Timing(sum(timing.wall_s for timing in timings), sum(timing.cpu_s for timing in timings))


@dataclass(frozen=True)
class Setting:
    """What all forms share."""

    list_path: Path
    weights: Path
    trusted: Path
    rows: int
    rows_per_shard: int

    def measured(self, work: Path, *command: str) -> tuple[str, Timeline]:
        """What a command printed, and its timeline."""
        environment = {**os.environ, "SSL_CERT_FILE": str(self.trusted), "NO_ALBUMENTATIONS_UPDATE": "1"}
        return run_measured([sys.executable, "-m", *command], work, environment)

    def download(self, work: Path, *flags: str, list_path: Path | None = None) -> Run:
        """img2dataset into `work`; its own statistics say when each shard began and ended."""
        source = str(list_path or self.list_path)
        arguments = [str(work), source, "--rows-per-shard", str(self.rows_per_shard), *flags]
        _, timeline = self.measured(work, "tests.benchmarks.img2dataset_download", *arguments)
        shards = [json.loads(path.read_text()) for path in (work / "tars").glob("*_stats.json")]
        begun = sorted(shard["start_time"] for shard in shards)[:PROCESSES][-1]
        return Run.of(timeline, begun, max(shard["end_time"] for shard in shards))

    def pose(self, work: Path, *flags: str) -> Run:
        """The pose script over the tars in `work`."""
        output, timeline = self.measured(work, "tests.benchmarks.mmpose_script", str(work), str(self.weights), *flags)
        report = json.loads(output.splitlines()[-1])
        return Run.of(timeline, **report)

    def strong(self, form: Form) -> Run:
        """The peer that counts."""
        with tempfile.TemporaryDirectory() as work:
            return self.download(Path(work)).then(self.pose(Path(work), *form.flags()))

    def weak(self) -> Run:
        """The peer of the shortest script."""
        with tempfile.TemporaryDirectory() as work:
            return self.download(Path(work), "--stock").then(self.pose(Path(work), "--inferencer"))

    def ours(self) -> Run:
        """`lposekit build-laion-pose`; its log says when the models were ready and each shard was committed."""
        with tempfile.TemporaryDirectory() as work:
            output = Path(work) / "dataset"
            printed, timeline = self.measured(Path(work), "lposekit.cli", *self._our_flags(output))
            outcomes = json.loads(printed)["outcomes"]
            log = (output / "_dataset" / "log.jsonl").read_text()
        events = [json.loads(line) for line in log.splitlines()]
        ready = next(event["time"] for event in events if event["event"] == "ready")
        done = max(event["time"] for event in events if event["event"] == "shard")
        images = sum(outcomes.get(name, 0) for name in ("kept", "few_keypoints", "no_person"))
        return Run.of(timeline, ready, done, images, outcomes.get("kept", 0))

    def _our_flags(self, output: Path) -> list[str]:
        flags = ["build-laion-pose", "--input", str(self.list_path), "--output", str(output), "--json"]
        flags += ["--rows-per-shard", str(self.rows_per_shard), "--workers", str(PROCESSES)]
        flags += ["--weights-dir", str(self.weights), "--detector", DETECTOR, "--pose-model", POSE_MODEL]
        return [*flags, "--allow-private-addresses", "--pose.actors", str(PROCESSES), "--pose.threads", "1"]

    def search(self) -> list[dict[str, Any]]:
        """The strong peer's forms over some images, fastest first by CPU time."""
        with tempfile.TemporaryDirectory() as name:
            work = Path(name)
            self.download(work, list_path=first_rows(self.list_path, SEARCH_ROWS))
            output, _ = self.measured(work, "tests.benchmarks.mmpose_script", str(work), str(self.weights), "--search")
        return json.loads(output.splitlines()[-1])


def first_rows(list_path: Path, rows: int) -> Path:
    """A list of the first rows, beside the list."""
    some = list_path.with_name(f"first-{rows}.jsonl")
    some.write_text("".join(list_path.read_text().splitlines(keepends=True)[:rows]))
    return some


def _write_trusted(ca_file: Path, target: Path) -> Path:
    """The system's certificates and the server's own, as on a machine that fetches from the web."""
    import certifi

    system = ssl.get_default_verify_paths().cafile or certifi.where()
    target.write_bytes(Path(system).read_bytes() + b"\n" + ca_file.read_bytes())
    return target


def compare(setting: Setting, best: Sequence[Form], rounds: int, weak_rounds: int) -> dict[str, list[Run]]:
    """All forms in turn; the weak one takes part in the first rounds only."""
    forms: dict[str, Callable[[], Run]] = {
        "strong": lambda: setting.strong(best[0]),
        "engine": lambda: setting.strong(best[1]),
        "ours": setting.ours,
    }
    runs = alternate({**forms, "weak": setting.weak}, weak_rounds) if weak_rounds else {}
    more = alternate(forms, rounds - weak_rounds)
    return {name: runs.get(name, []) + more.get(name, []) for name in ("strong", "engine", "weak", "ours")}


NAMES = {
    "strong": "strong: img2dataset, 2 batched MMPose processes",
    "engine": f"the same, its networks run by {ENGINE}",
    "weak": "weak: stock img2dataset, MMPoseInferencer",
    "ours": "ours: build-laion-pose",
}


def _seconds(runs: Sequence[Run], phase: str, figure: str) -> list[float]:
    return [getattr(getattr(run, phase), figure) for run in runs]


def _speed(runs: Sequence[Run], rows: int) -> list[Spread]:
    """Images a second and CPU milliseconds an image, of the work and of everything."""
    found = []
    for phase in PHASES:
        found.append(Spread.of([rows / wall_s for wall_s in _seconds(runs, phase, "wall_s")]))
        found.append(Spread.of(_seconds(runs, phase, "cpu_s"), 1000 / rows))
    return found


def _edges(runs: Sequence[Run]) -> list[Spread]:
    """Seconds of start-up and end, by wall and CPU."""
    return [Spread.of(_seconds(runs, phase, figure)) for phase in ("start", "end") for figure in FIGURES]


def _ratios(peer: Sequence[Run], ours: Sequence[Run]) -> list[Spread]:
    """Peer by ours, work and everything, by wall and CPU; a peer that took part in fewer rounds has the first ones."""
    ours = ours[: len(peer)]
    pairs = [(phase, figure) for phase in PHASES for figure in FIGURES]
    return [ratio(_seconds(peer, *pair), _seconds(ours, *pair)) for pair in pairs]


def report(runs: dict[str, list[Run]], setting: Setting) -> str:
    """Speeds, start-up and end, ratios; the last line is JSON."""
    runs, rows = {name: values for name, values in runs.items() if values}, setting.rows
    shape = f"{rows} rows, {setting.rows_per_shard} a shard"
    ratios = {name: _ratios(values, runs["ours"]) for name, values in runs.items() if name != "ours"}
    speed = [
        "",
        "images/s",
        "CPU ms an image",
        "images/s, whole",
        "CPU ms an image, whole",
        "decoded",
        "kept",
    ]
    edges = ["", "start-up s", "start-up CPU s", "end s", "end CPU s"]
    heads = ["work, wall", "work, CPU", "whole, wall", "whole, CPU"]
    counts = {name: [values[0].images, values[0].kept] for name, values in runs.items()}
    tables = [
        f"{shape}:",
        table(speed, [[NAMES[name], *_speed(values, rows), *counts[name]] for name, values in runs.items()]),
        table(edges, [[NAMES[name], *_edges(values)] for name, values in runs.items()]),
        table(["peer / ours", *heads], [[NAMES[name], *values] for name, values in ratios.items()]),
        "\n".join(f"{shape}, {NAMES[name]} / ours: wall {wall}, CPU {cpu}" for name, (wall, cpu, *_) in ratios.items()),
    ]
    middle = {
        name: dict(zip(heads, (spread.middle for spread in spreads), strict=True)) for name, spreads in ratios.items()
    }
    raw = {name: [asdict(run) for run in values] for name, values in runs.items()}
    data = {"benchmark": "whole_run", "shape": shape, "ratios": middle, "runs": raw}
    return "\n\n".join(tables) + "\n\n" + json.dumps(data)


def introduction(best: Sequence[Form], found: Sequence[dict[str, Any]]) -> str:
    """What is compared, and what the search of the strong peer's form found."""
    shared = (
        f"{DETECTOR} + {POSE_MODEL}, no flip test, box >= {BOX_SCORE}, keypoint >= {KEYPOINT_SCORE}, boxes of at least "
        f"{MIN_AREA:.0%} of the image and {MIN_SIDE_PX} px; two threads in all"
    )
    strong = (
        f"strong: img2dataset with {PROCESSES} processes of {THREADS} threads, one TLS context each, skip_reencode, no "
        f"EXIF; then {PROCESSES} processes of 1 thread, each half of the tars: MMDet and MMPose with fuse_conv_bn and "
        f"their own pipelines and test_step over {best[0]} and all persons of these, candidates below the threshold "
        f"dropped before nms, no pose without a box; on the engine: {best[1]}, one thread a process"
    )
    weak = (
        "weak: img2dataset with its defaults (a TLS context a request on Python 3.11); MMPoseInferencer, 2 threads, "
        "1 image at a time, the whole image taken for a person where no box is found"
    )
    phases = "work: from the models being loaded to the last image; whole: with start-up and end of all processes"
    searched = [[entry["batch"], entry["layout"], entry["cpu_ms"]] for entry in found]
    packages = "img2dataset", "mmpose", "mmdet", "onedl-mmengine", "mmcv-lite", "torch", ENGINE, "ray", "webdataset"
    headings = ["search for the strong peer: images a batch", "layout", "CPU ms an image"]
    return "\n".join([shared, strong, weak, phases, versions(*packages), "", table(headings, searched), ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=fixtures_root() / "data" / "images")
    parser.add_argument(
        "--shapes", nargs="+", default=["300x50", "1000x250"], help="rows x rows a shard, an even number of shards"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--weak-rounds", type=int, default=1, help="of the weak peer, in the first shape")
    parser.add_argument("--weights", type=Path, default=fixtures_root() / "weights")
    options = parser.parse_args()
    for needed in (options.folder, options.weights):
        if not needed.is_dir():
            skip(f"{needed.name}: no such folder; it comes with the fixtures (LPOSEKIT_FIXTURES)")
    shapes = [tuple(map(int, shape.split("x"))) for shape in options.shapes]
    with tempfile.TemporaryDirectory() as name:
        served = serve_folder(options.folder.resolve(), Path(name) / "served", max(rows for rows, _ in shapes))
        with separate_server(served, https=True) as (url, ca_file):
            assert ca_file is not None
            list_path = write_list(Path(name) / "list.jsonl", served, url)
            trusted = _write_trusted(ca_file, Path(name) / "trusted.pem")
            settings = [
                Setting(first_rows(list_path, rows), options.weights.resolve(), trusted, rows, rows_per_shard)
                for rows, rows_per_shard in shapes
            ]
            found = settings[0].search()
            forms = [Form(entry["batch"], entry["layout"]) for entry in found]
            best = [next(form for form in forms if (form.layout == ENGINE) is engine) for engine in (False, True)]
            print(introduction(best, found), flush=True)
            for place, setting in enumerate(settings):
                runs = compare(setting, best, options.rounds, 0 if place else options.weak_rounds)
                print(report(runs, setting), flush=True)


if __name__ == "__main__":
    main()
