"""The values of a settings class one by one: their names, how a text becomes one, and what is wrong with it.

What a setting may be is its annotation, with the marks of `annotated_types` for its range: `Annotated[int, Ge(1)]`. No
number may be infinite or NaN. A rule between several settings is yielded by `problems()` of the class that has them all
(see `HasProblems`). `check_values` holds settings against both, wherever they came from.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Protocol, TypeAlias, TypeGuard, TypeVar, runtime_checkable

from annotated_types import Ge, Gt, Interval

from lposekit.errors import UsageError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance
    from pydantic import TypeAdapter, ValidationError

Annotation: TypeAlias = Any
"""What stands behind the colon of a setting: Python has no type for it."""
V = TypeVar("V")

ENVIRONMENT_PREFIX = "LPOSEKIT_"
FLAG_ONLY = "flag only"
"""Annotation mark of a setting that files and environment may not carry."""
MAY_CHANGE = "may change when a folder is continued"
"""Annotation mark of a setting that does not decide what a row becomes: a run may change it in a folder that exists."""
MUST_STAY = "must stay as it is when a folder is continued"
"""Annotation mark of a setting that decides what a run learns: a change is refused."""
LOGGED = "may change when a folder is continued, and is then logged"
"""Annotation mark of a setting that may change numbers, and whose change is a choice: it is named in the log."""
Positive = Annotated[int, Ge(1)]
NotNegative = Annotated[int, Ge(0)]
Seconds = Annotated[float, Gt(0)]
Minutes = Annotated[float, Gt(0)]
Fraction = Annotated[float, Interval(ge=0, le=1)]


@runtime_checkable
class HasProblems(Protocol):
    """A settings class, or a group of one, with rules that no single annotation can say."""

    def problems(self) -> Iterable[tuple[str, str]]:
        """Dotted name of a setting, counted from this class, and what it may be, for every rule that is broken."""
        ...


@dataclass(frozen=True, slots=True)
class Leaf:
    """One setting of a settings class."""

    name: str
    annotation: Annotation
    default: object

    @property
    def flag_only(self) -> bool:
        return self._has_mark(FLAG_ONLY)

    @property
    def may_change(self) -> bool:
        return self._has_mark(MAY_CHANGE)

    @property
    def marks(self) -> tuple[object, ...]:
        return getattr(self.annotation, "__metadata__", ())

    @property
    def annotation_without_marks(self) -> Annotation:
        return getattr(self.annotation, "__origin__", self.annotation) if self.marks else self.annotation

    @property
    def when_continued(self) -> tuple[str, ...]:
        """Which of the three marks it has that say what a change means to a folder that is continued."""
        return tuple(mark for mark in (MUST_STAY, MAY_CHANGE, LOGGED) if self._has_mark(mark))

    def _has_mark(self, mark: str) -> bool:
        return mark in self.marks


def leaves(settings_class: type[DataclassInstance], defaults: object = dataclasses.MISSING) -> dict[str, Leaf]:
    """Every setting of the class, by dotted name, in the order of the source. `defaults`: an instance that has them."""
    hints = typing.get_type_hints(settings_class, include_extras=True)
    found: dict[str, Leaf] = {}
    for field in dataclasses.fields(settings_class):
        annotation, default = hints[field.name], field_default(field, defaults)
        if isinstance(annotation, type) and dataclasses.is_dataclass(annotation):
            for nested in leaves(annotation, default).values():
                name = f"{field.name}.{nested.name}"
                found[name] = dataclasses.replace(nested, name=name)
        else:
            found[field.name] = Leaf(field.name, annotation, default)
    return found


def field_default(field: dataclasses.Field[Any], defaults: object = dataclasses.MISSING) -> object:
    """The default of a field; that of `defaults` goes first, for a group may differ from its class's defaults."""
    if defaults is not dataclasses.MISSING:
        return getattr(defaults, field.name)
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


def plain_leaves(settings: DataclassInstance, prefix: str = "") -> Iterable[tuple[str, object]]:
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if _is_group(value):
            yield from plain_leaves(value, f"{prefix}{field.name}.")
        else:
            yield prefix + field.name, value


def check_values(settings: DataclassInstance, *, required: Mapping[str, str] | None = None) -> None:
    """Checks settings against their annotations and the rules between them, wherever the values came from.

    Args:
        required: settings, by dotted name, that may not be none or empty, and what to give.

    Raises:
        UsageError: names the flag, the value and what is allowed of everything that is wrong.
    """
    from pydantic import ValidationError

    values, problems = dict(plain_leaves(settings)), []
    for name, leaf in leaves(type(settings)).items():
        try:
            _adapter(leaf.annotation).validate_python(values[name], strict=True)
        except ValidationError as error:
            problems.append((name, _reason(error, leaf.annotation)))
    problems += [(name, text) for name, text in (required or {}).items() if values[name] in (None, "", ())]
    wrong = {name for name, _ in problems}
    problems += [(name, text) for name, text in _broken_rules(settings) if name not in wrong]
    raise_problems([f"{flag(name)} {_as_typed(values[name])}: {text}" for name, text in problems])


def _broken_rules(settings: DataclassInstance, prefix: str = "") -> Iterable[tuple[str, str]]:
    """What the `problems()` of the class and of its groups yield, by dotted names of the whole."""
    groups = {field.name: getattr(settings, field.name) for field in dataclasses.fields(settings)}
    if isinstance(settings, HasProblems):
        yield from ((prefix + name, text) for name, text in settings.problems())
    for name, group in groups.items():
        if _is_group(group):
            yield from _broken_rules(group, f"{prefix}{name}.")


def _is_group(value: object) -> TypeGuard[DataclassInstance]:
    """Whether the value of a field is a group of settings."""
    return dataclasses.is_dataclass(value) and not isinstance(value, type)


def _as_typed(value: object) -> str:
    """A value as a user would give it on the command line."""
    if isinstance(value, tuple):
        return " ".join(map(str, value))
    return "none" if value is None else str(value)


def _adapter(annotation: Annotation) -> TypeAdapter[object]:
    from pydantic import ConfigDict, TypeAdapter

    return TypeAdapter(annotation, config=ConfigDict(allow_inf_nan=False))


def flag(name: str) -> str:
    """The flag of a setting: `fetch.ca_file` is `--fetch.ca-file`."""
    return "--" + name.replace("_", "-")


def variable_of(name: str) -> str:
    return ENVIRONMENT_PREFIX + name.replace(".", "__").upper()


def nearest(word: str, words: Iterable[str]) -> str:
    """`. Did you mean X?` for the closest of the words, else a full stop: made to end a sentence."""
    words = list(words)
    close = [known for known in words if known.rpartition(".")[2] == word.rpartition(".")[2]][:1]
    close = close or difflib.get_close_matches(word, words, n=1, cutoff=0.6)
    return f". Did you mean {close[0]}?" if close else "."


def leaf_value(
    known: Mapping[str, Leaf], name: str, parse: Callable[[Leaf], V], spell: Callable[[str], str] = str
) -> V:
    if name not in known:
        hint = nearest(spell(name), map(spell, known))
        raise ValueError(f"there is no such setting{hint}")
    leaf = known[name]
    if leaf.flag_only:
        raise ValueError(f"a flag only, refused in files and environment. Give {flag(name)} on the command line.")
    return parse(leaf)


def parse_toml(leaf: Leaf, value: object) -> object:
    """Strict: `"4"` is no number, `true` no 1; but a lone text may stand for a list of one, and "none" for no value."""
    from pydantic import ValidationError

    annotation = leaf.annotation
    if is_none(annotation, value):
        return None
    if _is_tuple(annotation) and not isinstance(value, list):
        value = [value]
    try:
        return _adapter(annotation).validate_json(json.dumps(value, default=str), strict=True)
    except ValidationError as error:
        raise ValueError(_reason(error, annotation)) from None


def parse_text(leaf: Leaf, text: str) -> object:
    from pydantic import ValidationError

    annotation = leaf.annotation
    if is_none(annotation, text):
        return None
    choices = [choice for each in _alternatives(annotation) for choice in _choices(each)]
    for choice in choices:
        if text == str(choice):  # of a choice among numbers, which pydantic does not read from text
            return choice
    try:
        if _is_tuple(annotation):
            listed = text if text.lstrip().startswith("[") else json.dumps([text])
            return _adapter(annotation).validate_json(listed, strict=True)
        return _adapter(annotation).validate_strings(text)
    except ValidationError as error:
        raise ValueError(_reason(error, annotation)) from None


def parse_words(leaf: Leaf, words: Sequence[str]) -> object:
    """The words of a command line as a list setting: each word is one of its items."""
    from pydantic import ValidationError

    if len(words) == 1 and is_none(leaf.annotation, words[0]):
        return None
    try:
        return _adapter(leaf.annotation).validate_python(tuple(words))
    except ValidationError as error:
        raise ValueError(_reason(error, leaf.annotation)) from None


def _reason(error: ValidationError, annotation: Annotation) -> str:
    messages = dict.fromkeys(problem["msg"] for problem in error.errors())
    return f"{'; '.join(messages)}. Allowed: {describe(annotation)}."


def describe(annotation: Annotation) -> str:
    """What a setting may be, in words: `one of: any, main`, `number or none`, `list of text`."""
    if hasattr(annotation, "__metadata__"):
        limits = [f"{sign} {value}" for mark in annotation.__metadata__ for sign, value in _limits(mark)]
        return " ".join([describe(annotation.__origin__), " and ".join(limits)]).rstrip()
    arguments = typing.get_args(annotation)
    origin = typing.get_origin(annotation)
    if origin is typing.Literal:
        return "one of: " + ", ".join(map(str, arguments))
    if origin in (typing.Union, types.UnionType):
        return " or ".join(describe(argument) for argument in arguments)
    if origin is tuple:
        return f"list of {describe(arguments[0])}"
    words = {int: "whole number", float: "number", str: "text", Path: "path", bool: "true or false", type(None): "none"}
    return words.get(annotation, getattr(annotation, "__name__", str(annotation)))


def _limits(mark: object) -> Iterable[tuple[str, float]]:
    """The limits that a mark of `annotated_types` sets: `Interval(ge=0)` gives (">=", 0)."""
    for name, sign in (("ge", ">="), ("gt", ">"), ("le", "<="), ("lt", "<"), ("multiple_of", "a multiple of")):
        value = getattr(mark, name, None)
        if isinstance(value, (int, float)):
            yield sign, value


def limits_of(annotation: Annotation) -> list[tuple[str, float]]:
    """The limits of a number, wherever they stand in its annotation: (">=", 0)."""
    marks = [limit for mark in getattr(annotation, "__metadata__", ()) for limit in _limits(mark)]
    inner = (annotation.__origin__,) if hasattr(annotation, "__metadata__") else typing.get_args(annotation)
    return marks + [limit for argument in inner for limit in limits_of(argument)]


def _choices(annotation: Annotation) -> tuple[object, ...]:
    return typing.get_args(annotation) if typing.get_origin(annotation) is typing.Literal else ()


def _alternatives(annotation: Annotation) -> tuple[Annotation, ...]:
    if hasattr(annotation, "__metadata__"):
        return _alternatives(annotation.__origin__)
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return tuple(found for argument in typing.get_args(annotation) for found in _alternatives(argument))
    return (annotation,)


def is_none(annotation: Annotation, value: object) -> bool:
    """Whether a text stands for no value: `none`, where the annotation allows that."""
    return isinstance(value, str) and value.lower() == "none" and type(None) in _alternatives(annotation)


def _is_tuple(annotation: Annotation) -> bool:
    return any(typing.get_origin(each) is tuple for each in _alternatives(annotation))


def tuple_length(annotation: Annotation) -> int | None:
    """How many values a setting has: 1, or those of a tuple; None for as many as there are."""
    for each in _alternatives(annotation):
        if typing.get_origin(each) is tuple:
            items = typing.get_args(each)
            return None if items[-1] is Ellipsis else len(items)
    return 1


def flatten(table: Mapping[str, object], prefix: str = "") -> Iterable[tuple[str, object]]:
    for key, value in table.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def raise_problems(problems: Sequence[str]) -> None:
    if problems:
        raise UsageError("\n".join(problems))
