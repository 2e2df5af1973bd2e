"""Contract of `lposekit init`: a commented settings file that is valid as it stands and with its examples switched on;
an existing file is never touched."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

import pytest

from lposekit.cli import main
from lposekit.commands.flags import load
from lposekit.commands.registry import COMMANDS, TABLES
from lposekit.settings import table_layer


def test_written_file_is_what_the_commands_run_with(tmp_path: Path) -> None:
    assert main(["init", "--folder", str(tmp_path)]) == 0
    for name, call in {"build-laion-pose": [], "build-video-shards": [], "train": ["--stage", "2"]}.items():
        command = COMMANDS[name]
        result = load(command, command.load_settings_class(), call, environ={}, folder=tmp_path)
        assert result.quickstart is False
        assert result.settings.output is not None  # type: ignore[attr-defined]


def test_every_example_in_a_comment_is_a_valid_setting(tmp_path: Path) -> None:
    # Mutation tried: a misspelt example ("# min_sucess = 0.3") turns this red.
    main(["init", "--folder", str(tmp_path)])
    text = (tmp_path / "lposekit.toml").read_text()
    switched_on, count = re.subn(r"(?m)^# (\w+ = )", r"\1", text)
    assert count >= 8
    content = tomllib.loads(switched_on)
    owners = {table: command for command in COMMANDS.values() for table in command.tables}
    assert content.pop("preset") == "followyourpose"
    for table, values in content.items():
        table_layer(owners[table].load_settings_class(), values, table)


def test_the_template_has_a_table_for_every_command(tmp_path: Path) -> None:
    # Mutation tried: without [pose].
    main(["init", "--folder", str(tmp_path)])
    assert set(tomllib.loads((tmp_path / "lposekit.toml").read_text())) == set(TABLES)


def test_existing_file_is_not_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # Mutation tried: opening with "w" in place of "x" turns this red.
    path = tmp_path / "lposekit.toml"
    path.write_text("# mine\n")
    assert main(["init", "--folder", str(tmp_path)]) == 2
    assert "is not overwritten" in capsys.readouterr().err
    assert path.read_text() == "# mine\n"


def test_folder_that_cannot_be_written_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["init", "--folder", str(tmp_path / "missing")]) == 1
    assert "missing/lposekit.toml cannot be written" in capsys.readouterr().err


def test_json_names_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["init", "--folder", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"file": str(tmp_path / "lposekit.toml")}
