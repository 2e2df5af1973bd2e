"""How settings are found, checked and merged.

A settings class is a tree of frozen dataclasses. Its values come in layers, and the first that names one wins: flags,
environment (`LPOSEKIT_FETCH__THREADS=8`), `lposekit.toml` in the working directory (one table per command), a preset,
the defaults. Below, a setting is called by its dotted name: `fetch.threads`.
"""

from __future__ import annotations

import dataclasses
import enum
import hashlib
import json
import tomllib
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from lposekit.errors import UsageError
from lposekit.json_values import JsonValue
from lposekit.setting_values import (
    ENVIRONMENT_PREFIX,
    field_default,
    flatten,
    leaf_value,
    leaves,
    nearest,
    parse_text,
    parse_toml,
    plain_leaves,
    raise_problems,
    variable_of,
)

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

S = TypeVar("S", bound="DataclassInstance")

# Read elsewhere, not settings of a command. Names below LPOSEKIT_TEST_ are free for the tests' own use.
RESERVED_VARIABLES = frozenset({"WEIGHTS", "DEBUG", "PRESET", "FIXTURES", "FAULT"})
RESERVED_PREFIXES = ("TEST_", "REQUIRE_")


@dataclass(frozen=True, slots=True)
class Layer:
    """Checked values of one source, by dotted name. `origin` is what a user is told, `keys` the source's own names."""

    origin: str
    values: Mapping[str, object]
    keys: tuple[str, ...] = ()


# --- sources ---------------------------------------------------------------------------------------------------------


def table_layer(settings_class: type[DataclassInstance], table: Mapping[str, object], origin: str) -> Layer:
    """Checks a TOML table.

    Raises:
        UsageError: lists every wrong key and value at once.
    """
    known, values, problems = leaves(settings_class), {}, []
    for written, value in flatten(table):
        name = _present_name(settings_class, written)
        try:
            values[name] = leaf_value(known, name, lambda leaf, value=value: parse_toml(leaf, value))
        except ValueError as error:
            problems.append(f"{origin} {written} = {json.dumps(value, default=str)}: {error}")
    raise_problems(problems)
    return Layer(origin, values, tuple(values))


def _present_name(settings_class: type, name: str) -> str:
    """The dotted name of today. A class whose groups were renamed says so in `FORMER_GROUPS`, so that files of older
    runs are still understood."""
    group, dot, rest = name.partition(".")
    return f"{getattr(settings_class, 'FORMER_GROUPS', {}).get(group, group)}{dot}{rest}"


def environment_layer(
    settings_class: type[DataclassInstance],
    environ: Mapping[str, str],
    *,
    elsewhere: Callable[[], Iterable[str]] = tuple,
) -> Layer:
    """Checks the `LPOSEKIT_*` variables. `elsewhere` gives the settings of other commands: those are passed over."""
    known, values, keys, problems = leaves(settings_class), {}, [], []
    for variable in sorted(environ):
        rest = variable.removeprefix(ENVIRONMENT_PREFIX)
        if rest == variable or rest in RESERVED_VARIABLES or rest.startswith(RESERVED_PREFIXES):
            continue
        name, text = _present_name(settings_class, rest.lower().replace("__", ".")), environ[variable]
        if name not in known and name in elsewhere():
            continue
        try:
            values[name] = leaf_value(known, name, lambda leaf, text=text: parse_text(leaf, text), variable_of)
            keys.append(variable)
        except ValueError as error:
            problems.append(f"environment {variable}={text!r}: {error}")
    raise_problems(problems)
    return Layer("environment", values, tuple(keys))


def read_toml(path: Path, commands: Sequence[str]) -> dict[str, object]:
    """A settings file as a dict: tables named after commands, and `preset`.

    Raises:
        UsageError: it cannot be read, is no TOML, or has a key that is neither.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: not valid TOML: {error}. `lposekit init` writes a valid file to compare.") from error
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}. Check the path and its permissions.") from error
    problems = []
    for key, value in content.items():
        if key == "preset" and isinstance(value, str):
            continue
        if key not in commands or not isinstance(value, dict):
            kind = "table" if isinstance(value, dict) else "key"
            hint = nearest(key, [*commands, "preset"])
            problems.append(f"{path}: unknown {kind} {key!r}{hint} Tables go by command: {', '.join(commands)}.")
    raise_problems(problems)
    return content


def preset_path(name: str) -> Path:
    """The file of a preset: a name from `lposekit/presets`, or any path that ends in `.toml`.

    Raises:
        UsageError: there is no such preset.
    """
    folder = Path(str(resources.files("lposekit"))) / "presets"
    path = Path(name) if name.endswith(".toml") else folder / f"{name}.toml"
    # `_project.toml` is what `lposekit init` writes, no preset.
    presets = sorted(file.stem for file in folder.glob("[!_]*.toml"))
    if path.is_file() and (name.endswith(".toml") or name in presets):
        return path
    hint = nearest(name, presets)
    raise UsageError(f"preset {name!r} does not exist{hint} There are: {', '.join(presets)}, or a .toml file.")


def merge(settings_class: type[S], layers: Sequence[Layer], *, missing: object = dataclasses.MISSING) -> S:
    """An instance of the class; earlier layers win. A field without a value or default becomes `missing`."""
    merged: dict[str, object] = {}
    for layer in reversed(layers):
        merged |= layer.values
    return _build(settings_class, merged, "", missing)


def stored_settings(settings_class: type[S], stored: Mapping[str, object], origin: str) -> S:
    """The settings that `flatten_settings` gave; those that only the command line may carry are back at their default.

    Raises:
        UsageError: a name or value that the class does not know (any more).
    """
    known = leaves(settings_class)
    kept = {name: value for name, value in stored.items() if name not in known or not known[name].flag_only}
    # TOML, whose rules `table_layer` follows, has no null.
    values = {name: "none" if value is None else value for name, value in kept.items()}
    return merge(settings_class, [table_layer(settings_class, values, origin)])


def _build(
    settings_class: type[S],
    values: Mapping[str, object],
    prefix: str,
    missing: object,
    defaults: object = dataclasses.MISSING,
) -> S:
    hints = typing.get_type_hints(settings_class, include_extras=True)
    arguments: dict[str, object] = {}
    for field in dataclasses.fields(settings_class):
        name, annotation, default = prefix + field.name, hints[field.name], field_default(field, defaults)
        if isinstance(annotation, type) and dataclasses.is_dataclass(annotation):
            arguments[field.name] = _build(annotation, values, f"{name}.", missing, default)
        else:
            arguments[field.name] = values.get(name, missing if default is dataclasses.MISSING else default)
    return settings_class(**arguments)


# --- identity --------------------------------------------------------------------------------------------------------


def flatten_settings(settings: DataclassInstance | Mapping[str, object]) -> dict[str, JsonValue]:
    """JSON-ready values by dotted name. Takes a settings dataclass, or the nested dict that a card carries."""
    values = flatten(settings) if isinstance(settings, Mapping) else plain_leaves(settings)
    return {name: _jsonable(value) for name, value in values}


def changeable_settings(settings_class: type[DataclassInstance]) -> frozenset[str]:
    """Dotted names of the settings, those of groups included, that may change when a run continues a folder."""
    return frozenset(name for name, leaf in leaves(settings_class).items() if leaf.may_change)


def settings_digest(
    settings: DataclassInstance | Mapping[str, object], *, excluded: frozenset[str] = frozenset()
) -> str:
    """sha256 (hex) of all settings but the excluded ones: equal digests promise equal bytes.

    `excluded` holds dotted names, a group's name stands for all of it. A name that the class does not have raises
    `ValueError`, so that a renamed setting cannot slip in or out of the digest unseen.
    """
    kept = _without(settings, excluded)
    text = json.dumps(kept, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def _without(settings: DataclassInstance | Mapping[str, object], excluded: frozenset[str]) -> dict[str, JsonValue]:
    flat = flatten_settings(settings)
    matched = {name: {name} & excluded | {group for group in excluded if name.startswith(f"{group}.")} for name in flat}
    unknown = excluded.difference(*matched.values())
    if unknown and not isinstance(settings, Mapping):
        raise ValueError(f"excluded settings that {type(settings).__name__} does not have: {sorted(unknown)}")
    return {name: value for name, value in flat.items() if not matched[name]}


def _jsonable(value: object) -> JsonValue:
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, Path):
        return value.as_posix()
    if isinstance(value, (tuple, list)):
        return [_jsonable(item) for item in value]
    if isinstance(value, Mapping):
        return {str(key): _jsonable(item) for key, item in value.items()}
    assert value is None or isinstance(value, bool | int | float | str), f"a setting of type {type(value).__name__}"
    return value
