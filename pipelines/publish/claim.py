"""Whose a place is that something is pushed to: nobody's, that of earlier pushes, or somebody else's."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from lposekit.errors import UsageError
from lposekit.json_values import TEXT, JsonFields, list_of, parse_json_object
from lposekit.records import shard_name
from lposekit.shards.files import write_json
from lposekit.shards.layout import MARKER_SUFFIX, shard_file
from pipelines.publish.destinations import Destination

PUSHED = "_dataset/pushed.json"
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
    found = shard_file(name)
    return None if found is None or found[1] == MARKER_SUFFIX else f"{shard_name(found[0])}{MARKER_SUFFIX}"


def _is_of_dataset(name: str) -> bool:
    return shard_file(name) is not None or name.startswith("_dataset/") or name in _WORDS
