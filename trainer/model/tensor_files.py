"""Files of named tensors, read without running code from them, and loaded into a module strictly."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from lposekit.errors import UsageError
from lposekit.store import LocalStore
from lposekit.store_reads import local_path

LISTED_DIFFERENCES = 5


def read_safetensors(file: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, on the CPU.

    Raises:
        UsageError: it is damaged or cannot be read.
    """
    try:
        with local_path(LocalStore(file.parent), file.name) as path:
            return load_file(path)
    except (SafetensorError, OSError) as error:
        raise UsageError(f"{file} is not a valid safetensors file ({error}). Fetch it again.") from error


def read_torch(file: Path) -> dict[str, object]:
    """A torch file through the restricted unpickler, which builds tensors and plain containers only.

    Raises:
        UsageError: it is damaged, needs code to be run, or holds no state dict.
    """
    try:
        with local_path(LocalStore(file.parent), file.name) as path:
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UsageError(
            f"{file} is refused: it is damaged, or it would run code while loading ({first_line(error)}). "
            "Take the file from its publisher again, or a .safetensors version of it."
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise UsageError(f"{file} is not a readable torch file ({first_line(error)}). Fetch it again.") from error
    if not isinstance(loaded, dict):
        raise UsageError(f"{file} holds a {type(loaded).__name__}, not a state dict.")
    return loaded


def first_line(error: BaseException) -> str:
    """Of a library's message, which may be pages long."""
    return str(error).strip().split("\n")[0][:200]


def write_weights(weights: Mapping[str, Tensor], path: Path) -> None:
    """Writes float32 CPU tensors as safetensors or, for any other suffix, as a torch file of a flat dict."""
    flat = {name: value.detach().to("cpu", torch.float32).contiguous() for name, value in weights.items()}
    if path.suffix == ".safetensors":
        save_file(flat, path)
    else:
        torch.save(flat, path)


def load_strictly(module: nn.Module, weights: Mapping[str, Tensor], what: str) -> None:
    """Copies weights into a module. `what` opens the message: the file and what it should fit.

    Raises:
        UsageError: names and shapes are not exactly the module's; lists the first differing tensors.
    """
    found = differences(module.state_dict(), weights)
    if found:
        listed = "; ".join(found[:LISTED_DIFFERENCES])
        raise UsageError(
            f"{what}: {len(found)} of {len(module.state_dict())} tensors differ, first: {listed}. "
            "Take weights that were trained on a base of this size, or the base that these weights belong to."
        )
    module.load_state_dict(dict(weights))


def differences(expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> list[str]:
    """What keeps `found` from loading as `expected`, one phrase a tensor, in the order of `expected`."""
    phrases = []
    for name, value in expected.items():
        if name not in found:
            phrases.append(f"{name} is missing")
        elif found[name].shape != value.shape:
            phrases.append(f"{name} is {tuple(found[name].shape)} instead of {tuple(value.shape)}")
    return phrases + [f"{name} is not known" for name in found if name not in expected]
