"""Samples a second with the model removed: ours, plain webdataset and Megatron-Energon, on the same shards.

    python -m tests.benchmarks.loader [--workers 2] [--rounds 9]

All three read the same tars with the same number of worker processes and run the same functions on a sample's bytes
(decode, crop to 256, draw the skeleton; 8 frames at stride 4 of a clip, crop to 256), shuffle, and hand over batches of
16 pictures or 2 clips as torch tensors; ours and Energon's keep the state that they resume from. Turn and turn about,
each in a fresh loader; the time starts at the first batch. Then a training run on the same shards (base `tiny`) says
which part of its time it waited for data (bar: 5 %). Energon is left out where it is not installed
(`make bench` does). The last line is one line of JSON.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import io
import json
import multiprocessing
import os
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pyarrow as pa
import torch

from lposekit.keypoints import KEYPOINT_FORMATS
from lposekit.records import Person, sample_key
from lposekit.shards.card import claim_folder, update_card
from lposekit.shards.layout import DatasetLayout
from lposekit.shards.pose_json import person_record, pose_json
from lposekit.shards.writer import ShardWriter
from tests.benchmarks.peers import add_peers
from tests.support.fixtures import fixtures_root
from tests.support.train_data import POSE_CARD
from trainer.data.catalog import open_catalog
from trainer.data.decode import (
    ClipPlan,
    Framing,
    Skeleton,
    decode_clip,
    decode_picture,
    decode_skeleton,
    read_clip_facts,
)
from trainer.data.loader import BatchSplit, SampleLoader
from trainer.data.order import OrderState, SampleOrder, SampleRef
from trainer.data.random import SampleRandom
from trainer.data.reader import SampleReader, SampleRecipe
from trainer.run.metrics import METRICS_NAME, read_metrics
from trainer.settings import LoaderSettings, PictureSettings, TrainSettings, WatchSettings
from trainer.train import run

FRAMING, SKELETON, PLAN = Framing(256, "random", 0.5), Skeleton(), ClipPlan(8, 4)
BATCH = {"image": 16, "video": 2}
SHARDS, PER_SHARD = 4, {"image": 300, "video": 60}
BLOCK = {"image": 600, "video": 120}
Work = Callable[[dict[str, bytes], SampleRandom], dict[str, Any]]


def picture_work(members: dict[str, bytes], random: SampleRandom) -> dict[str, Any]:
    """What every loader does to a picture."""
    rgb_HWC, geometry = decode_picture(members["jpg"], FRAMING, random)
    skeleton_HWC = decode_skeleton(members["pose.json"], geometry, SKELETON)
    return {"rgb": rgb_HWC, "skeleton": skeleton_HWC, "caption": members["txt"].decode()}


def clip_work(members: dict[str, bytes], random: SampleRandom) -> dict[str, Any]:
    """What every loader does to a clip."""
    frames = PLAN.indices(*read_clip_facts(members["json"]), random)
    return {"rgb": decode_clip(members["mp4"], frames, FRAMING, random), "caption": members["txt"].decode()}


def stack(samples: list[dict[str, Any]]) -> dict[str, Any]:
    arrays = {name for name, value in samples[0].items() if isinstance(value, np.ndarray)}
    return {
        name: torch.from_numpy(np.stack([s[name] for s in samples])) if name in arrays else [s[name] for s in samples]
        for name in samples[0]
    }


def photos() -> list[np.ndarray]:
    """Photos of the fixtures at a shorter side of 512, as the build stores them; noise where there are none."""
    files = sorted((fixtures_root() / "data/images").glob("*.jpg"))[:40]
    loaded = [cv2.imread(str(path)) for path in files] or [
        np.random.default_rng(0).integers(0, 255, (600, 512, 3), np.uint8)
    ]
    scaled = []
    for bgr_HWC in loaded:
        factor = 512 / min(bgr_HWC.shape[:2])
        scaled.append(cv2.resize(bgr_HWC, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA))
    return scaled


def picture_members(bgr_HWC: np.ndarray, number: int) -> dict[str, bytes]:
    height, width = bgr_HWC.shape[:2]
    random = np.random.default_rng(number)
    persons = [
        Person(
            np.array([0, 0, width, height], np.float32),
            0.9,
            np.concatenate([random.uniform(0, 1, (17, 2)) * (width, height), np.ones((17, 1))], 1).astype(np.float32),
        )
        for _ in range(2)
    ]
    records = [person_record(person, width, height, 0.5, KEYPOINT_FORMATS["coco17"]) for person in persons]
    return {
        "jpg": cv2.imencode(".jpg", bgr_HWC, [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes(),
        "json": b"{}",
        "pose.json": pose_json(records, width, height, POSE_CARD),
        "txt": f"photo {number}".encode(),
    }


def pan_members(bgr_HWC: np.ndarray, number: int) -> dict[str, bytes]:
    """A clip of 48 frames that pans over a photo."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=24, options={"g": "12", "bf": "0", "preset": "veryfast"})
        stream.width, stream.height, stream.pix_fmt = 448, 448, "yuv420p"
        for frame in range(48):
            window = np.ascontiguousarray(bgr_HWC[frame : frame + 448, frame : frame + 448])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(window, format="bgr24")))
        container.mux(stream.encode(None))
    facts = {"num_frames": 48, "fps": 24.0}
    return {"json": json.dumps(facts).encode(), "mp4": buffer.getvalue(), "txt": f"clip {number}".encode()}


def write_shards(root: Path, kind: str) -> Path:
    root.mkdir()
    layout = DatasetLayout(root)
    claim_folder(layout, {"kind": kind, "fixed": {}, **POSE_CARD})
    sources = photos()
    if kind == "video":
        made = [pan_members(bgr_HWC, number) for number, bgr_HWC in enumerate(sources[:12])]
    else:
        made = [picture_members(bgr_HWC, number) for number, bgr_HWC in enumerate(sources)]
    for shard in range(SHARDS):
        writer = ShardWriter(layout, shard, "bench")
        keys = [sample_key(shard, row) for row in range(PER_SHARD[kind])]
        for row, key in enumerate(keys):
            writer.add(key, made[(shard * PER_SHARD[kind] + row) % len(made)])
        writer.commit(pa.table({"key": keys}), {"count": len(keys), "outcomes": {}})
    update_card(layout)
    return root


def ours(root: Path, kind: str, workers: int) -> Iterator[Any]:
    datasets = open_catalog([root], kind)
    order = SampleOrder([[len(shard) for shard in datasets[0].shards]], [1], 0, BLOCK[kind])
    recipe = SampleRecipe(
        FRAMING, 0, SKELETON if kind == "image" else None, PLAN if kind == "video" else None, noise=None
    )
    loader = SampleLoader(SampleReader(datasets, recipe), order, BatchSplit(BATCH[kind], BATCH[kind]), workers, 2)
    steps = SHARDS * PER_SHARD[kind] // BATCH[kind]
    state = OrderState()
    for batch in loader.batches(state, steps):
        state = loader.advance(state)
        yield batch


class _Mapped:
    """The work on a webdataset sample, with the crop and the frames that ours draws for it."""

    def __init__(self, work: Work) -> None:
        self.work = work

    def __call__(self, sample: dict[str, Any]) -> dict[str, Any]:
        members = {name: value for name, value in sample.items() if isinstance(value, bytes)}
        shard, row = divmod(int(sample["__key__"].rpartition("/")[-1]), 10**4)
        return self.work(members, SampleRandom(0, SampleRef(0, shard, row, 0)))


def one_core(worker: int) -> None:
    torch.set_num_threads(1)


def webdataset(root: Path, kind: str, workers: int) -> Iterator[Any]:
    import webdataset as wds

    work = picture_work if kind == "image" else clip_work
    tars = [str(path) for path in sorted(root.glob("*.tar"))]
    dataset = (
        wds.WebDataset(tars, shardshuffle=SHARDS, seed=0, workersplitter=wds.split_by_worker)
        .shuffle(BLOCK[kind] // max(1, workers))
        .map(_Mapped(work))
        .batched(BATCH[kind], collation_fn=stack)
    )
    yield from torch.utils.data.DataLoader(
        dataset, batch_size=None, num_workers=workers, prefetch_factor=2, worker_init_fn=one_core
    )


def prepare_energon(root: Path) -> Path:
    """Energon's own index, in a folder of links to the same tars."""
    from megatron.energon.epathlib import EPath
    from megatron.energon.flavors import BaseWebdatasetFactory

    folder = root.with_name(f"{root.name}-energon")
    folder.mkdir()
    names = [path.name for path in sorted(root.glob("*.tar"))]
    for name in names:
        os.link(root / name, folder / name)
    with contextlib.redirect_stdout(sys.stderr):
        BaseWebdatasetFactory.prepare_dataset(EPath(folder), names, split_parts_ratio=[("train", 1.0)], workers=1)
    (folder / ".nv-meta/dataset.yaml").write_text(
        "__module__: megatron.energon\n__class__: CrudeWebdataset\ndecoder: null\n"
    )
    return folder


def energon(root: Path, kind: str, workers: int) -> Iterator[Any]:
    import megatron.energon as energon_api

    mapped = _Mapped(picture_work if kind == "image" else clip_work)

    class Encoder(energon_api.TaskEncoder):
        cookers = [energon_api.Cooker(energon_api.stateless(mapped))]  # noqa: RUF012 - Energon's interface

        def encode_sample(self, sample: Any) -> Any:
            return sample

        def batch(self, samples: list[Any]) -> Any:
            return stack(samples)

    dataset = energon_api.get_train_dataset(
        root,
        batch_size=BATCH[kind],
        shuffle_buffer_size=BLOCK[kind] // max(1, workers),
        max_samples_per_sequence=None,
        worker_config=energon_api.WorkerConfig(rank=0, world_size=1, num_workers=workers),
        task_encoder=Encoder(),
    )
    steps = SHARDS * PER_SHARD[kind] // BATCH[kind]
    with contextlib.closing(iter(energon_api.get_savable_loader(dataset))) as batches:  # pyright: ignore
        for _ in range(steps):
            yield next(batches)


def measure(batches: Iterator[Any], kind: str) -> tuple[float, float]:
    """Samples a second after the first batch, and CPU milliseconds of a sample in this process and its workers."""
    cpu = cpu_seconds()
    next(batches)
    start, count = time.perf_counter(), 0
    for _ in batches:
        count += BATCH[kind]
    rate = count / (time.perf_counter() - start)
    del batches
    gc.collect()
    for worker in multiprocessing.active_children():  # their time counts from their end on
        worker.join(10)
    return rate, 1000 * (cpu_seconds() - cpu) / (count + BATCH[kind])


def cpu_seconds() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def peers(root: Path) -> dict[str, Callable[[str, int], Iterator[Any]]]:
    add_peers()
    found = {"ours": lambda kind, w: ours(root, kind, w), "webdataset": lambda kind, w: webdataset(root, kind, w)}
    try:
        prepared = prepare_energon(root)
    except ImportError as error:
        print(f"Megatron-Energon is not installed ({error}): left out")
        return found
    return {**found, "energon": lambda kind, w: energon(prepared, kind, w)}


def data_wait(root: Path, kind: str, workers: int) -> float:
    """Share of a training run's time that goes by waiting for data, without the first step's."""
    settings = TrainSettings(
        stage=1 if kind == "image" else 2,
        data=(root,),
        output=root.with_name(f"{kind}-run"),
        base="tiny",
        pose_encoder=None if kind == "image" else "none",
        max_steps=20,
        batch_size=BATCH[kind],
        picture=PictureSettings(size=FRAMING.size),
        loader=LoaderSettings(workers=workers),
        watch=WatchSettings(probe_every=0, sample_every=0, tensorboard=False, mfu=False),
    )
    run(settings)
    lines = [line for line in read_metrics(settings.output / METRICS_NAME) if "loss" in line][1:]  # pyright: ignore
    return statistics.mean(line["data_wait"] for line in lines)


def report(kind: str, rounds: dict[str, list[tuple[float, float]]]) -> dict[str, float]:
    """Prints a line for each loader; returns the medians."""
    result = {}
    unit = {"image": "pictures/s", "video": "clips/s (8 frames)"}[kind]
    for name, measured in rounds.items():
        rate, cpu_ms = (statistics.median(column) for column in zip(*measured, strict=True))
        pairs = list(zip(rounds["ours"], measured, strict=True))
        faster = statistics.median(mine[0] / theirs[0] for mine, theirs in pairs)
        cheaper = statistics.median(theirs[1] / mine[1] for mine, theirs in pairs)
        print(
            f"{kind:6} {name:11} {rate:8.1f} {unit}, {cpu_ms:.2f} ms of CPU each; ours is {faster:.2f} times as fast, "
            f"by CPU time {cheaper:.2f}"
        )
        result |= {name: round(rate, 1), f"ours_to_{name}": round(faster, 3), f"ours_to_{name}_cpu": round(cheaper, 3)}
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()
    result: dict[str, dict[str, float]] = {}
    for kind in ("image", "video"):
        with tempfile.TemporaryDirectory() as work:
            shards = write_shards(Path(work) / kind, kind)
            loaders = peers(shards)
            # the same for all: threads of OpenCV do not outlive a fork
            cv2.setNumThreads(1)
            rates: dict[str, list[tuple[float, float]]] = {name: [] for name in loaders}
            for turn in range(arguments.rounds):
                names = list(loaders)
                for name in names[turn % len(names) :] + names[: turn % len(names)]:
                    rates[name].append(measure(loaders[name](kind, arguments.workers), kind))
            waiting = data_wait(shards, kind, arguments.workers)
        result[kind] = report(kind, rates)
        print(f"{kind:6} a training run waits for data in {100 * waiting:.2f} % of its time")
        result[kind]["data_wait"] = waiting
    print(json.dumps(result))


if __name__ == "__main__":
    main()
