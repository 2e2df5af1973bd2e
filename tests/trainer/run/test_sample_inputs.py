"""Contract of what is checked before `lposekit sample` works: prompts, and the places of the results."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from lposekit.errors import LposekitError, UsageError
from trainer.inference.output import write_frames
from trainer.inference.settings import SampleSettings
from trainer.run import sample_inputs
from trainer.run.sample_inputs import output_paths, read_prompts, refuse_outputs

FRAMES = np.zeros((2, 16, 16, 3), np.uint8)


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


# --- prompts ---------------------------------------------------------------------------------------------------------


def prompts_of(data: bytes) -> list[str]:
    Path("prompts.txt").write_bytes(data)
    return read_prompts(SampleSettings(prompts=Path("prompts.txt")))


def test_prompts_are_the_lines_of_a_file_from_any_editor() -> None:
    # Mutations tried: "utf-8" keeps the mark; `splitlines` breaks at the separator inside the last line.
    data = "\ufeffa cat\r\n\r\n  a dog \n\u00e9t\u00e9\u2028two\x0cthree".encode()
    assert prompts_of(data) == ["a cat", "a dog", "\u00e9t\u00e9\u2028two\x0cthree"]


@pytest.mark.parametrize("data", [b"\xff\xfe\x61\x00", b"", b"\n \n"], ids=["utf-16", "empty", "blank"])
def test_a_file_without_prompts_is_refused(data: bytes) -> None:
    with pytest.raises(UsageError, match="--prompts"):
        prompts_of(data)


@pytest.mark.timeout(180)
def test_a_device_is_read_no_further_than_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    # Mutation tried: no `read` up to the limit. A device has size 0.
    monkeypatch.setattr(sample_inputs, "MAX_PROMPTS_BYTES", 2**10)
    with pytest.raises(UsageError, match="larger than"):
        read_prompts(SampleSettings(prompts=Path("/dev/zero")))


def test_a_prompt_that_is_no_text_is_refused() -> None:
    # Mutation tried: without `encode`, the tokenizer fails after the weights were loaded.
    with pytest.raises(UsageError, match="UTF-8"):
        read_prompts(SampleSettings(prompt=os.fsdecode(b"\xff")))


# --- places ----------------------------------------------------------------------------------------------------------


def refused(output: str, message: str, **more: object) -> None:
    settings = SampleSettings(prompt="a", output=Path(output), **more)  # pyright: ignore
    with pytest.raises(UsageError, match=message):
        refuse_outputs(settings, output_paths(settings, 2, 1))


def test_photos_in_a_folder_are_not_taken_for_old_frames() -> None:
    # Mutations tried: `refuse_outputs` without `foreign_file`; `_clear` without it. `[0-9]*.png` was removed once.
    folder = Path("photos")
    folder.mkdir()
    for name in ("2019 holiday.png", "000000.png"):
        (folder / name).write_bytes(b"mine")
        refused("photos", "was not written here")
        with pytest.raises(LposekitError, match="was not written here"):
            write_frames(folder, FRAMES, "frames", 8)
        assert [path.read_bytes() for path in folder.iterdir()] == [b"mine"]
        (folder / name).unlink()
    Path("photos.partial").mkdir()
    write_frames(folder, FRAMES, "frames", 8)
    write_frames(folder, FRAMES[:1], "frames", 8)
    assert sorted(path.name for path in Path().iterdir()) == ["photos", "photos.partial"]
    assert [path.name for path in folder.iterdir()] == ["000000.png"]


def test_what_cannot_be_written_is_refused_before_the_work() -> None:
    # Mutations tried: without the rules for the input, the folder above, the pipe, the length of the name.
    Path("file").write_text("x")
    Path("folder.mp4").mkdir()
    Path("dance.mp4").write_bytes(b"x")
    os.mkfifo("pipe.mp4")
    refused(".", "for the result alone")
    refused("file", "a file is there")
    refused("file/out.mp4", "nothing can be written to")
    refused("folder.mp4", "a folder is there")
    refused("pipe.mp4", "no regular file")
    refused("dance.mp4", "what is read", pose="./dance.mp4")
    refused(f"{'x' * 250}.mp4", "too long")
    refused("out.webm", ".webm cannot be written")
    refused("out.gif", "at most 50 frames", fps=60.0)


def test_a_name_with_a_colon_is_a_name() -> None:
    # Mutation tried: `str(path)`, in which FFmpeg sees a protocol.
    write_frames(Path("a:b.mp4"), FRAMES, "mp4", 0.1)
    assert Path("a:b.mp4").stat().st_size > 0
