"""Flags: the words of a command line as settings. `--fetch.threads 8 --data a b --no-resume`.

A flag is named after its setting, with dashes. A setting that is true or false is a switch: `--name`, `--no-name`. A
list takes all words up to the next flag, and goes on where the flag is given again.
"""

from __future__ import annotations

import typing
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from lposekit.setting_values import Leaf, flag, nearest, parse_text, parse_words, raise_problems, tuple_length


@dataclass(frozen=True, slots=True)
class Alias:
    """Annotation mark of a setting: a second name of its flag, with the dashes."""

    name: str


@dataclass(slots=True)
class FlagWords:
    """What a command line says. `values`: by dotted name of the setting; `words`: what belongs to no flag."""

    values: dict[str, object] = field(default_factory=dict)
    words: list[str] = field(default_factory=list)
    flags: list[str] = field(default_factory=list)
    """The flags as they were written, in order."""


OPEN_SWITCH_WORDS = ("true", "false", "none")
"""Words that belong to a switch before them that may be left open."""


def parse_flags(argv: Sequence[str], known: Mapping[str, Leaf], *, help_hint: str = "") -> FlagWords:
    """Sort the words of a command line, and parse the values.

    Args:
        known: the settings that have flags, by dotted name.
        help_hint: a sentence that says where all flags are listed.

    Raises:
        UsageError: lists every flag that does not exist or has a wrong value.
    """
    switches = dict(_spellings(known))
    found, problems, lists = FlagWords(), [], {}
    left = list(argv)
    while left:
        word = left.pop(0)
        if not word.startswith("--"):
            found.words.append(word)
            continue
        spelled, equals, value = word.partition("=")
        leaf, state = switches.get(spelled.replace("_", "-"), (None, None))
        if leaf is None:
            _take(left, None)
            hint = nearest(spelled[2:], [each[2:] for each in switches]).replace("mean ", "mean --")
            problems.append(f"there is no flag {spelled}{hint}")
            continue
        found.flags.append(spelled)
        if state is not None and not equals and may_be_left_open(leaf) and left and left[0] in OPEN_SWITCH_WORDS:
            equals, value = "=", left.pop(0)
        if state is not None and not equals:
            found.values[leaf.name] = state
            continue
        words = [value] if equals else _take(left, tuple_length(leaf.annotation))
        try:
            if state is not None:
                parsed = parse_text(leaf, value)
                found.values[leaf.name] = None if parsed is None else parsed is state
            elif tuple_length(leaf.annotation) == 1:
                found.values[leaf.name] = parse_text(leaf, words[0]) if words else _needs_value()
            else:
                lists.setdefault(leaf.name, []).extend(words or _needs_value())
                found.values[leaf.name] = parse_words(leaf, lists[leaf.name])
        except ValueError as error:
            problems.append(f"{spelled}{' ' if words else ''}{' '.join(words)}: {error}")
    raise_problems([*problems, *([help_hint] if problems and help_hint else [])])
    return found


def _take(left: list[str], number: int | None) -> list[str]:
    """Take words off the front: up to `number` of them, all if None, but none that is a flag."""
    words: list[str] = []
    while left and not left[0].startswith("--") and (number is None or len(words) < number):
        words.append(left.pop(0))
    return words


def _needs_value() -> typing.NoReturn:
    raise ValueError("a value is missing after this flag.")


def _spellings(known: Mapping[str, Leaf]) -> Iterable[tuple[str, tuple[Leaf, bool | None]]]:
    """Every spelling of every flag, with its setting; of a switch also what it sets."""
    for name, leaf in known.items():
        for spelled in flag_names(leaf):
            yield spelled, (leaf, True if is_switch(leaf) else None)
        if is_switch(leaf):
            yield off_flag(name), (leaf, False)


def is_switch(leaf: Leaf) -> bool:
    """Whether the bare flag means yes."""
    return leaf.annotation_without_marks is bool or may_be_left_open(leaf)


def may_be_left_open(leaf: Leaf) -> bool:
    """Whether a switch may also be left to the command (`bool | None`): `--x`, `--no-x`, `--x true`, `--x none`."""
    return set(typing.get_args(leaf.annotation_without_marks)) == {bool, type(None)}


def flag_names(leaf: Leaf) -> list[str]:
    """The flag of a setting, then its other names."""
    return [flag(leaf.name), *(mark.name for mark in leaf.marks if isinstance(mark, Alias))]


def off_flag(name: str) -> str:
    """The flag that turns a switch off: `fetch.robots` has `--fetch.no-robots`."""
    group, dot, last = name.rpartition(".")
    return flag(f"{group}{dot}no_{last}")
