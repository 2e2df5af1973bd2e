"""Contract of all commands that are given a folder: a wrong one is wrong usage (exit code 2), named in one message,
before anything heavy is loaded or anything is written."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from lposekit.cli import main
from lposekit.errors import UsageError
from tests.support.dataset_folder import make_dataset
from tests.support.fixtures import REPOSITORY
from trainer.run.run_card import read_run_card

CALLS: dict[str, Callable[[str], list[str]]] = {
    "verify": lambda folder: ["verify", folder],
    "view": lambda folder: ["view", folder],
    "retry": lambda folder: ["retry", folder],
    "refilter": lambda folder: ["refilter", folder, "--output", "new"],
    "remove": lambda folder: ["remove", folder, "--list", "list.txt"],
    "cache-latents": lambda folder: ["cache-latents", folder, "--base", "tiny"],
    "pose": lambda folder: ["pose", "--input", folder, "--output", "new"],
    "train": lambda folder: ["train", "--stage", "1", "--data", folder, "--output", "new", "--base", "tiny"],
    "sample": lambda folder: ["sample", "--run", folder, "--prompt", "x", "--output", "x.mp4"],
}


@pytest.mark.case(93)
@pytest.mark.parametrize("command", CALLS)
def test_a_wrong_folder_is_wrong_usage_everywhere(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # Mutations tried: LposekitError in `read_card`, in `require_weights_folder` -> 1.
    monkeypatch.chdir(tmp_path)
    (tmp_path / "list.txt").write_text("000000001\n")
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("no folder")
    folders = ("nosuch", "empty") if command == "pose" else ("nosuch", "empty", "file")  # a file may be a video
    for folder in folders:
        assert main(CALLS[command](folder)) == 2, folder
        message = capsys.readouterr().err
        assert folder in message
        assert "Traceback" not in message
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "file", "list.txt"]


@pytest.mark.case(93)
def test_a_folder_of_another_kind_is_wrong_usage_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    make_dataset(tmp_path / "images", 1)
    for command in ("sample", "pose"):
        assert main(CALLS[command]("images")) == 2
        assert "images" in capsys.readouterr().err


@pytest.mark.case(93)
def test_a_folder_that_is_no_run_is_wrong_usage_wherever_its_card_is_read(tmp_path: Path) -> None:
    # Mutation tried: LposekitError in `read_run_card`.
    (tmp_path / "file").write_text("no folder")
    for folder in (tmp_path, tmp_path / "nosuch", tmp_path / "file"):
        with pytest.raises(UsageError, match="is no run folder"):
            read_run_card(folder)


@pytest.mark.case(93)
def test_a_wrong_run_is_named_before_torch_is_loaded(tmp_path: Path) -> None:
    # Mutation tried: `require_weights_folder` left to `trainer.sample`.
    code = (
        "import sys; from lposekit.cli import main\n"
        "code = main(['sample', '--run', 'nosuch', '--prompt', 'x', '--output', 'x.mp4'])\n"
        "also = main(['cache-latents', 'nosuch', '--base', 'tiny'])\n"
        "train = main(['train', '--stage', '1', '--data', 'nosuch', '--output', 'new', '--base', 'tiny'])\n"
        "print(code, also, train, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, check=True, capture_output=True, text=True)
    assert done.stdout.split() == ["2", "2", "2", "False"], done.stderr


def test_one_prompt_or_a_file_of_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    both = ["--prompt", "x", "--prompts", "x.txt", "--output", str(tmp_path / "x.mp4")]
    assert main(["sample", "--run", str(tmp_path), *both]) == 2
    assert "one of them" in capsys.readouterr().err
