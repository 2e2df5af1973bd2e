"""The run folder: its settings, what it was made from, and the lock of the run that writes it."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from torch import nn

from lposekit.errors import UsageError
from lposekit.json_values import JsonObject
from lposekit.setting_values import plain_leaves
from lposekit.shards.card import differing_fields
from lposekit.shards.files import disk_error, open_own, refuse_links, write_bytes
from trainer.model.switches import ModelSwitches
from trainer.settings import TrainSettings

SETTINGS_NAME = "settings.toml"
SETTINGS_TABLE = "train"
MAX_SETTINGS_BYTES = 2**20


@contextlib.contextmanager
def own_folder(run_dir: Path, lock: str = ".lock") -> Iterator[None]:
    """Makes the folder if need be, and holds it by the file `lock` in it: two runs must not write one folder.

    Raises:
        UsageError: another run holds it, or it holds links.
    """
    if "://" in str(run_dir) or str(run_dir).startswith(("s3:/", "gs:/")):
        raise UsageError(f"--output {run_dir}: a run is written to a local folder. Name one.")
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        refuse_links(run_dir)
        (run_dir / lock).parent.mkdir(exist_ok=True)
        descriptor = open_own(run_dir / lock, os.O_RDWR)
    except OSError as error:
        raise disk_error(error, run_dir) from error
    try:
        # released by the kernel when its holder dies, however it dies
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise UsageError(f"another run is writing to {run_dir}: wait for it, or name another --output") from None
    finally:
        os.close(descriptor)


def write_settings(run_dir: Path, settings: TrainSettings) -> None:
    """`settings.toml`: every setting of the run by its dotted name, in the form that `--preset` takes."""
    lines = [
        # what JSON writes of these values is TOML as well, but for its escapes of what is not ASCII; TOML has no null,
        # and none is the default of what has it
        f"{name} = {json.dumps(value, default=str, ensure_ascii=False)}"
        for name, value in plain_leaves(settings)
        if value is not None
    ]
    text = "\n".join([f"[{SETTINGS_TABLE}]", *lines]) + "\n"
    write_bytes(run_dir / SETTINGS_NAME, text.encode(errors="replace"))


def refuse_other_run(found: object, wanted: JsonObject, where: Path) -> None:
    """Raises UsageError if a checkpoint was made with other data or settings that decide the order of samples."""
    if isinstance(found, dict) and isinstance(found.get("switches"), dict):
        # a run of an older version computed what switches that came later do by default
        found = {**found, "switches": {**asdict(ModelSwitches()), **found["switches"]}}
    if isinstance(found, dict):
        # a run of an older version held nothing out
        found = {"held_out": 0, **found}
    differing = differing_fields(found, json.loads(json.dumps(wanted)))
    if differing:
        raise UsageError(
            f"{where} cannot be resumed, its data or settings were others:\n  " + "\n  ".join(differing) + "\n"
            "Go back to those, or start a new run in another --output."
        )


def fingerprint(module: nn.Module) -> str:
    """SHA-256 over the names, shapes and first values of all weights: tells models apart without reading gigabytes."""
    sha = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        first = value.detach().flatten()[:256].float().cpu()
        sha.update(f"{name} {tuple(value.shape)}\n".encode() + first.numpy().tobytes())
    return sha.hexdigest()
