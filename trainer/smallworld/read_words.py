"""The words of a figure, read off its image: the reverse of drawing, for real renders and for samples alike."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from trainer.smallworld.draw import LIMB_COLOURS, Image
from trainer.smallworld.palette import nearest
from trainer.smallworld.words import BACKGROUNDS, CLOTHES, KINDS, SIZES, Words

BORDER = 2
"""Pixels along the border that show the background."""
FEWEST_PIXELS = 12
"""Of a colour, to be seen at all."""
SIZE_LIMIT_PX = 620
"""Pixels of a figure from which it counts as big."""
_COLOURS = (*BACKGROUNDS.values(), *CLOTHES.values(), *KINDS.values(), *LIMB_COLOURS.values())
_FIRST_CLOTHES = len(BACKGROUNDS)
_FIRST_KIND = _FIRST_CLOTHES + len(CLOTHES)


@dataclass(frozen=True, slots=True)
class SeenWords:
    """What an image shows; None: nothing that can be named. The kind is not read: grey and brown also come about
    where other colours mix."""

    size: str | None
    clothes: str | None
    background: str | None

    def agree(self, words: Words) -> dict[str, bool]:
        """Whether each is the word of the caption."""
        return {
            "size": self.size == words.size,
            "clothes": self.clothes == words.clothes,
            "background": self.background == words.background,
        }


def read_words(rgb_HWC: Image) -> SeenWords:
    """Size, clothes and background of an image, RGB uint8 [64, 64, 3]."""
    classes = nearest(rgb_HWC, _COLOURS)
    border = np.concatenate(
        [classes[:BORDER].ravel(), classes[-BORDER:].ravel(), classes[:, :BORDER].ravel(), classes[:, -BORDER:].ravel()]
    )
    background = _most(border, 0, list(BACKGROUNDS))
    clothes = _most(classes.ravel(), _FIRST_CLOTHES, list(CLOTHES))
    figure = int((classes >= _FIRST_CLOTHES).sum())
    size = None if figure < FEWEST_PIXELS else list(SIZES)[int(figure >= SIZE_LIMIT_PX)]
    return SeenWords(size, clothes, background)


def _most(classes: np.ndarray, first: int, words: list[str]) -> str | None:
    counts = [int((classes == first + i).sum()) for i in range(len(words))]
    return words[int(np.argmax(counts))] if max(counts) >= FEWEST_PIXELS else None
