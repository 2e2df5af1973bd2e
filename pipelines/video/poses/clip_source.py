"""The clips that poses are found of: a dataset folder, its shards, and what tells it from every other one."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from lposekit.errors import UsageError
from lposekit.json_values import JsonObject
from lposekit.records import shard_name
from lposekit.shards.card import DatasetCard, read_card
from lposekit.shards.index import shards_to_read
from lposekit.shards.layout import DatasetLayout
from lposekit.store_reads import kind_of

REFUSED = {
    "image": "holds images, and their poses already (KEY.pose.json)",
    "poses": "holds poses, and no clips. Name the folder of the clips",
}
"""Why a dataset of another kind is no input."""


def is_dataset(path: Path) -> bool:
    """Whether it is a dataset folder, of whatever kind."""
    layout = DatasetLayout(path)
    try:
        return kind_of(layout.store, layout.relative(layout.card)) is not None
    except OSError:  # a file, a link on the way
        return False


@dataclass(frozen=True, slots=True)
class SourceShard:
    """One committed shard of clips. `tar_sha256`: hexadecimal, as committed."""

    number: int
    num_clips: int
    tar_sha256: str


@dataclass(frozen=True)
class ClipSource:
    """A dataset folder of clips."""

    layout: DatasetLayout
    card: DatasetCard

    def identity(self) -> JsonObject:
        """What the clips were made with, JSON-ready: poses of others do not continue a folder."""
        return {"kind": self.card.kind, "made_with": dict(self.card.fixed or {})}

    @cached_property
    def shards(self) -> tuple[SourceShard, ...]:
        """The committed shards, in order, as they were when first asked for.

        Raises:
            LposekitError: there is none, or a commit marker is damaged.
        """
        return tuple(map(self._shard, shards_to_read(self.layout)))

    def __getstate__(self) -> dict[str, object]:
        """What travels to the workers: their plans name the shards."""
        return {name: value for name, value in self.__dict__.items() if name != "shards"}

    def refuse_changed(self, poses: DatasetLayout) -> None:
        """Raises UsageError: shards of this source are no longer those that the committed poses were found of."""
        now = {shard.number: shard.tar_sha256 for shard in self.shards}
        made_from = {number: poses.read_stats(number).source_sha256 for number in poses.committed_shards()}
        changed = [number for number, sha256 in made_from.items() if sha256 is not None and now.get(number) != sha256]
        if changed:
            names = ", ".join(map(shard_name, changed[:5])) + (", ..." if changed[5:] else "")
            raise UsageError(
                f"{self.layout.root}: {len(changed)} of its shards changed since their poses were found ({names}). "
                f"Name another --output; or remove NNNNN_stats.json of these shards from {poses.root}, and the same "
                "command finds their poses anew."
            )

    def _shard(self, number: int) -> SourceShard:
        stats = self.layout.read_stats(number)
        tar = stats.files.get(self.layout.relative(self.layout.tar(number)))
        return SourceShard(number, stats.num_samples, "" if tar is None else tar.sha256)


def open_clip_source(names: tuple[str, ...], output: Path) -> ClipSource:
    """The dataset folder that the input names.

    Raises:
        UsageError: more than one input, a dataset without mp4 clips, or an output within it.
        LposekitError: it is no dataset folder, or its card is damaged.
    """
    if len(names) != 1:
        raise UsageError(f"--input {' '.join(names)}: a dataset folder must be the only input. Name it alone.")
    layout = DatasetLayout(Path(names[0]).resolve())
    card = read_card(layout)
    if card.kind != "video":
        why = REFUSED.get(card.kind, "holds no clips. Name a folder that `lposekit build-video-shards` wrote")
        raise UsageError(f"--input {names[0]}: a dataset of kind {card.kind!r}, which {why}.")
    if (card.settings or {}).get("encode.format") == "frames":
        raise UsageError(
            f"--input {names[0]}: built with --encode.format frames; poses are found of mp4 clips. Build it with "
            "--encode.format mp4."
        )
    if layout.root in (output.resolve(), *output.resolve().parents):
        raise UsageError(f"--output {output}: within the dataset of the clips. Name a folder of its own.")
    return ClipSource(layout, card)
