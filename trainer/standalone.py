"""Source code of the pipeline and its UNet in one file each, which need diffusers and nothing of this package.

What a class needs is found by the names that its code uses, through our own modules; imports of others stay as they
are. So the file is our code, definition by definition, in an order in which each can be run.
"""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

OWN_PACKAGES = ("trainer", "lposekit")


@dataclass(slots=True)
class _Module:
    """One of our modules, taken apart. definitions: source of each top-level name, with the text of its docstring.

    own: names that it imports from our modules, and where they come from. foreign: of all other imported names, the
    module (none for `import x`) and what is imported of it.
    """

    order: list[str] = field(default_factory=list)
    definitions: dict[str, str] = field(default_factory=dict)
    uses: dict[str, set[str]] = field(default_factory=dict)
    own: dict[str, str] = field(default_factory=dict)
    foreign: dict[str, tuple[str, str]] = field(default_factory=dict)


def standalone_source(module: str, name: str) -> str:
    """Python source that defines `name` of `module`, and what it needs.

    Raises:
        ValueError: two of our modules give one name to different things, or rename what they import.
    """
    needed = _needed(module, name)
    parts: dict[str, str] = {}
    for where in _ordered(module):
        for what in _taken_apart(where).order:
            if (where, what) in needed:
                text = _taken_apart(where).definitions[what]
                if parts.setdefault(what, text) != text:
                    raise ValueError(f"{what} is defined twice, at last in {where}")
    head = [f'"""{name} and what it needs, as lposekit defines it."""', "from __future__ import annotations"]
    return "\n\n".join([*head, _import_lines(needed)]) + "\n\n\n" + "\n\n\n".join(parts.values()) + "\n"


def _import_lines(needed: Iterable[tuple[str, str]]) -> str:
    """What is imported of others, one line a module."""
    found = {foreign for where, what in needed if (foreign := _taken_apart(where).foreign.get(what))}
    whole = sorted(f"import {name}" for source, name in found if not source)
    sources = sorted({source for source, _ in found if source})
    return "\n".join(
        [
            *whole,
            *(f"from {each} import {', '.join(sorted(name for at, name in found if at == each))}" for each in sources),
        ]
    )


def _needed(module: str, name: str) -> set[tuple[str, str]]:
    """Module and name of everything that a definition uses, directly or not."""
    found, waiting = set[tuple[str, str]](), [(module, name)]
    while waiting:
        where, what = waiting.pop()
        apart = _taken_apart(where)
        if what in apart.own:
            waiting.append((apart.own[what], what))
        elif (where, what) not in found and (what in apart.definitions or what in apart.foreign):
            found.add((where, what))
            waiting.extend((where, used) for used in apart.uses.get(what, ()))
    return found


def _ordered(module: str, seen: set[str] | None = None) -> Iterator[str]:
    """Our modules that one imports, each after those that it imports itself."""
    seen = set() if seen is None else seen
    seen.add(module)
    for imported in dict.fromkeys(_taken_apart(module).own.values()):
        if imported not in seen:
            yield from _ordered(imported, seen)
    yield module


@cache
def _taken_apart(module: str) -> _Module:
    found = importlib.util.find_spec(module)
    assert found is not None
    assert found.origin is not None
    text = Path(found.origin).read_text(encoding="utf-8")
    apart, last = _Module(), list[str]()
    for node in ast.parse(text).body:
        if isinstance(node, ast.ImportFrom | ast.Import):
            _take_import(node, apart)
        elif isinstance(node, ast.Expr) and last:  # the docstring of a constant
            for name in last:
                apart.definitions[name] += "\n" + (ast.get_source_segment(text, node) or "")
        else:
            last = _take_definition(node, text, apart)
    return apart


def _take_import(node: ast.ImportFrom | ast.Import, apart: _Module) -> None:
    source = node.module or "" if isinstance(node, ast.ImportFrom) else ""
    for alias in node.names:
        name = alias.asname or alias.name.partition(".")[0]
        if source.partition(".")[0] in OWN_PACKAGES:
            if alias.asname:
                raise ValueError(f"{source}.{alias.name} is imported under another name")
            apart.own[name] = source
        elif source != "__future__":
            apart.foreign[name] = source, f"{alias.name} as {alias.asname}" if alias.asname else alias.name


def _take_definition(node: ast.stmt, text: str, apart: _Module) -> list[str]:
    """Note a top-level definition; returns the names of constants, whose docstring may follow."""
    names = [node.name] if isinstance(node, ast.FunctionDef | ast.ClassDef) else _targets(node)
    lines = text.splitlines()
    decorators = getattr(node, "decorator_list", [])
    start = min([node.lineno, *(each.lineno for each in decorators)]) - 1
    for name in names:
        apart.order.append(name)
        apart.definitions[name] = "\n".join(lines[start : node.end_lineno])
        apart.uses[name] = {each.id for each in ast.walk(node) if isinstance(each, ast.Name)}
    return [] if isinstance(node, ast.FunctionDef | ast.ClassDef) else names


def _targets(node: ast.stmt) -> list[str]:
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return [each.id for target in targets for each in ast.walk(target) if isinstance(each, ast.Name)]
