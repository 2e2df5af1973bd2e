"""What the page asks for, checked, and the lines in which both processes speak: one JSON object each.

The page is reached through a network, so nothing that it says is believed.
"""

from __future__ import annotations

import math
import os
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lposekit.errors import UsageError
from trainer.demo.settings import MAX_STEPS

MAX_LINE_BYTES = 64 * 1024
MAX_PROMPT = 1000
"""Characters: far more than a text encoder reads."""


@dataclass(frozen=True, slots=True)
class PoseRequest:
    """Estimate the poses of an uploaded video."""

    video: Path


@dataclass(frozen=True, slots=True)
class DrawRequest:
    """Draw a clip. pose: the name of an estimated pose; empty: none."""

    prompt: str
    pose: str
    seed: int
    steps: int
    guidance: float


Request = PoseRequest | DrawRequest


def checked(message: Mapping[str, Any], uploads: Path) -> Request:
    """The request of a message.

    uploads: the folder that uploaded videos lie in.

    Raises:
        UsageError: something that cannot be asked for; the text is for the person at the page.
    """
    if message.get("do") == "pose":
        return PoseRequest(_uploaded(message.get("video"), uploads))
    if message.get("do") == "draw":
        return DrawRequest(
            _prompt(message.get("prompt")),
            str(message.get("pose") or ""),
            int(_number(message, "seed", 0, 2**63 - 1, whole=True)),
            int(_number(message, "steps", 1, MAX_STEPS, whole=True)),
            _number(message, "guidance", 0, 50),
        )
    raise UsageError(f"{message.get('do')!r} cannot be asked for. Reload the page.")


def _uploaded(video: object, uploads: Path) -> Path:
    path = Path(os.path.realpath(str(video)))
    if uploads.resolve() not in path.parents or not path.is_file():
        raise UsageError("The uploaded video is not there any more. Upload it again.")
    return path


def _prompt(prompt: object) -> str:
    if not isinstance(prompt, str) or not prompt.strip():
        raise UsageError("The prompt is empty. Write what to draw: an astronaut dances on the moon.")
    if len(prompt) > MAX_PROMPT:
        raise UsageError(f"The prompt has {len(prompt)} characters; at most {MAX_PROMPT} are read. Make it shorter.")
    try:
        prompt.encode()
    except UnicodeEncodeError as error:
        raise UsageError("The prompt is no text in UTF-8. Write it again.") from error
    if not all(letter.isspace() or unicodedata.category(letter) != "Cc" for letter in prompt):
        raise UsageError("The prompt has control characters, which a terminal would obey. Write it again.")
    return " ".join(prompt.split())


def _number(message: Mapping[str, Any], name: str, least: float, most: float, *, whole: bool = False) -> float:
    value: Any = message.get(name)
    number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if number and least <= value <= most and (not whole or value == int(value)):
        return value
    kind = "a whole number" if whole else "a number"
    raise UsageError(f"{name.capitalize()} {value}: {kind} from {least:g} to {most:g} is needed.")
