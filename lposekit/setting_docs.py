"""What the source says of each setting: the text below its field, which Python itself does not keep."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import textwrap
import typing
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


def setting_docs(settings_class: type[DataclassInstance]) -> dict[str, str]:
    """The text of every setting by dotted name, on one line; a setting without one is missing."""
    found = dict(_field_docs(settings_class))
    for name, group in groups_of(settings_class).items():
        found |= {f"{name}.{inner}": text for inner, text in setting_docs(group).items()}
    return found


def groups_of(settings_class: type[DataclassInstance]) -> Mapping[str, type[DataclassInstance]]:
    """The groups of settings in a class, by the name of their field."""
    hints = typing.get_type_hints(settings_class)
    names = (field.name for field in dataclasses.fields(settings_class))
    return {name: hints[name] for name in names if dataclasses.is_dataclass(hints[name])}


def _field_docs(settings_class: type) -> Mapping[str, str]:
    """Of the class and of those it inherits from."""
    found: dict[str, str] = {}
    for each in reversed(settings_class.__mro__):
        if not dataclasses.is_dataclass(each):
            continue
        [node] = ast.parse(textwrap.dedent(inspect.getsource(each))).body
        assert isinstance(node, ast.ClassDef)
        for field, below in zip(node.body, node.body[1:], strict=False):
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and (text := _text(below)):
                found[field.target.id] = " ".join(text.split())
    return found


def _text(node: ast.stmt) -> str:
    """The string that stands alone on a line, if the statement is one."""
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
        return node.value.value
    return ""
