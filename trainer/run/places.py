"""Whether a folder is what a command takes it for, found out before torch is loaded."""

from __future__ import annotations

from pathlib import Path

from lposekit.errors import UsageError
from trainer.run.run_card import RUN_NAME

MODEL_INDEX = "model_index.json"


def require_weights_folder(run: Path) -> None:
    """Make sure that a folder is a run, or a folder to which a pipeline was saved.

    Raises:
        UsageError: it is neither.
    """
    if not run.is_dir():
        raise UsageError(f"--run {run}: there is no such folder. Name a run folder of `lposekit train`.")
    if not any((run / name).exists() for name in (RUN_NAME, MODEL_INDEX)):
        raise UsageError(
            f"--run {run}: neither a run folder (no {RUN_NAME}) nor a saved pipeline (no {MODEL_INDEX}). Name a folder "
            "that was given as --output to `lposekit train`."
        )
