"""Read the weights out of a publisher's `.pth` file without running anything it contains.

A `.pth` file is a pickle. OpenMMLab's hold, beside `state_dict`, a message history: mmengine `HistoryBuffer`
objects, numpy arrays and scalars, bound methods taken with `getattr`. torch (2.6 and later) rightly refuses to build
these. Here torch's restricted unpickler is told to put an inert object in the place of each of them; anything else that
is not a tensor or a plain container still stops the load.
"""

from __future__ import annotations

import json
import logging
import pickle
import re
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from lposekit.pose.download import download
from lposekit.pose.weights import WeightsError, cache_folder, checked_sha256, find_weights, partial_name
from lposekit.pose.zoo import WeightsFile
from lposekit.shards.files import replacing
from lposekit.store import LocalStore
from lposekit.store_reads import local_path

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LoadedWeights:
    """Weights on the CPU, with the file and the full sha256 they came from."""

    state: OrderedDict[str, torch.Tensor]
    path: Path
    sha256: str


def load_weights(weights: WeightsFile, weights_dir: Path | None = None) -> LoadedWeights:
    """Find or download, check and read a model's weights.

    Raises:
        WeightsError: they cannot be had, have another hash, or do not load; the message names the ways on.
    """
    path = find_weights(weights, weights_dir) or download(weights, weights_dir)
    digest = checked_sha256(path, weights)
    converted = cache_folder() / f"{path.stem}.{digest[:16]}.safetensors"
    state = read_converted(converted, digest) if converted.is_file() else None
    if state is None:
        state = read_checkpoint(path)
        _keep_converted(state, converted, digest)
    return LoadedWeights(state, path, digest)


def _keep_converted(state: OrderedDict[str, torch.Tensor], target: Path, digest: str) -> None:
    try:
        with replacing(target, partial_name(target)) as partial:
            save_converted(state, partial, digest)
    except OSError as error:
        logger.warning(
            "cannot keep converted weights in %s (%s): the .pth is read again next time", target.parent, error
        )


class _Inert:
    """Takes the place of whatever a message history holds: built from anything, does nothing, holds nothing."""

    def __init__(self, *args: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


_NUMPY = ("dtype", "ndarray", "core.multiarray.scalar", "core.multiarray._reconstruct")
_INERT_NAMES = (
    "mmengine.logging.history_buffer.HistoryBuffer",
    "builtins.getattr",
    "__builtin__.getattr",
    "_codecs.encode",
    *(f"numpy.{name}" for name in _NUMPY),
    *(f"numpy._{name}" for name in _NUMPY if name.startswith("core")),
    *(f"numpy.dtypes.{kind}DType" for kind in ("Float32", "Float64", "Int32", "Int64", "Bool")),
)


def read_checkpoint(path: Path) -> OrderedDict[str, torch.Tensor]:
    """The `state_dict` of a `.pth` file, on the CPU, without a leading `module.`.

    A checkpoint of mmengine's EMA hook keeps the averaged weights, those to use, in `state_dict` and the others in
    `ema_state_dict`, so the latter is left alone.

    Raises:
        WeightsError: the file is damaged, asks for code, or holds no weights.
    """
    try:
        with (
            torch.serialization.safe_globals([(_Inert, name) for name in _INERT_NAMES]),
            local_path(LocalStore(path.parent), path.name) as readable,
        ):
            content = torch.load(readable, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise WeightsError(f"{path}: not loaded, for it asks for more than tensors: {_first_lines(error)}") from error
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        # The unpickler's ways to stumble over bytes that are no checkpoint.
        raise WeightsError(f"{path}: no readable checkpoint ({type(error).__name__}: {_first_lines(error)})") from error
    state = content.get("state_dict", content) if isinstance(content, dict) else None
    if not state or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise WeightsError(f"{path}: holds no state_dict of tensors")
    clean = OrderedDict((re.sub(r"^module\.", "", key), value) for key, value in state.items())
    vars(clean)["_metadata"] = getattr(state, "_metadata", None)
    return clean


def save_converted(state: OrderedDict[str, torch.Tensor], path: Path, source_sha256: str) -> None:
    """Write a state dict as safetensors, remembering the file it came from and the modules' versions.

    Raises:
        OSError: the folder cannot be written.
    """
    metadata = {"source_sha256": source_sha256, "module_versions": json.dumps(getattr(state, "_metadata", None))}
    # clone: safetensors refuses tensors that share memory
    save_file({key: value.contiguous().clone() for key, value in state.items()}, path, metadata)


def read_converted(path: Path, source_sha256: str) -> OrderedDict[str, torch.Tensor] | None:
    """What `save_converted` wrote; None if the file is damaged or came from another source."""
    try:
        with (
            local_path(LocalStore(path.parent), path.name) as readable,
            safe_open(readable, framework="pt", device="cpu") as file,
        ):
            metadata = file.metadata() or {}
            if metadata.get("source_sha256") != source_sha256:
                return None
            state = OrderedDict((key, file.get_tensor(key)) for key in file.keys())  # noqa: SIM118 (no mapping)
            vars(state)["_metadata"] = json.loads(metadata["module_versions"])
            return state
    except (SafetensorError, OSError, KeyError, ValueError):
        return None


def load_into(module: torch.nn.Module, state: OrderedDict[str, torch.Tensor], name: str) -> None:
    """Load a state dict into a module; every weight must be there and have its place.

    Raises:
        WeightsError: weights are missing, left over or of another shape.
    """
    # mean and std of the preprocessor come from the config; older checkpoints carry them as well
    weights = OrderedDict((key, value) for key, value in state.items() if not key.startswith("data_preprocessor."))
    vars(weights)["_metadata"] = getattr(state, "_metadata", None)
    try:
        module.load_state_dict(weights, strict=True)
    except RuntimeError as error:
        raise WeightsError(f"these weights do not fit the model {name}: {_first_lines(error, 4)}") from error


def _first_lines(error: BaseException, count: int = 2) -> str:
    return " ".join(line.strip() for line in str(error).splitlines()[:count])[:600]
