"""Contract of a draw's randomness: every part of its name, the seed and the use change it, and nothing else does."""

from __future__ import annotations

import dataclasses
from typing import get_args

import pytest

from trainer.data.order import SampleRef
from trainer.data.random import SampleRandom, Use

DRAW = SampleRandom(7, SampleRef(dataset=1, shard=2, row=3, visit=4))


def first(draw: SampleRandom, use: Use = "noise") -> float:
    return float(draw.stream(use).random())


def test_the_same_draw_gives_the_same_numbers() -> None:
    assert first(DRAW) == first(SampleRandom(7, SampleRef(1, 2, 3, 4))) == first(DRAW)


@pytest.mark.parametrize("part", SampleRef._fields)
def test_every_part_of_a_draws_name_changes_its_numbers(part: str) -> None:
    # mutations tried: the name without its dataset, shard, row, visit -> red each
    other = dataclasses.replace(DRAW, ref=DRAW.ref._replace(**{part: 5}))
    assert first(other) != first(DRAW)


def test_the_seed_changes_the_numbers() -> None:
    # mutation tried: a seed of 0 for all
    assert first(dataclasses.replace(DRAW, seed=8)) != first(DRAW)


def test_every_use_has_numbers_of_its_own() -> None:
    # mutation tried: one stream for all uses, so that an option that is switched on would shift the others
    assert len({first(DRAW, use) for use in get_args(Use)}) == len(get_args(Use)) == 8


def test_the_numbers_of_today_are_those_of_tomorrow() -> None:
    # changed numbers would make a resumed run another one: these values may never change
    assert [round(first(DRAW, use), 6) for use in ("crop", "noise", "latent")] == [
        0.267616,
        0.194187,
        0.316022,
    ]
