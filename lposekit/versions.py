"""Versions of installed packages, for cards."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Iterable

from lposekit import __version__


def installed_versions(packages: Iterable[str]) -> dict[str, str]:
    """Version of each of the packages that is installed, by its name in the package index."""
    installed = {}
    for package in packages:
        try:
            installed[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return installed


def card_versions(packages: Iterable[str]) -> dict[str, str]:
    """What a dataset card says a folder was begun with: ours, Python's, and those of the packages."""
    return {"lposekit": __version__, "python": platform.python_version(), **installed_versions(packages)}
