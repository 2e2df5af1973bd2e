"""Contract: an error about a missing module names the extra of lposekit that brings it, wherever it comes from."""

from __future__ import annotations

import importlib.metadata
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from lposekit import cli
from lposekit.extras import extras_with, missing_module_words
from tests.support.dataset_folder import make_dataset
from tests.support.fixtures import REPOSITORY

pytestmark = pytest.mark.case(90)
EXTRAS = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["optional-dependencies"]


@pytest.mark.parametrize("line", sorted({line for lines in EXTRAS.values() for line in lines}))
def test_every_optional_dependency_is_found_by_the_module_that_is_imported(line: str) -> None:
    # Mutation: `MODULE_OF` without scikit-image: `skimage` belongs to no extra.
    name = re.match(r"[\w.-]+", line)
    assert name
    extras = [extra for extra, lines in EXTRAS.items() if line in lines]
    installed = importlib.metadata.packages_distributions()
    modules = [module for module, names in installed.items() if name[0].lower() in map(str.lower, names)]
    if not modules:
        pytest.skip(f"{name[0]} is not installed here")
    assert any(set(extras) <= set(extras_with(module)) for module in modules)


def test_the_extra_of_the_command_is_named_alone_and_openmmlab_by_its_own_remedy() -> None:
    # Mutation: `wanted` not looked at.
    error = ModuleNotFoundError("No module named 'einops'", name="einops")
    both = "`pip install 'lposekit[build]' or pip install 'lposekit[train]'`"
    assert both in missing_module_words(error)
    assert "`pip install 'lposekit[train]'` brings it" in missing_module_words(error, ("train",))
    assert "`make setup`" in missing_module_words(ModuleNotFoundError("", name="mmdet.apis"), ("build",))


@pytest.mark.parametrize(
    ("module", "command", "extra"),
    [
        ("simplejpeg", ["build-laion-pose", "--dry-run"], "build"),
        ("diffusers", ["train", "--dry-run", "--data", "d", "--output", "run"], "train"),
        ("av", ["build-video-shards", "--dry-run"], "video"),
    ],
)
def test_a_command_without_its_packages_says_which_extra_brings_them(
    module: str, command: list[str], extra: str, tmp_path: Path
) -> None:
    # Mutation: no branch for ModuleNotFoundError in `cli`: "unexpected ModuleNotFoundError".
    make_dataset(tmp_path / "d")
    script = f"import sys; sys.modules[{module!r}] = None\nfrom lposekit.cli import main; sys.exit(main({command!r}))"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path, timeout=60, check=False
    )
    assert done.returncode == 1
    assert f"the module {module} is not installed: `pip install 'lposekit[{extra}]'` brings it" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_border_turns_a_missing_module_into_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # Mutation: no branch for ModuleNotFoundError in `cli`: "unexpected ModuleNotFoundError".
    def fail(_: list[str]) -> int:
        raise ModuleNotFoundError("No module named 'simplejpeg'", name="simplejpeg")

    monkeypatch.setattr("lposekit.commands.verify.run", fail)
    assert cli.main(["verify"]) == 1
    line = "lposekit: the module simplejpeg is not installed: `pip install 'lposekit[build]'` brings it."
    assert line in capsys.readouterr().err
