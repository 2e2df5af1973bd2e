"""Where things lie in a dataset folder (docs/guide/dataset.md)."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from lposekit.records import shard_name
from lposekit.remote.places import place_of, store_of
from lposekit.shards.stats import ShardStats, read_stats
from lposekit.store import Store

META_DIR = "_dataset"
CARD_NAME = "dataset.json"
SCHEMA_VERSION = 1
_SHARD_FILE = re.compile(r"(\d{5,18})(\.tar|\.parquet|_stats\.json)", re.ASCII)
_LEADING_DIGITS = re.compile(r"\d{1,100}", re.ASCII)
MARKER_SUFFIX = "_stats.json"
_ASIDE_NAME = re.compile(r"^(\d{5,18})_stats\.json\.[^.]+\.replaced$")


@dataclass(frozen=True, slots=True)
class DatasetLayout:
    """Paths of one dataset folder. `root` may be an address of an object store, as `str` or as what `Path` makes of it:
    then the paths are for reading through `store`, and for messages."""

    root: Path

    def __post_init__(self) -> None:
        object.__setattr__(self, "root", place_of(self.root))

    @property
    def store(self) -> Store:
        """What the folder is read through; the paths below are for writing, and for messages."""
        return store_of(self.root)

    @property
    def meta(self) -> Path:
        return self.root / META_DIR

    @property
    def card(self) -> Path:
        return self.meta / CARD_NAME

    @property
    def private(self) -> Path:
        """What the card does not tell the world: see `lposekit.shards.private`."""
        return self.meta / "private.json"

    @property
    def removed(self) -> Path:
        """What was taken out and must not come back: see `pipelines.fetch.removals`."""
        return self.meta / "removed.json"

    @property
    def latents(self) -> Path:
        """Caches of VAE latents, a dataset folder each."""
        return self.meta / "latents"

    @property
    def log(self) -> Path:
        return self.meta / "log.jsonl"

    @property
    def work(self) -> Path:
        """Files of shards that are being built; none of them outlives its run."""
        return self.meta / "work"

    @property
    def report(self) -> Path:
        return self.meta / "report" / "index.html"

    def tar(self, shard: int) -> Path:
        return self.root / f"{shard_name(shard)}.tar"

    def parquet(self, shard: int) -> Path:
        return self.root / f"{shard_name(shard)}.parquet"

    def stats(self, shard: int) -> Path:
        return self.root / f"{shard_name(shard)}_stats.json"

    def index(self, shard: int) -> Path:
        return self.meta / "index" / f"{shard_name(shard)}.parquet"

    @property
    def whole_index(self) -> Path:
        """The index of all shards in one file, made by readers: see `lposekit.shards.whole_index`."""
        return self.meta / "index.bin"

    def thumbnails(self, shard: int) -> Path:
        return self.meta / "thumbnails" / f"{shard_name(shard)}.parquet"

    def relative(self, path: Path) -> str:
        return path.relative_to(self.root).as_posix()

    def half_replaced_shards(self) -> list[int]:
        """Shards whose marker is set aside, and whose new one is not there yet (`lposekit.shards.writer.publish`)."""
        try:
            names = self.store.list()
        except (FileNotFoundError, NotADirectoryError):
            return []
        aside = {shard for shard in map(shard_set_aside, names) if shard is not None}
        return sorted(shard for shard in aside if self.stats(shard).name not in names)

    def committed_shards(self) -> list[int]:
        """Shards with a commit marker, in order. What has none does not exist for a reader."""
        try:
            named = (shard_file(entry.name) for entry in self.store.scan())
            return sorted(found[0] for found in named if found is not None and found[1] == MARKER_SUFFIX)
        except (FileNotFoundError, NotADirectoryError):
            return []

    def read_stats(self, shard: int) -> ShardStats:
        """The commit marker of a shard.

        Raises:
            LposekitError: it is missing or damaged.
        """
        return read_stats(self.store, self.relative(self.stats(shard)))


def shard_set_aside(name: str) -> int | None:
    """The shard whose old marker a file is, set aside while the shard is replaced; None if it is none."""
    found = _ASIDE_NAME.match(name)
    return int(found[1]) if found else None


def shard_file(name: str) -> tuple[int, str] | None:
    """Number and ending of a file of a shard by its name; None if it is none: shard 12 is 00012, and not 000012."""
    found = _SHARD_FILE.fullmatch(name)
    if found is None or shard_name(number := int(found[1])) != found[1]:
        return None
    return number, found[2]


def by_number(name: str) -> tuple[int, str]:
    """To sort names and keys that begin with digits by their numbers: 100000 comes after 99999."""
    digits = _LEADING_DIGITS.match(name)
    return (int(digits[0]) if digits else -1), name


def sha256_file(path: Path) -> str:
    """SHA-256 of a file, as hexadecimal digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sum_counts(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """Counters added up by name, names sorted."""
    total: dict[str, int] = {}
    for count in counts:
        for name, number in count.items():
            total[name] = total.get(name, 0) + number
    return dict(sorted(total.items()))
