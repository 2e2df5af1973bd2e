"""What a folder of an evaluation was made from: written before its first file, compared before every further one."""

from __future__ import annotations

import json
from pathlib import Path

from lposekit.errors import LposekitError, UsageError
from lposekit.json_values import JsonObject, read_json_object
from lposekit.shards.card import differing_fields
from lposekit.shards.files import write_json
from lposekit.store import LocalStore

MAX_BYTES = 2**20


def claim(path: Path, what: JsonObject, done: str) -> None:
    """Writes the file, or makes sure that it says the same.

    Args:
        done: what was done with it, in the past: `clips were drawn`.

    Raises:
        UsageError: it says something else. LposekitError: it is damaged, or the disk is full.
    """
    wanted = json.loads(json.dumps(what))
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, wanted)
        return
    differing = differing_fields(read_object(path, MAX_BYTES), wanted)
    if differing:
        raise UsageError(
            f"{path.parent}: its {done} with other weights or settings:\n  " + "\n  ".join(differing) + "\n"
            f"Go back to those, name another --output, or remove {path.parent}."
        )


def read_object(path: Path, max_bytes: int) -> dict:
    """The JSON object in a file of ours. Raises LposekitError: it is damaged."""
    try:
        return read_json_object(LocalStore(path.parent), path.name, max_bytes)
    except (OSError, ValueError) as error:
        raise LposekitError(f"{path}: cannot be read ({error}). Remove it; it is made again.") from error
