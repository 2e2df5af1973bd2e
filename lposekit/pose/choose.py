"""Which persons of a video's poses are used."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np

from lposekit.errors import UsageError
from lposekit.pose.tracks import PersonTrack, PoseTracks

WORDS = ("largest", "longest", "all")
_IDS = re.compile(r"\d{1,9}(,\d{1,9})*", re.ASCII)


def check_choice(choice: str) -> None:
    """Refuse, before any work, what `select_persons` would not understand.

    Raises:
        UsageError: neither a word of `WORDS` nor ids.
    """
    if choice not in WORDS and not _IDS.fullmatch(choice):
        raise UsageError(f"persons {choice!r}: give {', '.join(WORDS)}, or ids with commas between them (1,3).")


def select_persons(tracks: PoseTracks, choice: str) -> PoseTracks:
    """The poses with the chosen persons only. Nobody stays nobody.

    `choice`: `largest` is the one whose box covers most, summed over the frames, so that neither somebody who
    passes close by nor a bystander far away wins; `longest` the one in most frames (the larger of two); `all`; or
    ids, `1,3`, in the order given.

    Raises:
        UsageError: no such word, or an id that the poses do not have.
    """
    check_choice(choice)
    if choice == "all" or (choice in WORDS and not tracks.persons):
        return tracks
    if choice == "largest":
        return replace(tracks, persons=(max(tracks.persons, key=total_area),))
    if choice == "longest":
        return replace(tracks, persons=(max(tracks.persons, key=lambda p: (int(p.present_F.sum()), total_area(p))),))
    by_id = {person.id: person for person in tracks.persons}
    asked = list(dict.fromkeys(int(text) for text in choice.split(",")))
    if unknown := [number for number in asked if number not in by_id]:
        there = ", ".join(map(str, by_id)) or "none"
        raise UsageError(f"persons {choice}: there is no person {unknown[0]}. These are there: {there}.")
    return replace(tracks, persons=tuple(by_id[number] for number in asked))


def most_prominent(tracks: PoseTracks, count: int) -> PoseTracks:
    """The poses with at most `count` persons: those that cover most, in their order."""
    largest = sorted(tracks.persons, key=lambda person: -total_area(person))[:count]
    return replace(tracks, persons=tuple(person for person in tracks.persons if person in largest))


def total_area(person: PersonTrack) -> float:
    """The areas of the person's boxes, summed over the frames, in square pixels."""
    return float(np.nansum(person.boxes_F5[:, 2].astype(np.float64) * person.boxes_F5[:, 3]))
