"""Samples a second with the model removed: ours, plain webdataset and Megatron-Energon, on the same shards.

    python -m tests.benchmarks.loader [--size 512] [--workers 2] [--rounds 5]

All three read the same tars with the same number of worker processes and run the same functions on a sample's bytes:
decode, random crop, draw the skeleton (images) or decode 8 frames at stride 4 (clips), draw the timestep, the noise and
the latent's noise from the sample's own streams. They shuffle, stack the arrays into shared memory, and hand over the
same tensors in batches of 16 images or 2 clips. Ours and Energon's keep the state that they resume from; webdataset has
none, so it is the fastest of the three to be asked for. Each round opens a fresh loader; both clocks start at its first
batch. Then a training run on the same shards (base `tiny`, on the same cores) says which part of its time it waited
for data. Energon is left out where it is not installed (`make bench` installs it).
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import io
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import av
import cv2
import numpy as np
import pyarrow as pa
import torch

from lposekit.json_values import JsonObject
from lposekit.keypoints import KEYPOINT_FORMATS
from lposekit.records import Person, sample_key
from lposekit.shards.card import DatasetCard, claim_folder, update_card
from lposekit.shards.layout import DatasetLayout
from lposekit.shards.pose_json import person_record, pose_json
from lposekit.shards.stats import ShardStats
from lposekit.shards.writer import ShardWriter
from tests.benchmarks.peers import add_peers
from tests.benchmarks.rounds import Spread, Timing, alternate, ratio, table, timed, versions
from tests.support.fixtures import fixtures_root
from tests.support.train_data import POSE_CARD
from trainer.data.batch import Batch, Sample, stack_samples
from trainer.data.catalog import open_catalog
from trainer.data.decode import (
    ClipPlan,
    Framing,
    Skeleton,
    decode_clip,
    decode_skeleton,
    decode_training_image,
    read_clip_facts,
)
from trainer.data.loader import BatchSplit, SampleLoader
from trainer.data.order import OrderState, SampleOrder, SampleRef
from trainer.data.random import SampleRandom
from trainer.data.reader import SampleReader, SampleRecipe
from trainer.run.metrics import METRICS_NAME, read_metrics
from trainer.settings import FramingSettings, LoaderSettings, TrainSettings, WatchSettings
from trainer.train import run

SHARDS = 4
PER_SHARD = {"image": 300, "video": 40}
BATCH = {"image": 16, "video": 2}
UNIT = {"image": "images", "video": "clips"}
STORED_SIDE = 512
"""Shorter side of what the builds store."""
CLIP_FRAMES, CLIP_WIDTH, CLIP_HEIGHT = 48, 910, 512
TRAINING_BATCH, TRAINING_STEPS = {"image": 4, "video": 1}, 5
"""Of the training run: on a CPU, a step at 512 pixels takes seconds."""


@dataclass(frozen=True)
class Job:
    """What every loader does. root: the dataset's folder. samples: of all shards together."""

    kind: str
    root: Path
    samples: int
    workers: int
    size: int

    @cached_property
    def recipe(self) -> SampleRecipe:
        framing = Framing(self.size, "random", 0.5)
        if self.kind == "image":
            return SampleRecipe(framing, 0, skeleton=Skeleton())
        return SampleRecipe(framing, 0, clip=ClipPlan(8, 4))

    @property
    def batch(self) -> int:
        return BATCH[self.kind]

    @property
    def steps(self) -> int:
        return self.samples // self.batch

    @property
    def pool(self) -> int:
        """Samples among which a loader shuffles, all its workers together."""
        return self.samples // 2

    @property
    def tars(self) -> list[Path]:
        return sorted(self.root.glob("*.tar"))


class PeerWork:
    """A sample of a peer's loader as `SampleReader` makes it, with the crop, frames and noise drawn for it there."""

    def __init__(self, recipe: SampleRecipe) -> None:
        self.recipe = recipe
        self.noise = SampleReader([], recipe)._noise

    def __call__(self, sample: dict[str, Any]) -> Sample:
        key = sample["__key__"].rpartition("/")[-1]
        shard, row = divmod(int(key), 10**4)
        random = SampleRandom(self.recipe.seed, SampleRef(0, shard, row, 0))
        rgb_FHWC, skeleton_FHWC = self.clip(sample, random) if self.recipe.clip else self.image(sample, random)
        timestep, noise_CFHW, latent_noise_FCHW = self.noise(random, len(rgb_FHWC))
        caption = sample["txt"].decode()
        return Sample(key, caption, timestep, noise_CFHW, latent_noise_FCHW, rgb_FHWC, skeleton_FHWC)

    def image(self, members: dict[str, Any], random: SampleRandom) -> tuple[Any, Any]:
        assert self.recipe.skeleton is not None
        rgb_HWC, geometry = decode_training_image(members["jpg"], self.recipe.framing, random)
        return rgb_HWC[None], decode_skeleton(members["pose.json"], geometry, self.recipe.skeleton)[None]

    def clip(self, members: dict[str, Any], random: SampleRandom) -> tuple[Any, None]:
        assert self.recipe.clip is not None
        wanted_F = self.recipe.clip.indices(*read_clip_facts(members["json"]), random)
        return decode_clip(members["mp4"], wanted_F, self.recipe.framing, random), None


def stack(samples: list[Sample]) -> dict[str, Any]:
    """As our workers do: large arrays are stacked in shared memory, small ones go through the pipe."""
    return stack_samples(samples).packed()


def ours(job: Job) -> Iterator[Batch]:
    datasets = open_catalog([job.root], job.kind)
    order = SampleOrder([[len(shard) for shard in datasets[0].shards]], [1], 0, job.pool)
    loader = SampleLoader(SampleReader(datasets, job.recipe), order, BatchSplit(job.batch, job.batch), job.workers, 2)
    state = OrderState()
    for batch in loader.batches(state, job.steps):
        state = loader.advance(state)
        yield batch


def one_core(worker: int) -> None:
    torch.set_num_threads(1)


def webdataset(job: Job) -> Iterator[Batch]:
    import webdataset as wds

    dataset = (
        wds.WebDataset(
            [str(path) for path in job.tars], shardshuffle=SHARDS, seed=0, workersplitter=wds.split_by_worker
        )
        .shuffle(job.pool // max(1, job.workers))
        .map(PeerWork(job.recipe))
        .batched(job.batch, collation_fn=stack)
    )
    loader = torch.utils.data.DataLoader(
        dataset, batch_size=None, num_workers=job.workers, prefetch_factor=2, worker_init_fn=one_core
    )
    yield from map(Batch.unpacked, loader)


def prepare_energon(job: Job) -> Path:
    """Energon's own index, in a folder of links to the same tars."""
    from megatron.energon.epathlib import EPath
    from megatron.energon.flavors import BaseWebdatasetFactory

    folder = job.root.with_name(f"{job.root.name}-energon")
    folder.mkdir()
    names = [path.name for path in job.tars]
    for name in names:
        os.link(job.root / name, folder / name)
    with contextlib.redirect_stdout(sys.stderr):
        BaseWebdatasetFactory.prepare_dataset(EPath(folder), names, split_parts_ratio=[("train", 1.0)], workers=1)
    (folder / ".nv-meta/dataset.yaml").write_text(
        "__module__: megatron.energon\n__class__: CrudeWebdataset\ndecoder: null\n"
    )
    return folder


def energon(job: Job, prepared: Path) -> Iterator[Batch]:
    import megatron.energon as energon_api

    work = PeerWork(job.recipe)

    class Encoder(energon_api.TaskEncoder):
        cookers = [energon_api.Cooker(energon_api.stateless(work))]  # noqa: RUF012 - Energon's interface

        def encode_sample(self, sample: Any) -> Any:
            return sample

        def batch(self, samples: list[Any]) -> Any:
            return stack(samples)

    dataset = energon_api.get_train_dataset(
        prepared,
        batch_size=job.batch,
        shuffle_buffer_size=job.pool // max(1, job.workers),
        max_samples_per_sequence=None,
        worker_config=energon_api.WorkerConfig(rank=0, world_size=1, num_workers=job.workers),
        task_encoder=Encoder(),
    )
    with contextlib.closing(iter(energon_api.get_savable_loader(dataset))) as batches:  # pyright: ignore
        for _ in range(job.steps):
            yield Batch.unpacked(next(batches))


def loaders(job: Job) -> dict[str, Callable[[], Iterator[Batch]]]:
    """Each opens a fresh loader over all samples."""
    found: dict[str, Callable[[], Iterator[Batch]]] = {"ours": lambda: ours(job), "webdataset": lambda: webdataset(job)}
    try:
        prepared = prepare_energon(job)
    except ImportError as error:
        print(f"Megatron-Energon is not installed ({error}): left out")
        return found
    return {**found, "energon": lambda: energon(job, prepared)}


def measure(batches: Iterator[Batch], job: Job) -> Timing:
    """Seconds a sample after the first batch, of this process and its workers."""
    check(next(batches), job)
    count = 0

    def drain() -> None:
        nonlocal count
        for batch in batches:
            count += len(batch)

    timing = timed(drain)
    gc.collect()
    return Timing(timing.wall_s / count, timing.cpu_s / count)


def check(batch: Batch, job: Job) -> None:
    """Every loader must hand over the same tensors."""
    frames, side = job.recipe.frames, job.size // 8
    assert batch.rgb_BFHWC is not None
    assert batch.rgb_BFHWC.shape == (job.batch, frames, job.size, job.size, 3)
    assert batch.noise_BCFHW.shape == (job.batch, 4, frames, side, side)
    assert batch.latent_noise_BFCHW.shape == (job.batch, frames, 4, side, side)
    assert (batch.skeleton_BFHWC is not None) == (job.kind == "image")


def photos() -> list[np.ndarray]:
    """Photos of the fixtures; noise where there are none."""
    files = sorted((fixtures_root() / "data/images").glob("*.jpg"))[:40]
    loaded = [cv2.imread(str(path)) for path in files]
    found = [bgr_HWC for bgr_HWC in loaded if bgr_HWC is not None]
    return found or [np.random.default_rng(0).integers(0, 255, (600, 512, 3), np.uint8)]


def scaled(bgr_HWC: np.ndarray, height: int, width: int) -> np.ndarray:
    """Scaled so that it just covers height x width."""
    factor = max(height / bgr_HWC.shape[0], width / bgr_HWC.shape[1])
    shape = (max(width, round(bgr_HWC.shape[1] * factor)), max(height, round(bgr_HWC.shape[0] * factor)))
    return cv2.resize(bgr_HWC, shape, interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC)


def image_members(photo_HWC: np.ndarray, number: int) -> dict[str, bytes]:
    """A photo as the build stores it, with two persons of random keypoints."""
    bgr_HWC = scaled(photo_HWC, STORED_SIDE, STORED_SIDE)
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


def pan_members(photo_HWC: np.ndarray, number: int) -> dict[str, bytes]:
    """A clip that pans over a photo, encoded as the build does: key frames 12 apart, no B-frames."""
    bgr_HWC = scaled(photo_HWC, CLIP_HEIGHT + CLIP_FRAMES, CLIP_WIDTH + CLIP_FRAMES)
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        options = {"g": "12", "bf": "0", "crf": "22", "preset": "veryfast", "sc_threshold": "0", "mbtree": "0"}
        stream = container.add_stream("libx264", rate=24, options=options)
        stream.width, stream.height, stream.pix_fmt = CLIP_WIDTH, CLIP_HEIGHT, "yuv420p"
        for frame in range(CLIP_FRAMES):
            window = np.ascontiguousarray(bgr_HWC[frame : frame + CLIP_HEIGHT, frame : frame + CLIP_WIDTH])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(window, format="bgr24")))
        container.mux(stream.encode(None))
    facts = {"num_frames": CLIP_FRAMES, "fps": 24.0}
    return {"json": json.dumps(facts).encode(), "mp4": buffer.getvalue(), "txt": f"clip {number}".encode()}


def write_shards(root: Path, kind: str, per_shard: int) -> str:
    """A dataset folder of synthetic samples; returns a description."""
    root.mkdir()
    layout = DatasetLayout(root)
    claim_folder(layout, DatasetCard.from_json({"kind": kind, "fixed": {}, **cast(JsonObject, POSE_CARD)}))
    make, sources = (image_members, photos()) if kind == "image" else (pan_members, photos()[:12])
    made = [make(photo_HWC, number) for number, photo_HWC in enumerate(sources)]
    for shard in range(SHARDS):
        writer = ShardWriter(layout, shard, "bench")
        keys = [sample_key(shard, row) for row in range(per_shard)]
        for row, key in enumerate(keys):
            writer.add(key, made[(shard * per_shard + row) % len(made)])
        writer.commit(pa.table({"key": keys}), ShardStats(count=len(keys), outcomes={}))
    update_card(layout)
    member = "jpg" if kind == "image" else "mp4"
    size_kb = statistics.mean(len(members[member]) for members in made) / 1000
    what = f"JPEGs, shorter side {STORED_SIDE}, quality 95, with pose.json and caption"
    if kind == "video":
        what = f"H.264 clips of {CLIP_FRAMES} frames, {CLIP_WIDTH}x{CLIP_HEIGHT}, a key frame every 12, no B-frames"
    return f"{SHARDS} tars of {per_shard} {what}; {len(made)} different ones, {size_kb:.0f} kB each in the mean"


def data_wait(job: Job) -> float:
    """Share of a training run's time that goes by waiting for data, without the first step's."""
    settings = TrainSettings(
        stage=1 if job.kind == "image" else 2,
        data=(job.root,),
        output=job.root.with_name(f"{job.kind}-run"),
        base="tiny",
        pose_encoder="" if job.kind == "image" else "none",
        max_steps=TRAINING_STEPS,
        batch_size=TRAINING_BATCH[job.kind],
        image=FramingSettings(size=job.size),
        loader=LoaderSettings(workers=job.workers),
        watch=WatchSettings(probe_every=0, sample_every=0, tensorboard=False, mfu=False),
    )
    run(settings)
    lines = [line for line in read_metrics(settings.output / METRICS_NAME) if "loss" in line][1:]  # pyright: ignore
    return statistics.mean(line["data_wait"] for line in lines)


def report(job: Job, shards: str, measured: dict[str, list[Timing]], waiting: float) -> dict[str, Any]:
    """Prints the table, the ratios (the strongest peer first) and the wait; returns the medians."""
    wall = {name: [one.wall_s for one in timings] for name, timings in measured.items()}
    cpu = {name: [one.cpu_s for one in timings] for name, timings in measured.items()}
    frames = "" if job.kind == "image" else f", {job.recipe.frames} frames each"
    tensors = f"uint8 at {job.size}x{job.size}{frames}, float32 noise and latent noise"
    print(f"\n{UNIT[job.kind]}: {shards}", f"handed over: batches of {job.batch}, {tensors}\n", sep="\n")
    rows = [
        [name, Spread.of([1 / s for s in wall[name]]), Spread.of(wall[name], 1000), Spread.of(cpu[name], 1000)]
        for name in measured
    ]
    print(table(["loader", f"{UNIT[job.kind]}/s", "wall ms each", "CPU ms each"], rows), end="\n\n")
    result: dict[str, Any] = {"data_wait": round(waiting, 4)}
    for name in sorted(set(measured) - {"ours"}, key=lambda peer: statistics.median(wall[peer])):
        by_wall, by_cpu = ratio(wall[name], wall["ours"]), ratio(cpu[name], cpu["ours"])
        print(f"{UNIT[job.kind]}, {name} / ours: wall {by_wall}, CPU {by_cpu}")
        result[f"{name}_over_ours"] = {"wall": round(by_wall.middle, 3), "cpu": round(by_cpu.middle, 3)}
    print(f"a training run (base tiny, on these cores) waits for data in {100 * waiting:.2f} % of its time")
    for name in measured:
        middle = {"wall_ms": 1000 * statistics.median(wall[name]), "cpu_ms": 1000 * statistics.median(cpu[name])}
        result[name] = {unit: round(value, 3) for unit, value in middle.items()}
    return result


def bench(kind: str, arguments: argparse.Namespace) -> dict[str, Any]:
    per_shard = arguments.per_shard or PER_SHARD[kind]
    with tempfile.TemporaryDirectory() as work:
        root = Path(work) / kind
        shards = write_shards(root, kind, per_shard)
        job = Job(kind, root, SHARDS * per_shard, arguments.workers, arguments.size)
        # the same for all: threads of OpenCV do not outlive a fork
        cv2.setNumThreads(1)
        forms = {name: lambda load=load: measure(load(), job) for name, load in loaders(job).items()}
        measured = alternate(forms, arguments.rounds)
        return report(job, shards, measured, data_wait(job))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", choices=("all", *BATCH), default="all")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--size", type=int, default=512, help="pixels a side of what is handed over")
    parser.add_argument("--per-shard", type=int, help="samples in each of the four shards: fewer for a try")
    arguments = parser.parse_args()
    add_peers()
    print(
        "peers: webdataset and Megatron-Energon over the same tars, with our functions for decoding, drawing, noise\n"
        f"and stacking; {arguments.workers} workers each, prefetch 2, shuffling among half of the samples"
    )
    print(versions("torch", "webdataset", "megatron-energon", "opencv-python-headless", "av", "numpy"))
    print(json.dumps({kind: bench(kind, arguments) for kind in BATCH if arguments.kind in ("all", kind)}))


if __name__ == "__main__":
    main()
