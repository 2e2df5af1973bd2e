"""The folder of a model that is named: a local one, or one that is fetched from the hub."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HFValidationError

from lposekit.errors import UsageError


def weights_folder(what: str, name: str, files: Sequence[str], ways_on: str) -> Path:
    """The local folder of a model, fetched from the hub if need be: these `files` of it. `what` begins the error.

    Raises:
        UsageError: there is none.
    """
    if Path(name).is_dir():
        return Path(name)
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        raise UsageError(f"{what}: there is no such folder. {ways_on}")
    try:
        return Path(snapshot_download(name, allow_patterns=list(files)))
    except (OSError, HFValidationError) as error:
        reason = str(error).strip().split("\n")[0]
        raise UsageError(f"{what}: no such folder, and not to be had from the hub ({reason}). {ways_on}") from error
