"""`NNNNN_stats.json`: the commit marker of a shard, with the account of its rows and the hashes of its files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

from lposekit.errors import LposekitError
from lposekit.json_values import (
    COUNT,
    NUMBER,
    OBJECT,
    TEXT,
    JsonFields,
    JsonObject,
    JsonValue,
    known_values,
    object_of,
    read_json_object,
)
from lposekit.shards.files import write_json
from lposekit.store import Store

MAX_BYTES = 2**24


@dataclass(frozen=True, slots=True)
class FileFacts:
    """Length and SHA-256 (hexadecimal digits) of one file when it was committed."""

    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardStats:
    """What the commit marker of one shard says. A field that is None is not in the file.

    `count`: rows. `outcomes`: how they ended. `num_samples` and `files` (by path below the dataset folder) are
    filled in by the writer. Then img2dataset's own fields: times are Unix times, `duration` is in seconds.
    """

    count: int
    outcomes: Mapping[str, int]
    num_samples: int = 0
    files: Mapping[str, FileFacts] = field(default_factory=dict)
    successes: int | None = None
    failed_to_download: int | None = None
    failed_to_resize: int | None = None
    duration: float | None = None
    start_time: float | None = None
    end_time: float | None = None
    status_dict: Mapping[str, int] | None = None
    timings_s: Mapping[str, float] | None = None
    """Seconds by stage."""
    windows: int | None = None
    """Clip windows of the shard's videos: each is a clip, or dropped for a reason."""
    clips: int | None = None
    dropped: Mapping[str, int] | None = None
    source_sha256: str | None = None
    """Of cached latents: the tar that they were encoded from."""
    extra: JsonObject = field(default_factory=dict)
    """What else a kind counts, and the keys of newer versions: kept as they are."""

    @classmethod
    def from_json(cls, values: JsonObject) -> ShardStats:
        """From what the file holds.

        Raises:
            ValueError: names the key that is missing or wrong.
        """
        fields = JsonFields(values)
        return cls(
            count=fields.need("count", COUNT),
            outcomes=fields.need("outcomes", object_of(COUNT)),
            num_samples=fields.need("num_samples", COUNT),
            files=_files(fields.need("files", object_of(OBJECT))),
            successes=fields.take("successes", COUNT),
            failed_to_download=fields.take("failed_to_download", COUNT),
            failed_to_resize=fields.take("failed_to_resize", COUNT),
            duration=fields.take("duration", NUMBER),
            start_time=fields.take("start_time", NUMBER),
            end_time=fields.take("end_time", NUMBER),
            status_dict=fields.take("status_dict", object_of(COUNT)),
            timings_s=fields.take("timings_s", object_of(NUMBER)),
            windows=fields.take("windows", COUNT),
            clips=fields.take("clips", COUNT),
            dropped=fields.take("dropped", object_of(COUNT)),
            source_sha256=fields.take("source_sha256", TEXT),
            extra=fields.rest,
        )

    def as_json(self) -> dict[str, JsonValue]:
        files = {path: {"bytes": facts.bytes, "sha256": facts.sha256} for path, facts in self.files.items()}
        return {**known_values(replace(self, files={})), "files": files}

    def with_facts(self, facts: JsonObject) -> ShardStats:
        """With further keys, such as the account of a kind.

        Raises:
            ValueError: a known key has a wrong value.
        """
        return ShardStats.from_json({**self.as_json(), **facts})


def _files(values: Mapping[str, JsonObject]) -> dict[str, FileFacts]:
    files = {}
    for path, described in values.items():
        if PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts:
            raise ValueError(f"files: {path!r} lies outside the dataset folder")
        fields = JsonFields(described, f"files.{path}.")
        files[path] = FileFacts(fields.need("bytes", COUNT), fields.need("sha256", TEXT))
    return files


def load_stats(store: Store, name: str) -> ShardStats:
    """The commit marker of a shard, for callers with words of their own.

    Raises:
        OSError, ValueError: no marker, or a damaged one.
    """
    return ShardStats.from_json(read_json_object(store, name, MAX_BYTES))


def read_stats(store: Store, name: str) -> ShardStats:
    """The commit marker of a shard.

    Raises:
        LposekitError: it is missing or damaged.
    """
    try:
        return load_stats(store, name)
    except (OSError, ValueError) as error:
        raise LposekitError(
            f"{store}/{name}: the commit marker cannot be read ({error}). "
            f"Run `lposekit verify {store}` to see all damage."
        ) from error


def write_stats(path: Path, stats: ShardStats) -> None:
    """Write a commit marker.

    Raises:
        LposekitError: the disk is full, or the folder cannot be written.
    """
    write_json(path, stats.as_json())
