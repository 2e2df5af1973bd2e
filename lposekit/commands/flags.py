"""From the command line to settings: flags over environment over `lposekit.toml` over a preset."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from lposekit.commands.help_page import HELP_ALL, HELP_WORDS, help_page
from lposekit.commands.registry import COMMANDS, TABLES, Command
from lposekit.errors import UsageError
from lposekit.setting_flags import FlagWords, parse_flags
from lposekit.setting_values import Leaf, check_values, flag, leaves, parse_text
from lposekit.settings import (
    Layer,
    environment_layer,
    flatten_settings,
    merge,
    preset_path,
    read_toml,
    table_layer,
)

logger = logging.getLogger(__name__)

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

S = TypeVar("S", bound="DataclassInstance")
SETTINGS_FILE = "lposekit.toml"
QUICKSTART = "quickstart"
NAMES_SHOWN = 4
VALUE_SHOWN = 40
"""Of one setting in a line of the log, in characters."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CommonFlags:
    """Flags of every command."""

    json: bool = False
    """Write the result as one JSON object to standard output; messages go to standard error."""
    debug: bool = False
    """Log more, and show the traceback of an unexpected error."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFlags(CommonFlags):
    """Flags of commands that build something."""

    preset: str | None = None
    """A named set of settings: `quickstart`, `followyourpose`, or the path of a .toml file."""
    dry_run: bool = False
    """Show what would be done, without doing it."""


@dataclass(frozen=True, slots=True)
class Loaded(Generic[S]):
    """The settings of one call, and where they came from (a line for the user)."""

    settings: S
    quickstart: bool
    dry_run: bool
    json: bool
    sources: str


def load(
    command: Command,
    settings_class: type[S],
    argv: Sequence[str],
    *,
    environ: Mapping[str, str] | None = None,
    folder: Path | None = None,
) -> Loaded[S]:
    """Finds, merges and checks the settings of one call, and logs where they came from.

    Raises `UsageError`; `--help` and `--help-all` end in `SystemExit(0)`.
    """
    sources = _Sources(command, settings_class, dict(os.environ if environ is None else environ), folder or Path.cwd())
    flags_class = RunFlags if command.can_dry_run else CommonFlags
    if asked := [word for word in argv if word in HELP_WORDS]:
        shown = merge(settings_class, sources.layers(()))
        sys.stdout.write(help_page(command, shown, flags_class, whole=HELP_ALL in asked))
        raise SystemExit(0)
    given, flags = _parse(command, settings_class, flags_class, argv)
    preset = _preset(flags, sources)
    tables = _tables(command, merge(settings_class, [given, *sources.layers(())]))
    layers = [given, *sources.layers(tables, preset)]
    named = command.input_field is not None and any(layer.values.get(command.input_field) for layer in layers)
    quickstart = _is_quickstart(command, preset, named)
    if quickstart:
        layers = [given, *sources.layers(tables, QUICKSTART)]
    settings = merge(settings_class, layers)
    check_values(settings)
    _require_folders(command, settings)
    loaded = Loaded(settings, quickstart, getattr(flags, "dry_run", False), flags.json, _describe(layers))
    if quickstart:
        logger.info(_quickstart_line(command, settings))
    if line := _settings_line(command, settings, layers):
        logger.info("settings: %s", line)
    return loaded


@dataclass(frozen=True, slots=True)
class _Sources:
    """What lies below the flags."""

    command: Command
    settings_class: type[DataclassInstance]
    environ: Mapping[str, str]
    folder: Path

    def file(self) -> dict[str, object]:
        path = self.folder / SETTINGS_FILE
        return read_toml(path, TABLES) if path.is_file() else {}

    def layers(self, variants: Sequence[str], preset: str | None = None) -> list[Layer]:
        """Highest first. A variant's table (`train-stage-1`) goes over its command's (`train`)."""
        tables = [*variants, self.command.name]
        found = [environment_layer(self.settings_class, self.environ, elsewhere=_names_elsewhere)]
        found += self._file_layers(self.file(), tables, SETTINGS_FILE)
        if preset is not None:
            found += self._file_layers(read_toml(preset_path(preset), TABLES), tables, f"preset {preset}")
        return found

    def _file_layers(self, content: Mapping[str, object], tables: Sequence[str], origin: str) -> list[Layer]:
        found = {name: content.get(name) for name in tables}
        return [
            table_layer(self.settings_class, table, f"{origin} [{name}]")
            for name, table in found.items()
            if isinstance(table, Mapping)
        ]


def _names_elsewhere() -> set[str]:
    """Settings of all commands, asked for only when a variable is not one of this command's."""
    names: set[str] = set()
    for command in COMMANDS.values():
        try:
            names |= leaves(command.load_settings_class()).keys()
        except ModuleNotFoundError:
            # A part that is not installed here (the trainer's, say) cannot be asked for its names.
            logger.debug("settings of %s cannot be read here", command.name)
    return names


def _parse(
    command: Command, settings_class: type[DataclassInstance], flags_class: type[CommonFlags], argv: Sequence[str]
) -> tuple[Layer, CommonFlags]:
    """The settings that the command line names, and the flags that are no settings."""
    known, common = leaves(settings_class), leaves(flags_class)
    hint = f"`lposekit {command.name} --help` lists the flags that matter, `--help-all` all of them."
    found = parse_flags(argv, {**known, **common}, help_hint=hint)
    _take_folder(command, known, found)
    values = {name: value for name, value in found.values.items() if name in known}
    switches: dict[str, Any] = {name: value for name, value in found.values.items() if name in common}
    return Layer("the command line", values, tuple(dict.fromkeys(found.flags))), flags_class(**switches)


def _take_folder(command: Command, known: Mapping[str, Leaf], found: FlagWords) -> None:
    """The word that names the folder without its flag becomes that setting; any other is one too many."""
    words = found.words
    if command.folder_field and words:
        found.values[command.folder_field] = parse_text(known[command.folder_field], words.pop(0))
    if words:
        raise UsageError(
            f"{command.name}: {words[0]!r} belongs to no flag. `lposekit {command.name} --help` shows how it is called."
        )


def _preset(flags: CommonFlags, sources: _Sources) -> str | None:
    if not isinstance(flags, RunFlags):
        return None
    named = sources.file().get("preset")
    return flags.preset or sources.environ.get("LPOSEKIT_PRESET") or (named if isinstance(named, str) else None)


def _tables(command: Command, settings: object) -> tuple[str, ...]:
    return (command.variant(settings),) if command.variant else ()


def _is_quickstart(command: Command, preset: str | None, named: bool) -> bool:
    if command.input_field is None:
        return False
    if named and preset == QUICKSTART:
        raise UsageError(
            f"{command.name}: the preset quickstart runs on its own sample data, so it cannot be used together with an "
            f"input. Drop {flag(command.input_field)}, or the preset."
        )
    if not named and preset not in (None, QUICKSTART):
        raise UsageError(
            f"{command.name}: no input is named, and the preset {preset} does not name one. "
            f"Give {flag(command.input_field)}."
        )
    return not named


def _require_folders(command: Command, settings: object) -> None:
    if command.output_field and not getattr(settings, command.output_field):
        raise UsageError(f"{command.name}: no output is named. Give {flag(command.output_field)} DIR.")
    if command.folder_field and not getattr(settings, command.folder_field):
        raise UsageError(f"{command.name}: no folder is named. Give it as `lposekit {command.name} DIR`.")


def _quickstart_line(command: Command, settings: object) -> str:
    return (
        f"quickstart: no input is named, so {command.name} runs on sample data (preset quickstart) "
        f"and writes to {getattr(settings, command.output_field or '')}"
    )


def _describe(layers: Sequence[Layer]) -> str:
    parts = [f"{', '.join(layer.keys)} from {layer.origin}" for layer in layers if layer.keys]
    return "; ".join([*parts, "the rest are defaults"])


def _settings_line(command: Command, settings: DataclassInstance, layers: Sequence[Layer]) -> str:
    """What differs from the defaults, by origin; the folders of a command are no difference, they have to be named."""
    value, default = flatten_settings(settings), flatten_settings(merge(type(settings), ()))
    folders = (command.input_field, command.output_field, command.folder_field)
    open_names = [name for name in value if value[name] != default[name] and name not in folders]
    parts = []
    for layer in layers:
        here = [name for name in open_names if name in layer.values]
        open_names = [name for name in open_names if name not in here]
        if here:
            rest = f" and {len(here) - NAMES_SHOWN} more" if len(here) > NAMES_SHOWN else ""
            parts.append(
                f"{', '.join(f'{n} {_plain(value[n])}' for n in here[:NAMES_SHOWN])}{rest} from {layer.origin}"
            )
    return "; ".join(parts)


def _plain(value: object) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, list) else "none" if value is None else str(value)
    return text if len(text) <= VALUE_SHOWN else text[: VALUE_SHOWN - 3] + "..."
