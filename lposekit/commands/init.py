"""`lposekit init`: a commented lposekit.toml for a real project."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from lposekit.commands.flags import SETTINGS_FILE, load
from lposekit.commands.output import write_result
from lposekit.commands.registry import COMMANDS
from lposekit.errors import LposekitError, UsageError


@dataclass(frozen=True, slots=True, kw_only=True)
class InitSettings:
    """Settings of `lposekit init`."""

    folder: Path = Path(".")
    """Folder to write the settings file to."""


def run(argv: Sequence[str]) -> int:
    loaded = load(COMMANDS["init"], InitSettings, argv)
    path = loaded.settings.folder / SETTINGS_FILE
    write_template(path)
    next_step = "Name your list of URLs in it, then: lposekit build-laion-pose --dry-run"
    write_result({"file": str(path)}, [f"wrote {path}", next_step], as_json=loaded.json)
    return 0


def write_template(path: Path) -> None:
    """Writes the template. An existing file is never overwritten (`UsageError`)."""
    template = (resources.files("lposekit") / "presets" / "_project.toml").read_text(encoding="utf-8")
    try:
        with path.open("x", encoding="utf-8") as stream:
            stream.write(template)
    except FileExistsError:
        raise UsageError(f"{path} exists and is not overwritten. Move it away, or name another --folder.") from None
    except OSError as error:
        raise LposekitError(f"{path} cannot be written: {error.strerror}. Choose another --folder.") from error
