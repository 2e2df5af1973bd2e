"""What a cache costs, before it is written: frames and bytes from some of the samples, hours from a short
measurement."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lposekit.report.page import file_size
from lposekit.shards.index import ShardIndex
from lposekit.stage_times import StageTimes
from lposekit.words import counted, seconds_in_words
from trainer.cache_latents.encoder import Encoder
from trainer.cache_latents.frames import FrameReader
from trainer.cache_latents.shard import moments_of

SAMPLES_COUNTED = 256
MEASURED_S = 5.0
TAR_BLOCK, NPY_HEADER = 512, 128


@dataclass(frozen=True, slots=True)
class Speed:
    """Seconds of one frame, decoded and encoded by one process each."""

    decode_s: float
    encode_s: float


@dataclass(frozen=True, slots=True)
class Cost:
    """What is left to encode. `exact`: every sample was counted. `cpus`: cores of this machine."""

    samples: int
    frames: int
    num_bytes: int
    exact: bool
    speed: Speed | None = None

    def lines(self, workers: int, encoders: int) -> list[str]:
        """For people. `encoders`: processes with a VAE that the workers share; 0: each worker has its own."""
        about = "" if self.exact else "about "
        sizes = f"{counted(self.samples, 'sample')}, {about}{counted(self.frames, 'frame')}, {about}"
        lines = [f"to encode: {sizes}{file_size(self.num_bytes)}"]
        if self.speed is None:
            return [*lines, "how long that takes is not known: this machine has no such device to measure on"]
        seconds = self.seconds(self.speed, workers, encoders)
        with_vaes = f" and {counted(encoders, 'shared VAE')}" if encoders else ""
        decode, encode = 1000 * self.speed.decode_s, 1000 * self.speed.encode_s
        measured = f"measured here: {decode:.1f} ms to decode a frame, {encode:.1f} ms to encode it"
        return [*lines, f"about {seconds_in_words(seconds)} with {counted(workers, 'worker')}{with_vaes} ({measured})"]

    def seconds(self, speed: Speed, workers: int, encoders: int) -> float:
        """Time for all of it, if as many cores are there."""
        if encoders:
            return self.frames * max(speed.decode_s / workers, speed.encode_s / encoders)
        return self.frames * (speed.decode_s + speed.encode_s) / workers


def sizes_of(reader: FrameReader, shards: Sequence[ShardIndex], frame_bytes: int) -> Cost:
    """Frames and bytes of shards, from at most `SAMPLES_COUNTED` samples, spread evenly."""
    total = sum(len(shard) for shard in shards)
    counts = np.array([reader.count(shard, row) for shard, row in _spread(shards, total)], np.int64)
    if not len(counts):
        return Cost(0, 0, 0, exact=True)
    blocks = -(-(NPY_HEADER + counts * frame_bytes) // TAR_BLOCK) + 1
    scale = total / len(counts)
    frames, num_bytes = scale * counts.sum(), scale * TAR_BLOCK * blocks.sum()
    return Cost(total, round(frames), round(num_bytes), exact=total == len(counts))


def measure_speed(reader: FrameReader, shards: Sequence[ShardIndex], encoder: Encoder, batch_size: int) -> Speed | None:
    """From a few seconds of work, the first batch aside; None if there is none."""
    times, frames, begun = StageTimes(), 0, Speed(0.0, 0.0)
    deadline = time.monotonic() + MEASURED_S
    images = times.each("decode", _some_frames(reader, shards))
    while group := list(itertools.islice(images, batch_size)):
        list(moments_of(group, encoder, batch_size, times))
        now = _speed(times, 1)
        frames += len(group)
        if frames == len(group):
            begun = now  # the first batch also loads what is loaded once
        elif time.monotonic() > deadline:
            break
    timed = frames - batch_size if frames > batch_size else frames
    if not timed:
        return None
    last, first = _speed(times, 1), begun if frames > batch_size else Speed(0.0, 0.0)
    return Speed((last.decode_s - first.decode_s) / timed, (last.encode_s - first.encode_s) / timed)


def _speed(times: StageTimes, frames: int) -> Speed:
    seconds = times.as_dict()
    return Speed(seconds.get("decode", 0.0) / frames, seconds.get("encode", 0.0) / frames)


def _some_frames(reader: FrameReader, shards: Sequence[ShardIndex]) -> Iterator[npt.NDArray[np.uint8]]:
    for shard, row in _spread(shards, sum(len(shard) for shard in shards)):
        yield from reader.frames(shard, row)


def _spread(shards: Sequence[ShardIndex], total: int) -> Iterator[tuple[ShardIndex, int]]:
    """Shard and row of at most `SAMPLES_COUNTED` of `total` samples."""
    wanted = min(total, SAMPLES_COUNTED)
    places = [i * total // wanted for i in range(wanted)]
    first = 0
    for shard in shards:
        while places and places[0] < first + len(shard):
            yield shard, places.pop(0) - first
        first += len(shard)


def workers_here() -> int:
    """As many as a build starts by default on this machine."""
    return len(os.sched_getaffinity(0))
