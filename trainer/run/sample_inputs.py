"""What is to be drawn: prompts, where their results go, the skeletons, the windows."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from lposekit.errors import UsageError
from trainer.inference.output import foreign_file, format_of
from trainer.inference.pose_input import Estimate, PoseRequest, load_pose
from trainer.inference.settings import DEFAULT_FRAMES, SampleSettings
from trainer.inference.windows import WindowPlan
from trainer.run.sampler import WeightsFacts

Frames = npt.NDArray[np.uint8]
IMAGE_ENDING = ".png"
MAX_GIF_FPS = 50
MAX_NAME_BYTES = 255 - len(".partial")
OTHER_ENDINGS = (".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".wmv", ".jpg", ".jpeg", ".webp", ".apng", ".bmp")
"""Not names of folders, surely."""
MAX_PROMPTS_BYTES = 16 * 2**20


def read_prompts(settings: SampleSettings) -> list[str]:
    """The prompt, or one for each line of the file that is not blank."""
    if settings.prompts is None:
        assert settings.prompt is not None
        try:
            settings.prompt.encode()
        except UnicodeEncodeError as error:
            raise UsageError("--prompt: its bytes are no text in UTF-8. Write it in UTF-8.") from error
        return [settings.prompt]
    try:
        with settings.prompts.open("rb") as stream:
            # a pipe or a device has no size to ask for
            data = stream.read(MAX_PROMPTS_BYTES + 1)
        if len(data) > MAX_PROMPTS_BYTES:
            raise UsageError(f"--prompts {settings.prompts}: larger than {MAX_PROMPTS_BYTES} bytes. Split it.")
        # editors of Windows write a mark first; `splitlines` would also break at characters inside of a line
        lines = data.decode("utf-8-sig").replace("\r", "\n").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"--prompts {settings.prompts}: cannot be read ({error}). Name a text file in UTF-8."
        ) from error
    prompts = [line.strip() for line in lines if line.strip()]
    if not prompts:
        raise UsageError(f"--prompts {settings.prompts}: there is no prompt in it. Write one per line.")
    return prompts


def output_paths(settings: SampleSettings, stage: int, num_prompts: int) -> list[Path]:
    """Where each prompt's result goes: `--output` itself, or for a file of prompts `0000.mp4` and so on in it.

    Raises:
        UsageError: a name that does not fit what is drawn.
    """
    assert settings.output is not None
    output, written_as = settings.output, settings.result.format
    ending = output.suffix.lower()
    many = settings.prompts is not None
    if many and ending in (".mp4", ".gif", IMAGE_ENDING):
        raise UsageError(f"--output {output}: several prompts need a folder. Leave the ending out.")
    if stage == 1 and (ending in (".mp4", ".gif") or written_as in ("mp4", "gif")):
        raise UsageError(f"--output {output}: weights of stage 1 draw images. Name a .png file, or a folder.")
    if stage == 1 and ending == IMAGE_ENDING and (settings.frames or 1) > 1:
        raise UsageError(f"--output {output}: {settings.frames} images need a folder. Leave the ending out.")
    if stage == 2 and ending == IMAGE_ENDING:
        raise UsageError(f"--output {output}: weights of stage 2 draw clips. Name a .mp4 or .gif file, or a folder.")
    if written_as is not None and not many and format_of(output) != written_as:
        raise UsageError(
            f"--output {output}: does not end as --result.format {written_as} does. Leave one of them out."
        )
    if settings.fps > MAX_GIF_FPS and (written_as or format_of(output)) == "gif":
        raise UsageError(f"--fps {settings.fps:g}: a GIF shows at most {MAX_GIF_FPS} frames per second.")
    if ending in OTHER_ENDINGS:
        raise UsageError(f"--output {output}: {ending} cannot be written. Name a .mp4 or .gif file, or a folder.")
    if not many:
        return [output]
    if stage == 1:
        endings = IMAGE_ENDING if (settings.frames or 1) == 1 else ""
    else:
        endings = "" if written_as == "frames" else f".{written_as or 'mp4'}"
    return [output / f"{number:04d}{endings}" for number in range(num_prompts)]


def refuse_outputs(settings: SampleSettings, outputs: Sequence[Path]) -> None:
    """Raises UsageError, before any work, where a result could not be written or would take the place of something
    that was not written here."""
    assert settings.output is not None
    inputs = [path for path in (settings.pose, settings.prompts) if path is not None]
    for output in outputs:
        if output.name in ("", ".."):
            raise UsageError(f"--output {output}: name a file, or a folder for the result alone.")
        if len(os.fsencode(output.name)) > MAX_NAME_BYTES:
            raise UsageError(f"--output {output}: the name is too long. Name at most {MAX_NAME_BYTES} bytes.")
        if any(os.path.exists(path) and os.path.exists(output) and os.path.samefile(path, output) for path in inputs):
            raise UsageError(f"--output {output}: this is what is read. Name another file.")
        _refuse_place(output, is_folder=(settings.result.format or format_of(output)) == "frames")
    parent = next(folder for folder in outputs[0].absolute().parents if os.path.lexists(folder))
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        raise UsageError(f"--output {settings.output}: nothing can be written to {parent}. Name another place.")


def _refuse_place(output: Path, is_folder: bool) -> None:
    is_folder &= output.suffix.lower() != IMAGE_ENDING
    if not is_folder and output.is_dir():
        raise UsageError(f"--output {output}: a folder is there. Name a file.")
    if not is_folder and output.exists() and not output.is_file():
        raise UsageError(f"--output {output}: no regular file. Name another one.")
    if is_folder and os.path.lexists(output) and not output.is_dir():
        raise UsageError(f"--output {output}: a file is there. Name a .mp4 or .gif file, or a folder.")
    foreign = foreign_file(output) if is_folder and output.is_dir() else None
    if foreign is not None:
        raise UsageError(f"--output {output}: holds {foreign.name}, which was not written here. Name another folder.")


def read_skeletons(
    settings: SampleSettings, facts: WeightsFacts, height: int, width: int, estimate: Estimate
) -> Frames | None:
    """The skeleton images, drawn as the weights have learned to read them; None without a pose."""
    if settings.pose is None:
        return None
    own_width = settings.skeleton.line_width
    request = PoseRequest(
        source=settings.pose,
        count=settings.frames or (1 if facts.stage == 1 else None),
        most=DEFAULT_FRAMES,
        stride=settings.stride,
        height=height,
        width=width,
        style=settings.skeleton.style or facts.pose_style,
        line_width=line_width_at(facts, height, width) if own_width is None else own_width,
        how=settings.skeleton,
    )
    skeletons = load_pose(request, estimate)
    if len(skeletons) == 1 and facts.stage == 2 and settings.frames is None:
        # a still pose: held for a clip of the length that was trained
        skeletons = np.repeat(skeletons, facts.frames, axis=0)
    return skeletons


def line_width_at(facts: WeightsFacts, height: int, width: int) -> float | None:
    """The line width that the weights were trained with, in pixels of another size; None: the style's."""
    return None if facts.pose_line_width is None else facts.pose_line_width * min(height, width) / facts.size


def count_frames(settings: SampleSettings, facts: WeightsFacts, skeletons: Frames | None) -> int:
    """Frames to draw."""
    if skeletons is not None:
        return len(skeletons)
    return settings.frames or (facts.frames if facts.stage == 2 else 1)


def window_plan(settings: SampleSettings, facts: WeightsFacts, frames: int) -> WindowPlan:
    """The plan that the pipeline will follow."""
    if facts.stage == 1:
        return WindowPlan(frames, 1)
    return WindowPlan(frames, settings.long.window, settings.long.overlap, settings.long.method)
