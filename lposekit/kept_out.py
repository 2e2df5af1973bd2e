"""Imports without the packages that a package imports and that are not needed: they cost most of its time."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.machinery import ModuleSpec
from types import ModuleType


@contextmanager
def kept_out(*packages: str) -> Iterator[None]:
    """As if these packages were not installed, unless somebody has imported them."""
    with _instead({name: None for name in packages if name not in sys.modules}):
        yield


@contextmanager
def stood_in_for(*packages: str) -> Iterator[None]:
    """As if these packages were empty, for what imports them at its top and does not go on without."""
    absent = [name for name in packages if name not in sys.modules]
    with _instead({name: _empty(name) for name in absent}):
        yield


@contextmanager
def _instead(modules: dict[str, ModuleType | None]) -> Iterator[None]:
    sys.modules.update(modules)  # type: ignore[arg-type]  # None: the import machinery says "not found"
    try:
        yield
    finally:
        for name in modules:
            sys.modules.pop(name, None)


def _empty(name: str) -> ModuleType:
    module = ModuleType(name, "lposekit's stand-in")
    module.__spec__ = ModuleSpec(name, loader=None, origin="lposekit's stand-in")
    return module
