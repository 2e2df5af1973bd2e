"""What `--help` and `--help-all` print: the flags of a command in plain words, with their defaults."""

from __future__ import annotations

import dataclasses
import inspect
import shutil
import textwrap
import typing
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lposekit.setting_docs import groups_of, setting_docs
from lposekit.setting_flags import flag_names, is_switch, may_be_left_open, off_flag
from lposekit.setting_values import FLAG_ONLY, Leaf, flag, leaves, limits_of, plain_leaves, tuple_length

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    from lposekit.commands.registry import Command

HELP_ALL = "--help-all"
HELP_WORDS = ("-h", "--help", HELP_ALL)
MAX_WIDTH = 100
INDENT = 30
"""Where the meaning of a flag begins, in characters."""
COMMON_SHOWN = ("preset", "dry_run", "json")


def help_page(
    command: Command, settings: DataclassInstance, flags_class: type[DataclassInstance], *, whole: bool
) -> str:
    """The page of a command.

    Args:
        settings: the values that apply where a flag is not given.
        whole: all flags; else those that the command marks as its main ones, if it marks any.
    """
    known = leaves(type(settings))
    main = [name for name in command.main if name in known]
    shown = list(known) if whole or not main else main
    width = min(MAX_WIDTH, shutil.get_terminal_size().columns)
    lines = [*_intro(command, width), ""]
    for title, names in _by_group(type(settings), shown, grouped=whole):
        lines += [*textwrap.wrap(title, width), *_entries(command, settings, names, width), ""]
    hidden = set() if whole or not main else leaves(flags_class).keys() - set(COMMON_SHOWN)
    common = [name for name in leaves(flags_class) if name not in hidden]
    lines += ["of every command:", *_entries(command, flags_class(), common, width)]
    lines += _entry("--help, --help-all", "This page; all flags.", width)
    missing = len(known) - len(shown) + len(hidden)
    if missing:
        lines += ["", f"{missing} more flags: `lposekit {command.name} {HELP_ALL}`."]
    return "\n".join(lines) + "\n"


def _intro(command: Command, width: int) -> list[str]:
    folder = " DIR" if command.folder_field else ""
    text = command.summary[0].upper() + command.summary[1:] + "."
    if command.input_field:
        text += f" Without {flag(command.input_field)}, it runs on sample data (the preset quickstart)."
    if command.can_dry_run:
        text += (
            f" Settings come from flags, LPOSEKIT_* variables, lposekit.toml [{command.name}] and the preset, in this "
            "order; the defaults shown hold without any."
        )
    lines = [f"usage: lposekit {command.name}{folder} [FLAGS]", "", *textwrap.wrap(text, width)]
    if command.example:
        lines += ["", f"example: lposekit {command.name} {command.example}"]
    return lines


def _by_group(
    settings_class: type[DataclassInstance], names: Sequence[str], *, grouped: bool
) -> Iterable[tuple[str, list[str]]]:
    """The settings under their headings: those without a group first."""
    if not grouped:
        yield "flags:", list(names)
        return
    yield "flags:", [name for name in names if "." not in name]
    for group, group_class in groups_of(settings_class).items():
        heading = " ".join((inspect.getdoc(group_class) or "").split())
        if inside := [name for name in names if name.startswith(f"{group}.")]:
            yield f"{group}: {heading}", inside


def _entries(command: Command, settings: DataclassInstance, names: Sequence[str], width: int) -> list[str]:
    known, docs, values = leaves(type(settings)), setting_docs(type(settings)), dict(plain_leaves(settings))
    needed = {**command.needed, **({command.folder_field: "the same as DIR"} if command.folder_field else {})}
    lines: list[str] = []
    for name in names:
        leaf = known[name]
        note = _note(leaf, docs.get(name, ""), values[name], needed)
        lines += _entry(_form(leaf, values[name]), f"{docs.get(name, '')} {note}".strip(), width)
    return lines


def _entry(form: str, text: str, width: int) -> list[str]:
    head = f"  {form}"
    pad = " " * INDENT
    body = textwrap.wrap(text, width, initial_indent=pad, subsequent_indent=pad, break_on_hyphens=False)
    if len(head) + 2 > INDENT or not body:
        return [head, *body]
    return [head.ljust(INDENT) + body[0].lstrip(), *body[1:]]


def _form(leaf: Leaf, value: object) -> str:
    """How a flag is written: `--workers N`, `--data PATH ...`, `--robots, --no-robots`."""
    names = ", ".join(flag_names(leaf))
    if is_switch(leaf):
        both = bool(value) or may_be_left_open(leaf)
        return f"{names}, {off_flag(leaf.name)}" if both else names
    number = tuple_length(leaf.annotation)
    word = value_word(leaf)
    return f"{names} {word} ..." if number is None else " ".join([names, *[word] * number])


def value_word(leaf: Leaf) -> str:
    """What stands behind a flag, as a word in capitals."""
    kinds = [kind for kind in _plain_kinds(leaf.annotation) if kind is not type(None)]
    last = leaf.name.rpartition(".")[2]
    if kinds == [bool]:
        return "true|false"
    choices = _choices(leaf)
    if int in kinds or float in kinds or (choices and all(map(str.isdigit, choices))):
        if last.endswith("_bytes"):
            return "BYTES"
        if last.endswith("_s"):
            return "SECONDS"
        return "N" if float not in kinds else "FRACTION" if _is_fraction(leaf) else "NUMBER"
    if choices:
        return "NAME"
    return "PATH" if Path in kinds else "TEXT"


def _plain_kinds(annotation: object) -> list[object]:
    """The types that an annotation names, without marks, alternatives and lists around them."""
    if hasattr(annotation, "__metadata__"):
        return _plain_kinds(annotation.__origin__)  # pyright: ignore[reportAttributeAccessIssue]
    arguments = typing.get_args(annotation)
    if not arguments or typing.get_origin(annotation) is typing.Literal:
        return [annotation]
    return [kind for argument in arguments if argument is not Ellipsis for kind in _plain_kinds(argument)]


def _is_fraction(leaf: Leaf) -> bool:
    return {(">=", 0), ("<=", 1)} <= set(limits_of(leaf.annotation))


def _choices(leaf: Leaf) -> list[str]:
    literals = [kind for kind in _plain_kinds(leaf.annotation) if typing.get_origin(kind) is typing.Literal]
    return [str(choice) for literal in literals for choice in typing.get_args(literal)]


def _note(leaf: Leaf, doc: str, value: object, needed: Mapping[str, str]) -> str:
    """What stands in brackets: the choices, the default; nothing that the text says itself."""
    parts = []
    named = [choice for choice in _choices(leaf) if f"`{choice}`" not in doc]
    if named:
        parts.append("one of: " + ", ".join(_choices(leaf)))
    if value in (None, (), "") or value is dataclasses.MISSING:
        if leaf.name in needed:
            parts.append(needed[leaf.name])
        elif "default" not in doc.lower() and FLAG_ONLY not in leaf.marks:
            parts.append("optional")
    elif isinstance(value, bool):
        parts += ["default: on"] if value else []
    else:
        parts.append(f"default: {_shown(leaf, value)}")
    return f"({'; '.join(parts)})" if parts else ""


def _shown(leaf: Leaf, value: object) -> str:
    if isinstance(value, tuple):
        return " ".join(map(str, value))
    if isinstance(value, int) and value_word(leaf) == "BYTES" and value % 2**20 == 0:
        return f"{value}, which is {value // 2**20:,} MiB"
    return f"{value:g}" if isinstance(value, float) else str(value)
