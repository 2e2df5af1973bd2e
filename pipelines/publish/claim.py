"""Whose a place is that something is pushed to: nobody's, that of earlier pushes, or somebody else's."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from lposekit.errors import UsageError
from lposekit.json_values import TEXT, JsonFields, list_of, parse_json_object
from lposekit.shards.files import write_json
from pipelines.publish.destinations import Destination

PUSHED = "_dataset/pushed.json"
_SHARD_FILE = re.compile(r"(\d{5,18})(\.tar|\.parquet|_stats\.json)", re.ASCII)
_WORDS = ("README.md", "index.html")
"""Files for people: those of others stay as they are."""


@dataclass(frozen=True, slots=True)
class Claim:
    """A place that may be pushed to. there: what lies there. others: of these, what stays, since it is not ours."""

    there: frozenset[str]
    others: frozenset[str]

    def stale(self, names: Collection[str]) -> set[str]:
        """What earlier pushes of a dataset left there and this one has not."""
        return {name for name in self.there - self.others if _is_of_dataset(name)} - set(names)


def claimed(place: Destination, what: str, to: str) -> Claim:
    """The claim on a place.

    Args:
        what: `dataset` or `run`.

    Raises:
        UsageError: it holds what no push of this kind put there.
    """
    there = place.names()
    words = there & set(_WORDS)
    if PUSHED not in there:
        if foreign := sorted(
            there - words - {".gitattributes"} if what == "run" else filter(_is_of_dataset, there - words)
        ):
            raise UsageError(
                f"--to {to}: holds files that no push put there ({', '.join(foreign[:3])}). Name an empty place."
            )
        return Claim(frozenset(there), frozenset(words))
    fields = JsonFields(parse_json_object(place.read(PUSHED)))
    before = fields.take("what", TEXT)
    if before != what:
        raise UsageError(f"--to {to}: a {before} was pushed there, and this is a {what}. Name another place.")
    return Claim(frozenset(there), frozenset(fields.take("others", list_of(TEXT)) or ()))


def write_claim(claim: Claim, what: str, path: Path) -> None:
    """The file that later pushes know the place by."""
    write_json(path, {"schema": 1, "what": what, "others": sorted(claim.others)})


def marker_of(name: str) -> str | None:
    """The commit marker of a shard's file, which must not stand while the file is replaced; None for other files."""
    match = _SHARD_FILE.fullmatch(name)
    return None if match is None or match[2] == "_stats.json" else f"{match[1]}_stats.json"


def _is_of_dataset(name: str) -> bool:
    return bool(_SHARD_FILE.fullmatch(name)) or name.startswith("_dataset/") or name in _WORDS
