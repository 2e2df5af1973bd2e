"""Bar (b): a whole run over at least 300 images, "img2dataset into tars, then a script that runs MMPoseInferencer over
them" against `lposekit build-laion-pose`, same models, same total number of threads, in the same run.

    python -m tests.benchmarks.whole_run [FOLDER] [--rows 300] [--rounds 1] [--weights DIR]

The photos of FOLDER (default: the fixtures' data/images) are served over loopback HTTPS under opaque names by another
process. Start-up (imports, Ray, models, until the first image is worked on) is reported apart for both; the ratio that
counts is the one without it, the ratio with it is printed too. The last line is one line of JSON.
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
from pathlib import Path
from typing import Any

from tests.support.bad_server import separate_server
from tests.support.fixtures import REPOSITORY, fixtures_root
from tests.support.photo_list import serve_folder, write_list

GOAL = 2.0
THREADS = 2
DETECTOR, POSE_MODEL = "rtmdet-nano-rebuilt", "tinypose"


def stock_download(work: Path, list_path: str) -> dict[str, float]:
    """img2dataset as its README shows it, into tars of the same pixels."""
    start = time.perf_counter()
    import img2dataset

    startup_s = time.perf_counter() - start
    start = time.perf_counter()
    img2dataset.download(
        url_list=list_path,
        input_format="jsonl",
        url_col="url",
        caption_col="caption",
        output_folder=str(work / "tars"),
        output_format="webdataset",
        processes_count=THREADS,
        thread_count=32,
        image_size=512,
        resize_mode="keep_ratio",
        resize_only_if_bigger=True,
        encode_quality=95,
        number_sample_per_shard=50,
        enable_wandb=False,
        disallowed_header_directives=["noai", "noimageai", "noindex", "noimageindex"],
    )
    return {"startup_s": startup_s, "run_s": time.perf_counter() - start}


def stock_pose(work: Path, weights: str) -> dict[str, float]:
    """The script people write: MMPoseInferencer on every picture of the tars, and the 50 % rule."""
    start = time.perf_counter()
    import cv2
    import numpy as np
    import torch
    import webdataset

    from lposekit.pose.openmmlab import ensure_openmmlab

    ensure_openmmlab()
    import mmpose
    from mmpose.apis import MMPoseInferencer

    torch.set_num_threads(THREADS)
    folder, mim = Path(weights) / "pth", Path(mmpose.__file__).parent / ".mim"
    inferencer = MMPoseInferencer(
        pose2d=str(folder / "litehrnet-naive-w40_coco-256x192.py"),
        pose2d_weights=str(folder / "tinypose_litehrnet-naive-w40_coco-256x192.pth"),
        det_model=str(mim / "demo/mmdetection_cfg/rtmdet_nano_320-8xb32_coco-person.py"),
        det_weights=str(folder / "rtmdet_nano_320_coco-person.pth"),
        det_cat_ids=[0],
        device="cpu",
    )
    startup_s = time.perf_counter() - start
    start, kept, images = time.perf_counter(), 0, 0
    tars = sorted(str(path) for path in (work / "tars").glob("*.tar"))
    for sample in webdataset.WebDataset(tars, shardshuffle=False, empty_check=False):
        picture = cv2.imdecode(np.frombuffer(sample["jpg"], np.uint8), cv2.IMREAD_COLOR)
        (result,) = inferencer(picture, bbox_thr=0.5, show=False, return_vis=False)
        persons = result["predictions"][0]
        kept += any(2 * sum(s >= 0.4 for s in person["keypoint_scores"]) >= 17 for person in persons)
        images += 1
    return {"startup_s": startup_s, "run_s": time.perf_counter() - start, "images": images, "kept": kept}


def ours(work: Path, list_path: str, weights: str) -> dict[str, float]:
    """`lposekit build-laion-pose`: one thread in each of two pose processes."""
    output = work / "ours"
    command = [sys.executable, "-m", "lposekit.cli", "build-laion-pose", "--input", list_path, "--output", str(output)]
    command += ["--rows-per-shard", "50", "--workers", str(THREADS), "--weights-dir", weights]
    command += ["--detector", DETECTOR, "--pose-model", POSE_MODEL, "--allow-private-addresses", "--json"]
    command += ["--pose.actors", str(THREADS), "--pose.threads", "1"]
    start = time.time()
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=work, env=_environment())
    report = json.loads(done.stdout)
    events = [json.loads(line) for line in (output / "_dataset" / "log.jsonl").read_text().splitlines()]
    ready = next(event for event in events if event["event"] == "ready")
    last = max(event["time"] for event in events if event["event"] == "shard")
    return {
        "startup_s": ready["time"] - start,
        "run_s": last - ready["time"],
        "images": report["rows"],
        "kept": report["outcomes"].get("kept", 0),
    }


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(REPOSITORY), "NO_ALBUMENTATIONS_UPDATE": "1"}


def _in_process_of_its_own(stage: str, *arguments: str) -> dict[str, float]:
    command = [sys.executable, "-m", "tests.benchmarks.whole_run", "--stage", stage, *arguments]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=REPOSITORY, env=_environment())
    return json.loads(done.stdout.splitlines()[-1])


def measure(folder: Path, rows: int, weights: str) -> dict[str, Any]:
    """One round of both, one after the other."""
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        with separate_server(serve_folder(folder, work / "served", rows), https=True) as (url, ca_file):
            list_path = write_list(work / "list.jsonl", work / "served", url)
            os.environ["SSL_CERT_FILE"] = str(ca_file)
            download = _in_process_of_its_own("download", str(work), str(list_path))
            pose = _in_process_of_its_own("pose", str(work), weights)
            mine = ours(work, str(list_path), weights)
    peer_s = download["run_s"] + pose["run_s"]
    peer_startup_s = download["startup_s"] + pose["startup_s"]
    return {
        "rows": rows,
        "peer": {"download": download, "pose": pose, "images_per_s": rows / peer_s},
        "ours": mine | {"images_per_s": rows / mine["run_s"]},
        "ratio": peer_s / mine["run_s"],
        "ratio_with_startup": (peer_s + peer_startup_s) / (mine["run_s"] + mine["startup_s"]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=fixtures_root() / "data" / "images")
    parser.add_argument("--rows", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--weights", default=str(fixtures_root() / "weights"))
    parser.add_argument("--stage", choices=["download", "pose"])
    options, rest = parser.parse_known_args()
    if options.stage:
        work, argument = Path(str(options.folder)), rest[0]
        result = stock_download(work, argument) if options.stage == "download" else stock_pose(work, argument)
        print(json.dumps(result))
        return
    rounds = [measure(options.folder.resolve(), options.rows, options.weights) for _ in range(options.rounds)]
    for result in rounds:
        peer, mine = result["peer"], result["ours"]
        print(f"peer: download {peer['download']}, pose {peer['pose']}: {peer['images_per_s']:.2f} images/s")
        print(f"ours: {mine}")
        print(f"ratio {result['ratio']:.2f}, start-up included {result['ratio_with_startup']:.2f}")
    ratio = statistics.median(result["ratio"] for result in rounds)
    print(f"bar (b): {ratio:.2f} of at least {GOAL}")
    print(json.dumps({"benchmark": "whole_run", "ratio": ratio, "goal": GOAL, "rounds": rounds}))


if __name__ == "__main__":
    main()
