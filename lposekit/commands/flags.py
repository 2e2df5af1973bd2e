"""From the command line to settings: flags over environment over `lposekit.toml` over a preset."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, make_dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Generic, TypeVar

from lposekit.commands.registry import COMMANDS, TABLES, Command
from lposekit.errors import UsageError
from lposekit.setting_values import check_values, flag, is_none, leaves
from lposekit.settings import Layer, environment_layer, merge, preset_path, read_toml, table_layer

logger = logging.getLogger(__name__)

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

S = TypeVar("S", bound="DataclassInstance")
SETTINGS_FILE = "lposekit.toml"
QUICKSTART = "quickstart"


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

    Raises `UsageError`; wrong flags end in `SystemExit(2)` with tyro's own message, `--help` in `SystemExit(0)`.
    """
    sources = _Sources(command, settings_class, dict(os.environ if environ is None else environ), folder or Path.cwd())
    settings, flags = _parse(command, merge_for_flags(settings_class, sources.layers(())), argv)
    preset = _preset(flags, sources)
    tables = _tables(command, settings)
    layers = sources.layers(tables, preset)
    named = command.input_field is not None and (
        bool(getattr(settings, command.input_field)) or any(layer.values.get(command.input_field) for layer in layers)
    )
    quickstart = _is_quickstart(command, preset, named)
    if quickstart:
        layers = sources.layers(tables, QUICKSTART)
    settings, flags = _parse(command, merge_for_flags(settings_class, layers), argv)
    check_values(settings)
    _require_folders(command, settings)
    loaded = Loaded(settings, quickstart, getattr(flags, "dry_run", False), flags.json, _describe(argv, layers))
    if quickstart:
        logger.info(_quickstart_line(command, settings))
    logger.info("settings: %s", loaded.sources)
    return loaded


def merge_for_flags(settings_class: type[S], layers: Sequence[Layer]) -> S:
    """The layers as one instance, for tyro to start from; what only the command line can give stays open."""
    import tyro

    return merge(settings_class, layers, missing=tyro.MISSING)


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


def _parse(command: Command, default: S, argv: Sequence[str]) -> tuple[S, CommonFlags]:
    import tyro

    flags_class = RunFlags if command.can_dry_run else CommonFlags
    unnamed = tyro.conf.arg(name="")
    flags_type = Annotated[flags_class, unnamed, tyro.conf.FlagCreatePairsOff]
    members: list[Any] = [("settings", Annotated[type(default), unnamed])]
    if command.folder_field:
        what = tyro.conf.arg(metavar="DIR", help=f"The folder; same as {flag(command.folder_field)}.")
        members.append(("folder", Annotated[tyro.conf.Positional[Path | None], what], None))
    members.append(("flags", flags_type, field(default_factory=flags_class)))
    arguments = make_dataclass("Arguments", members)
    parsed = tyro.cli(
        arguments,
        prog=f"lposekit {command.name}",
        description=_help_text(command),
        args=_spell_none(type(default), argv),
        default=arguments(default),
    )
    if command.folder_field and parsed.folder is not None:
        parsed.settings = replace(parsed.settings, **{command.folder_field: parsed.folder})
    return parsed.settings, parsed.flags


def _spell_none(settings_class: type[DataclassInstance], argv: Sequence[str]) -> list[str]:
    """The words of the command line with `none` as tyro wants it, `None`, where it stands for no value, as in files."""
    optional = {flag(name) for name, leaf in leaves(settings_class).items() if is_none(leaf.annotation, "none")}
    words = []
    for before, word in pairwise(["", *argv]):
        name, equals, value = word.rpartition("=")
        stands_for_none = value.lower() == "none" and (name if equals else before) in optional
        words.append(f"{name}{equals}None" if stands_for_none else word)
    return words


def _help_text(command: Command) -> str:
    text = command.summary[0].upper() + command.summary[1:] + "."
    if command.input_field:
        text += f" Without {flag(command.input_field)}, it runs the preset quickstart on sample data."
    if command.can_dry_run:
        where = f"flags, LPOSEKIT_* variables, {SETTINGS_FILE} [{command.name}], the preset"
        text += f" Settings come from {where}, in this order of precedence; the defaults shown apply without the flag."
    return text


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


def _describe(argv: Sequence[str], layers: Sequence[Layer]) -> str:
    given = dict.fromkeys(word.partition("=")[0] for word in argv if word.startswith("--"))
    parts = [f"{', '.join(given)} from flags"] if given else []
    for layer in layers:
        if layer.keys:
            parts.append(f"{', '.join(layer.keys)} from {layer.origin}")
    return "; ".join([*parts, "the rest are defaults"])
