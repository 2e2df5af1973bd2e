"""JSON that a stranger may have written: read up to a limit, and taken apart with a check of each key."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeAlias, TypeVar

from lposekit.store import Store
from lposekit.store_reads import read_whole

JsonValue: TypeAlias = "bool | int | float | str | Sequence[JsonValue] | Mapping[str, JsonValue] | None"
"""What `json` writes and reads."""
JsonObject: TypeAlias = "Mapping[str, JsonValue]"

EXTRA = "extra"
"""The field of a typed JSON object that holds the keys which it does not know."""
MAX_COUNT = 2**63 - 1
MAX_SHOWN_CHARS = 60
T = TypeVar("T")


def read_json_object(store: Store, name: str, max_bytes: int) -> dict[str, JsonValue]:
    """The JSON object that a file holds.

    Raises:
        OSError: there is no such file, it is refused, or it cannot be read.
        ValueError: it is longer than `max_bytes`, or holds something else.
    """
    return parse_json_object(read_whole(store, name, max_bytes))


def parse_json_object(data: bytes) -> dict[str, JsonValue]:
    """The JSON object that some bytes are.

    Raises:
        ValueError: they are none.
    """
    try:
        value: JsonValue = json.loads(data.decode("utf-8"))
    except RecursionError:
        raise ValueError("nested too deeply") from None
    return _mapping(value)


def strict_json(value: object, **how: Any) -> str:
    """JSON as its standard has it: a number that is not finite, which Python would write as `NaN`, becomes null.

    Args:
        how: as of `json.dumps`.
    """
    try:
        return json.dumps(value, allow_nan=False, **how)
    except ValueError:
        return json.dumps(_finite(value), allow_nan=False, **how)


def _finite(value: object) -> object:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {name: _finite(item) for name, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, list | tuple) else value


@dataclass(frozen=True, slots=True)
class Kind(Generic[T]):
    """What a value may be, in words, and its check, which raises TypeError or ValueError."""

    words: str
    parse: Callable[[JsonValue], T]


class JsonFields:
    """The keys of a JSON object, taken out one by one; what is not taken is left in `rest`.

    Args:
        values: the object.
        where: what to put before the names of keys in messages: `totals.`.
    """

    def __init__(self, values: JsonObject, where: str = "") -> None:
        self.rest = dict(values)
        self._where = where

    def take(self, name: str, kind: Kind[T]) -> T | None:
        """The value of a key; None if it is missing or null.

        Raises:
            ValueError: it is something else.
        """
        value = self.rest.pop(name, None)
        if value is None:
            return None
        try:
            return kind.parse(value)
        except (TypeError, ValueError, OverflowError):  # a number of 400 digits
            raise ValueError(f"{self._where}{name} is {_shown(value)}, not {kind.words}") from None

    def need(self, name: str, kind: Kind[T]) -> T:
        """The value of a key.

        Raises:
            ValueError: it is missing, null or something else.
        """
        value = self.take(name, kind)
        if value is None:
            raise ValueError(f"{self._where}{name} is missing")
        return value


def known_values(instance: object) -> dict[str, JsonValue]:
    """The fields of a typed JSON object as they are written: without those that are None, and with its extra keys."""
    assert dataclasses.is_dataclass(instance)
    values = {field.name: getattr(instance, field.name) for field in dataclasses.fields(instance)}
    return {**values.pop(EXTRA, {}), **{name: value for name, value in values.items() if value is not None}}


def _shown(value: JsonValue) -> str:
    text = json.dumps(value, ensure_ascii=True)
    return text if len(text) <= MAX_SHOWN_CHARS else f"{text[:MAX_SHOWN_CHARS]}..."


def _mapping(value: JsonValue) -> dict[str, JsonValue]:
    if not isinstance(value, Mapping):
        raise ValueError("no JSON object")
    return dict(value)


def _text(value: JsonValue) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def _flag(value: JsonValue) -> bool:
    if not isinstance(value, bool):
        raise TypeError
    return value


def _count(value: JsonValue) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MAX_COUNT:
        raise TypeError
    return value


def _number(value: JsonValue) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise TypeError
    return value  # as it came: 1 is not written back as 1.0


def _sequence(value: JsonValue) -> Sequence[JsonValue]:
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise TypeError
    return value


def list_of(kind: Kind[T]) -> Kind[list[T]]:
    """A list whose items are all of that kind."""
    return Kind(f"a list of which each is {kind.words}", lambda value: [kind.parse(item) for item in _sequence(value)])


def object_of(kind: Kind[T]) -> Kind[dict[str, T]]:
    """An object whose values are all of that kind."""
    return Kind(
        f"an object of which each value is {kind.words}",
        lambda value: {name: kind.parse(item) for name, item in _mapping(value).items()},
    )


TEXT = Kind("a text", _text)
FLAG = Kind("true or false", _flag)
COUNT = Kind("a whole number from 0 on", _count)
NUMBER = Kind("a finite number", _number)
OBJECT = Kind("an object", _mapping)
