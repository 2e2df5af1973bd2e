"""What the folder of a file of prompts already holds, so that the same command goes on where it was stopped.

`prompts.jsonl` in it has one line for each result: `file`, `prompt`, and `made_from`, a digest of all that decides the
result. A result whose digest is another one is drawn again.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from torch import nn

from lposekit import __version__
from lposekit.errors import UsageError
from lposekit.settings import settings_digest
from lposekit.shards.files import disk_error
from trainer.inference.pipeline import FollowYourPosePipeline
from trainer.inference.settings import SampleSettings
from trainer.run.folder import fingerprint

Frames = npt.NDArray[np.uint8]

LIST_NAME = "prompts.jsonl"
MAX_BYTES = 2**28
_ELSEWHERE = frozenset(
    {"run", "prompt", "pose", "output", "prompts", "base", "official_weights", "step", "skeleton", "compute.vae_slice"}
)
"""Settings that do not decide a result, or do so by the weights and the skeletons."""


@dataclass(frozen=True, slots=True)
class Finished:
    """The results of a folder. `common`: digest of what all its prompts share; `found`: `made_from` by file."""

    folder: Path
    common: str
    found: dict[str, str]

    def holds(self, output: Path, prompt: str) -> bool:
        """Whether a result is there, made just so."""
        return output.exists() and self.found.get(output.name) == self._made_from(prompt)

    def add(self, output: Path, prompt: str) -> None:
        """Note a result that was written. Raises LposekitError: the disk is full."""
        line = json.dumps({"file": output.name, "prompt": prompt, "made_from": self._made_from(prompt)})
        path = self.folder / LIST_NAME
        try:
            with path.open("a+b") as stream:
                torn = stream.tell() > 0 and _last_byte(path) != b"\n"  # by a kill
                stream.write(b"\n" * torn + line.encode() + b"\n")
        except OSError as error:
            raise disk_error(error, path) from error

    def _made_from(self, prompt: str) -> str:
        return hashlib.sha256(f"{self.common} {prompt}".encode()).hexdigest()


def read_finished(
    folder: Path,
    settings: SampleSettings,
    pipeline: FollowYourPosePipeline,
    skeletons: Frames | None,
    shape: tuple[int, int, int],
) -> Finished:
    """What the folder holds. `shape`: frames, height and width of the results.

    Lines that cannot be read count as not there. Raises UsageError for a list that is no file of ours.
    """
    path = folder / LIST_NAME
    found: dict[str, str] = {}
    if path.exists():
        if not path.is_file() or path.stat().st_size > MAX_BYTES:
            raise UsageError(
                f"--output {folder}: its {LIST_NAME} is no list of results. Remove it, or name another folder."
            )
        for line in path.read_bytes().split(b"\n"):
            _read_line(line, found)
    return Finished(folder, _common(settings, pipeline, skeletons, shape), found)


def _read_line(line: bytes, found: dict[str, str]) -> None:
    try:
        entry = json.loads(line)
        found[str(entry["file"])] = str(entry["made_from"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return


def _common(
    settings: SampleSettings,
    pipeline: FollowYourPosePipeline,
    skeletons: Frames | None,
    shape: tuple[int, int, int],
) -> str:
    sha = hashlib.sha256(f"{__version__} {settings_digest(settings, excluded=_ELSEWHERE)} {shape}".encode())
    for name, part in sorted(pipeline.components.items()):
        if isinstance(part, nn.Module):
            sha.update(f" {name} {fingerprint(part)}".encode())
    if skeletons is not None:
        sha.update(skeletons.tobytes())
    return sha.hexdigest()


def _last_byte(path: Path) -> bytes:
    with path.open("rb") as stream:
        stream.seek(-1, 2)
        return stream.read(1)
