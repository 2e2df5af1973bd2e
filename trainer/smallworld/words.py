"""What a caption of the small world can say, and which combinations of words training never sees.

A caption names four things: the size of the figure, its kind (the colour of its head), the colour of its clothes and
that of the background. It says nothing of the pose.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

Rgb = tuple[int, int, int]

SIZES: dict[str, float] = {"small": 38.0, "big": 54.0}
"""Word -> height of the standing figure, in pixels of a 64-pixel image."""
KINDS: dict[str, Rgb] = {"ghost": (250, 250, 250), "bear": (120, 70, 30), "robot": (130, 130, 130)}
"""Word -> colour of the head."""
CLOTHES: dict[str, Rgb] = {"red": (120, 20, 40), "green": (20, 90, 40), "blue": (20, 40, 120), "black": (20, 20, 20)}
"""Word -> colour of the trunk: dark, unlike limbs and backgrounds."""
BACKGROUNDS: dict[str, Rgb] = {
    "pink": (245, 190, 205),
    "mint": (185, 235, 200),
    "sky": (180, 210, 250),
    "sand": (240, 225, 175),
}
"""Word -> colour of the background: pale, unlike limbs and clothes."""
HELD_OUT_MODULUS = 6
"""One combination in so many is held out."""


@dataclass(frozen=True, slots=True)
class Words:
    """The four words of a figure, each a key of its table."""

    size: str
    kind: str
    clothes: str
    background: str

    @property
    def caption(self) -> str:
        return f"a {self.size} {self.kind} in {self.clothes} clothes on a {self.background} background"


def read_caption(caption: str) -> Words:
    """The words of a caption. Raises ValueError: it is none of this world."""
    for words in ALL_WORDS:
        if words.caption == caption:
            return words
    raise ValueError(f"{caption!r} is no caption of the small world, such as {ALL_WORDS[0].caption!r}")


def is_held_out(words: Words) -> bool:
    """Whether training never sees this combination. It sees every pair of its words together in another one."""
    places = [list(table).index(word) for table, word in zip(_TABLES, _of(words), strict=True)]
    return sum(step * place for step, place in zip(_STEPS, places, strict=True)) % HELD_OUT_MODULUS == 0


def _of(words: Words) -> tuple[str, str, str, str]:
    return words.size, words.kind, words.clothes, words.background


_STEPS = (3, 2, 1, 1)
_TABLES = (SIZES, KINDS, CLOTHES, BACKGROUNDS)
ALL_WORDS = tuple(Words(*words) for words in itertools.product(*_TABLES))
TRAINING_WORDS = tuple(words for words in ALL_WORDS if not is_held_out(words))
HELD_OUT_WORDS = tuple(words for words in ALL_WORDS if is_held_out(words))
