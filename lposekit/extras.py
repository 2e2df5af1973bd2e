"""Which of lposekit's extras brings a module that is missing: what to install, where Python says only what it lacks."""

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Collection

MODULE_OF = {
    "decord2": "decord",
    "jinja2": "jinja2",
    "opencv_python_headless": "cv2",
    "pillow": "PIL",
    "scenedetect_headless": "scenedetect",
    "scikit_image": "skimage",
}
"""Distributions (names in lower case, with underscores) whose module has another name."""
OPENMMLAB = frozenset({"mmcv", "mmdet", "mmengine", "mmpose"})
"""No extra brings them: see pyproject.toml."""


def missing_module_words(error: ModuleNotFoundError, wanted: Collection[str] = ()) -> str:
    """What is missing and how to get it, for a person.

    Args:
        wanted: the extras that the command at hand uses: named alone where they bring the module.
    """
    module = (error.name or "").partition(".")[0]
    if not module:
        return f"a module is missing ({error}). `lposekit doctor` lists what is."
    extras = extras_with(module)
    named = [name for name in extras if name in wanted] or extras
    if named:
        # in quotes: brackets are patterns to a shell
        how = " or ".join(f"pip install 'lposekit[{name}]'" for name in named)
    else:
        how = "make setup" if module in OPENMMLAB else "pip install lposekit"
    return f"the module {module} is not installed: `{how}` brings it. `lposekit doctor` lists what else is missing."


def extras_with(module: str) -> list[str]:
    """The extras that bring a module, in the order of the package's metadata; none if there is no metadata."""
    return [extra for found, extra in _extra_modules() if found == module]


def _extra_modules() -> list[tuple[str, str]]:
    """Module and extra of every optional dependency."""
    try:
        lines = importlib.metadata.requires("lposekit") or []
    except importlib.metadata.PackageNotFoundError:
        return []
    found = []
    for line in lines:
        name, extra = re.match(r"[\w.-]+", line), re.search(r"extra\s*==\s*['\"]([\w-]+)['\"]", line)
        if name and extra:
            distribution = re.sub(r"[-.]", "_", name[0]).lower()
            found.append((MODULE_OF.get(distribution, distribution), extra[1]))
    return found
