"""Contract of the settings of all commands: each number says its range where it is declared, and that range holds for
settings that were built in code as for flags."""

from __future__ import annotations

import dataclasses
import math
import re
from typing import Any

import pytest

from lposekit.commands.registry import COMMANDS
from lposekit.errors import UsageError
from lposekit.setting_values import check_values, describe, flag, leaves

ANY_NUMBER = {
    # a raw score, which can be negative
    "pose.keypoint_score_threshold",
    "pose.score_threshold",
    "skeleton.score_threshold",
    "keypoint_score_threshold",
    "score_threshold",
    # what the columns of a list may hold is the list's business
    "filter.max_punsafe",
    "filter.max_pwatermark",
    "filter.min_similarity",
    "filter.min_aesthetic",
    "shuffle_seed",
}
CLASSES = {name: command.load_settings_class() for name, command in COMMANDS.items()}
FLOATS = [
    (command, name)
    for command, settings_class in CLASSES.items()
    for name, leaf in leaves(settings_class).items()
    if re.match(r"number", describe(leaf.annotation))
]


def with_value(settings: Any, name: str, value: object) -> Any:
    group, _, rest = name.partition(".")
    changed = with_value(getattr(settings, group), rest, value) if rest else value
    return dataclasses.replace(settings, **{group: changed})


@pytest.mark.parametrize("command", COMMANDS)
def test_every_number_says_its_range(command: str) -> None:
    # Mutation tried: `micro_batch: int | None`.
    words = {name: describe(leaf.annotation) for name, leaf in leaves(CLASSES[command]).items()}
    assert {name for name, text in words.items() if re.search(r"number(?! [<>])", text)} <= ANY_NUMBER


@pytest.mark.parametrize(("command", "name"), FLOATS)
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_no_number_may_be_nan_or_infinite(command: str, name: str, value: float) -> None:
    # Mutation tried: without `allow_inf_nan=False` in `_adapter`.
    with pytest.raises(UsageError, match=rf"(?m)^{flag(name)} {value}: .*finite number"):
        check_values(with_value(CLASSES[command](), name, value))
