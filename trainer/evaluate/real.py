"""The real frames of a protocol's pairs: those that the poses were estimated on, from the dataset that holds them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt

from lposekit.errors import LposekitError, UsageError
from lposekit.shards.dataset import PoseSample, open_dataset
from lposekit.shards.index import ShardIndex
from lposekit.stored_media import clip_stream, open_clip
from trainer.evaluate.protocol import Pair, Protocol
from trainer.inference.fit import Fit

Frames = npt.NDArray[np.uint8]
MEDIA = ("jpg", "mp4")
SHARD_DIGITS = 5
"""Of a key, at least; the rest is row and clip."""


class RealFrames:
    """The samples of a dataset by key."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._dataset = open_dataset(folder)
        self._places = {shard.name: place for place, shard in enumerate(self._dataset.shards)}

    def state(self, key: str) -> str:
        """Changes when the bytes of the pair's sample do: other clips in the folder, or another folder."""
        place = self._place(key)
        assert place is not None, "refuse_missing was not asked"
        shard, row = place
        facts = shard.tar_sha256, sorted(shard.members(row).items())
        return hashlib.sha256(repr(facts).encode()).hexdigest()

    def refuse_missing(self, protocol: Protocol) -> None:
        """Raises UsageError: a pair has no sample with frames here,"""
        if self._dataset.card.kind == "poses":
            raise UsageError(
                f"--real {self._folder}: holds poses, and no frames. Name the clips that they were found in."
            )
        missing = [pair.key for pair in protocol.pairs if not self._place(pair.key)]
        if missing:
            raise UsageError(
                f"--real {self._folder}: lacks {len(missing)} of {len(protocol.pairs)} samples of the protocol, "
                f"{missing[0]} among them. Name the dataset that the pairs came from."
            )

    def frames(self, pair: Pair, height: int, width: int) -> Frames:
        """The pair's frames, resized and cut as its skeleton is: uint8 [F, height, width, 3].

        Raises:
            LposekitError: they cannot be decoded.
        """
        place = self._place(pair.key)
        assert place is not None, "refuse_missing was not asked"
        sample = self._dataset.sample(*place)
        images = [sample.rgb_HWC] if "jpg" in sample.members else self._clip(sample, pair.frames)
        fit = Fit(height, width)
        return np.stack([fit.image(rgb_HWC) for rgb_HWC in images])

    def _place(self, key: str) -> tuple[ShardIndex, int] | None:
        """Shard and row of a sample that has frames; None if there is none."""
        for length in range(SHARD_DIGITS, len(key)):
            place = self._places.get(key[:length])
            shard = None if place is None else self._dataset.shards[place]
            row = None if shard is None else shard.row_of(key)
            if shard is not None and row is not None and any(name in shard.members(row) for name in MEDIA):
                return shard, row
        return None

    def _clip(self, sample: PoseSample, frames: Sequence[int]) -> list[Frames]:
        wanted, found = set(frames), {}
        try:
            with open_clip(sample.members["mp4"]) as container:
                for number, frame in enumerate(container.decode(clip_stream(container))):
                    if number in wanted:
                        found[number] = np.asarray(frame.to_ndarray(format="rgb24"), np.uint8)
                    if len(found) == len(wanted):
                        break
        except (av.FFmpegError, ValueError) as error:
            raise self._damaged(sample, str(error)) from error
        if len(found) < len(wanted):
            raise self._damaged(sample, f"it ends before frame {max(wanted)}")
        return [found[number] for number in frames]

    def _damaged(self, sample: PoseSample, reason: str) -> LposekitError:
        return LposekitError(
            f"--real {self._folder}: the clip {sample.key} cannot be read ({reason}). Run `lposekit verify` on it."
        )
