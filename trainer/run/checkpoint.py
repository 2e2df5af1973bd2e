"""Checkpoints that are whole or not there.

A checkpoint is the folder `checkpoints/step-NNNNNN` of a run: safetensors of the trained weights, their moving average,
the optimiser and the random state, and `checkpoint.json` with everything else and the SHA-256 of each file. It is
written beside as `.tmp`, synced and renamed, so a kill leaves the one before. Nothing in it is pickled.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from lposekit.errors import LposekitError, UsageError
from lposekit.faults import fault_point
from lposekit.json_values import OBJECT, JsonFields, JsonObject, object_of, read_json_object
from lposekit.shards.files import disk_error, sync_file, sync_folder
from lposekit.shards.layout import sha256_file
from lposekit.store import LocalStore
from lposekit.store_reads import local_path, sha256_of
from trainer.model.tensor_files import LISTED_DIFFERENCES, differences

log = logging.getLogger(__name__)

SCHEMA = 1
MAX_FACTS_BYTES = 2**26
FACTS_NAME = "checkpoint.json"
WEIGHTS, EMA, OPTIMIZER, RANDOM = "trainable", "ema", "optimizer", "random"
_NAME = re.compile(r"^step-(\d{6,})$")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The contents of a checkpoint. `tensors`: file name without ending -> tensors by name. `facts`: JSON
    values."""

    step: int
    tensors: Mapping[str, Mapping[str, Tensor]]
    facts: Mapping[str, Any]


def checkpoints_folder(run_dir: Path) -> Path:
    return run_dir / "checkpoints"


def step_folder(run_dir: Path, step: int) -> Path:
    """Where the checkpoint of a step lies."""
    return checkpoints_folder(run_dir) / f"step-{step:06d}"


def list_steps(run_dir: Path) -> list[int]:
    """Steps with a checkpoint folder, whole or not, newest first.

    Raises:
        LposekitError: the folder of the checkpoints is a link, or cannot be read.
    """
    try:
        there = LocalStore(run_dir).list(checkpoints_folder(run_dir).name)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise LposekitError(f"{run_dir}: its checkpoints cannot be read ({error}).") from error
    found = (_NAME.match(name) for name, kind in there.items() if kind == "folder")
    return sorted((int(match.group(1)) for match in found if match), reverse=True)


def save_checkpoint(run_dir: Path, checkpoint: Checkpoint) -> Path:
    """Write a checkpoint; returns its folder. One that is there for the step (a damaged one) is replaced.

    Raises:
        LposekitError: the disk is full or cannot be written; what was there before is untouched.
    """
    final = step_folder(run_dir, checkpoint.step)
    partial = final.with_name(f"{final.name}.tmp")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        _write(partial, checkpoint)
        fault_point("checkpoint:before_rename")
        if final.exists():
            shutil.rmtree(final)
        partial.rename(final)
        sync_folder(final.parent)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise write_error(error, final) from error
    fault_point("checkpoint:after_rename")
    return final


def write_error(error: OSError | SafetensorError, path: Path) -> LposekitError:
    """A refusal to write weights, in words that say what to do."""
    if isinstance(error, OSError):
        return disk_error(error, path)
    # safetensors reports the system's refusal as text
    return LposekitError(f"{path}: cannot be written ({error}). Free space, then run the same command again to resume.")


def _write(folder: Path, checkpoint: Checkpoint) -> None:
    files = {}
    for name, tensors in checkpoint.tensors.items():
        path = folder / f"{name}.safetensors"
        save_file({key: value.detach().cpu().contiguous() for key, value in tensors.items()}, path)
        sync_file(path)
        files[path.name] = {"bytes": path.stat().st_size, "sha256": sha256_file(path)}
        fault_point(f"checkpoint:after_{name}")
    facts = {"schema": SCHEMA, "step": checkpoint.step, **checkpoint.facts, "files": files}
    path = folder / FACTS_NAME
    path.write_text(json.dumps({**facts, "digest": _digest(facts)}, indent=1), encoding="utf-8")
    sync_file(path)
    sync_folder(folder)


def _digest(facts: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def read_facts(folder: Path) -> dict[str, Any]:
    """`checkpoint.json`, checked against its own digest.

    Raises:
        ValueError, OSError: it is damaged, of another schema, or cannot be read.
    """
    facts: dict[str, Any] = read_json_object(LocalStore(folder), FACTS_NAME, MAX_FACTS_BYTES)
    if facts.pop("digest", None) != _digest(facts):
        raise ValueError("its digest does not match")
    if facts.get("schema") != SCHEMA:
        raise ValueError(f"schema {facts.get('schema')} is not {SCHEMA}")
    return facts


def damage(folder: Path, *, hashed: bool = True) -> str | None:
    """What is wrong with a checkpoint folder, reading all of it (or, not `hashed`, only its facts and the sizes of its
    files); None if it is whole."""
    try:
        files = JsonFields(read_facts(folder)).need("files", object_of(OBJECT))
    except (OSError, ValueError) as error:
        return f"{FACTS_NAME} cannot be read ({error})"
    return next(
        (problem for name, facts in files.items() if (problem := _file_damage(folder, name, facts, hashed))), None
    )


def _file_damage(folder: Path, name: str, facts: JsonObject, hashed: bool) -> str | None:
    if "/" in name or not name.endswith(".safetensors"):
        return f"it lists {name!r}, which is no file of a checkpoint"
    store = LocalStore(folder)
    try:
        found = store.stat(name)
        if found.kind == "file" and found.size != facts.get("bytes"):
            return f"{name} has {found.size} bytes, {facts.get('bytes')} were written"
        if hashed and sha256_of(store, name) != facts.get("sha256"):
            return f"{name} has other bytes than were written"
    except FileNotFoundError:
        return f"{name} is missing"
    except OSError as error:
        return str(error)
    return None


def newest_whole(run_dir: Path) -> Path | None:
    """The newest checkpoint that verifies, None if there is none; says which newer ones it passed over and why."""
    for step in list_steps(run_dir):
        folder = step_folder(run_dir, step)
        problem = damage(folder)
        if problem is None:
            return folder
        log.warning("checkpoint %s is damaged: %s. Falling back to the one before.", folder, problem)
    return None


def load_checkpoint(folder: Path) -> Checkpoint:
    """A checkpoint named by the user or found by `newest_whole`.

    Raises:
        UsageError: no checkpoint there, or a folder of something else.
        LposekitError: it is damaged; another one is never taken instead.
    """
    if not folder.is_dir():
        raise UsageError(f"{folder}: no checkpoint there. Name a folder RUN/checkpoints/step-NNNNNN.")
    if not (folder / FACTS_NAME).exists() and not _NAME.match(folder.name):
        newest = f", such as {step_folder(folder, list_steps(folder)[0])}" if list_steps(folder) else ""
        raise UsageError(f"{folder} is no checkpoint. Name a folder RUN/checkpoints/step-NNNNNN{newest}.")
    problem = damage(folder)
    if problem is not None:
        raise LposekitError(
            f"checkpoint {folder} is damaged: {problem}. Name another one, or resume with --resume auto."
        )
    facts = read_facts(folder)
    try:
        tensors = {Path(name).stem: _load(folder, name) for name in facts["files"]}
    except SafetensorError as error:
        raise LposekitError(f"checkpoint {folder}: not readable as safetensors ({error}). Name another one.") from error
    return Checkpoint(facts["step"], tensors, facts)


def _load(folder: Path, name: str) -> dict[str, Tensor]:
    with local_path(LocalStore(folder), name) as path:
        return load_file(path)


def remove_leftovers(run_dir: Path) -> None:
    """Remove what a killed run left half written. Only for the run that owns the folder."""
    folder = checkpoints_folder(run_dir)
    for path in folder.glob("step-*.tmp") if folder.is_dir() else ():
        log.info("removing the unfinished checkpoint %s", path)
        try:
            shutil.rmtree(path)
        except OSError as error:
            raise disk_error(error, path) from error


def set_aside_newer(run_dir: Path, step: int) -> None:
    """Rename checkpoints behind `step`, which the user named to go on from: they end another history.

    Left where they are, the next resume would take the newest of them.
    """
    for newer in [found for found in list_steps(run_dir) if found > step]:
        folder = step_folder(run_dir, newer)
        aside = folder.with_name(f"superseded-{folder.name}")
        shutil.rmtree(aside, ignore_errors=True)
        _rename(folder, aside)
        log.warning(
            "checkpoint %s is behind step %d, from which this run goes on: renamed to %s", folder, step, aside.name
        )


def prune(run_dir: Path, keep: int, keeps: Callable[[int], bool], known: set[int] | None = None) -> list[int]:
    """Remove checkpoints older than the `keep` newest whole ones, but those of steps that `keeps` names.

    Damaged ones do not count, so they never push out good ones; older than the kept, they go as well. Returns the steps
    removed. `known`: steps whose files were written or hashed before, of which only sizes are looked at; those that
    are found whole come to it.
    """
    whole, known = 0, set() if known is None else known
    removed = []
    for step in list_steps(run_dir):
        folder = step_folder(run_dir, step)
        if whole < keep:
            if damage(folder, hashed=step not in known) is None:
                known.add(step)
                whole += 1
        elif not keeps(step):
            # a half removed folder must not look like a checkpoint
            doomed = folder.with_name(f"{folder.name}.tmp")
            _rename(folder, doomed)
            # what cannot be removed now is removed at the next start
            shutil.rmtree(doomed, ignore_errors=True)
            removed.append(step)
    return removed


def _rename(folder: Path, name: Path) -> None:
    try:
        os.replace(folder, name)
    except OSError as error:
        raise disk_error(error, folder) from error


def optimizer_tensors(optimizer: torch.optim.Optimizer, names: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The optimiser's state by parameter name and field: `NAME|exp_avg`."""
    state = {}
    for name, parameter in names.items():
        for field, value in optimizer.state.get(parameter, {}).items():
            state[f"{name}|{field}"] = torch.as_tensor(value)
    return state


def restore_optimizer(
    optimizer: torch.optim.Optimizer, names: Mapping[str, Tensor], state: Mapping[str, Tensor]
) -> None:
    """Put back what `optimizer_tensors` took."""
    for key, value in state.items():
        name, _, field = key.rpartition("|")
        parameter = names[name]
        if field == "step":
            # AdamW keeps its step counter on the CPU unless it is fused
            device = parameter.device if optimizer.defaults.get("fused") else torch.device("cpu")
            optimizer.state[parameter][field] = value.to(device)
        else:
            # files hold contiguous tensors; the fused kernel wants moments laid out as their weights are
            moment = torch.empty_like(parameter, dtype=value.dtype, requires_grad=False)
            optimizer.state[parameter][field] = moment.copy_(value)


def copy_weights(parameters: Mapping[str, Tensor], weights: Mapping[str, Tensor], where: str) -> None:
    """Copy weights into parameters of the same names and shapes.

    Raises:
        LposekitError: lists the first tensors that differ; nothing was copied.
    """
    problems = differences(parameters, weights)
    if problems:
        shown = "; ".join(problems[:LISTED_DIFFERENCES]) + ("; ..." if len(problems) > LISTED_DIFFERENCES else "")
        raise LposekitError(
            f"{where} does not fit this model, {len(problems)} tensors differ: {shown}. "
            "Take the base, the stage and the model switches that it was trained with."
        )
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(weights[name])
