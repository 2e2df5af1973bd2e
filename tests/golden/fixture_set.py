"""Reads a set of golden fixtures: cases, weights, and the configuration that each case needs.

A set is a folder with `meta.json`, `NAME.io.safetensors` (tensors `input.*`, and `expected.*` unless withheld) and
`NAME.weights.safetensors`. What a case is follows from the names of its tensors and weights, never from its own name;
sizes come from the weights, and only what weights cannot tell (heads, groups, epsilons, steps) from `meta.json`.
"""

from __future__ import annotations

import hashlib
import json
import logging
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

logger = logging.getLogger(__name__)

Weights = dict[str, Tensor]

WEIGHTS_ENDING = ".weights.safetensors"
HEAD_KEYS = ("heads", "num_attention_heads")


@dataclass(frozen=True)
class Case:
    """One case: its name (of the file), its inputs, its expected tensors if stored, and their names if known."""

    name: str
    meta_key: str
    inputs: dict[str, Tensor]
    expected: dict[str, Tensor]
    expected_names: frozenset[str]


@dataclass(frozen=True)
class FixtureSet:
    """A folder of fixtures and its `meta.json`, of which any part may be missing but what no file tells."""

    folder: Path
    meta: dict[str, Any]
    cache: dict[str, Weights] = field(default_factory=dict)

    def cases(self) -> list[Case]:
        """All cases, in the order of `meta.json`, then any io file that it does not list."""
        listed = {Path(entry["file"]).name: key for key, entry in self.meta.get("cases", {}).items()}
        files = list(dict.fromkeys([*listed, *sorted(path.name for path in self.folder.glob("*.io.safetensors"))]))
        return [self.case(file, listed.get(file, "")) for file in files]

    def case(self, file: str, meta_key: str) -> Case:
        name = file.removesuffix(".io.safetensors")
        tensors = load_file(self.folder / file)
        stated = self.meta.get("cases", {}).get(meta_key, {}).get("tensors", {})
        return Case(
            name=name,
            meta_key=meta_key or name,
            inputs={key.removeprefix("input."): value for key, value in tensors.items() if key.startswith("input.")},
            expected={key: value for key, value in tensors.items() if key.startswith("expected.")},
            expected_names=frozenset(key for key in [*tensors, *stated] if key.startswith("expected.")),
        )

    def weights(self, name: str) -> Weights:
        """The weights of this name, from their file or, where none is stored, by the seeded rule."""
        if name not in self.cache:
            path = self.weights_path(name)
            self.cache[name] = load_file(path) if path.exists() else regenerate(self.described(name), self.meta["seed"])
        return self.cache[name]

    def weights_path(self, name: str) -> Path:
        return self.folder / (self.described(name).get("file") or f"{name}{WEIGHTS_ENDING}")

    def described(self, name: str) -> dict[str, Any]:
        """What `meta.json` says of these weights."""
        return self.meta.get("weights", {}).get(name, {})

    def weights_of(self, case: Case) -> Weights:
        """The weights of a case: those of its own name, or the set's UNet for the cases that share it."""
        if case.name in self.meta.get("weights", {}) or self.weights_path(case.name).exists():
            return self.weights(case.name)
        return self.weights(self.unet_weights_name())

    def unet_weights_name(self) -> str:
        files = sorted(path.name.removesuffix(WEIGHTS_ENDING) for path in self.folder.glob(f"*{WEIGHTS_ENDING}"))
        for name in dict.fromkeys([*self.meta.get("weights", {}), *files]):
            if any(key.startswith("down_blocks.") for key in self.weight_names(name)):
                return name
        raise ValueError(f"{self.folder}: no weights of a whole UNet")

    def weight_names(self, name: str) -> list[str]:
        """Names of the tensors of one set of weights, without reading them."""
        path = self.weights_path(name)
        if not path.exists():
            return list(self.described(name).get("keys", {}))
        with safe_open(path, "pt") as file:
            return list(file.keys())

    def section(self, case: Case, keys: tuple[str, ...], width: int | None = None) -> dict[str, Any]:
        """The part of `meta.json`'s `config` that describes a case: the one under its key, else the first that has one
        of `keys` (and, where it states a width, this one); {}, with a warning, if there is none."""
        config = self.meta.get("config", {})
        own = config.get(case.meta_key) or config.get(case.name)
        if isinstance(own, dict) and any(key in own for key in keys):
            return own
        for section in config.values():
            if isinstance(section, dict) and any(key in section for key in keys):
                stated = {section.get(key) for key in ("dim", "query_dim", "in_channels")} - {None}
                if width is None or not stated or width in stated:
                    return section
        logger.warning("%s: meta.json states no %s: taking that of Stable Diffusion 1.x", case.name, " or ".join(keys))
        return {}


def open_set(folder: Path) -> FixtureSet:
    """The fixture set in a folder."""
    return FixtureSet(folder, json.loads((folder / "meta.json").read_text()))


def regenerate(entry: dict[str, Any], seed: int) -> Weights:
    """Weights by the set's seeded rule, from their names and shapes; checked against the stated SHA-256."""
    weights = {name: seeded_tensor(name, tuple(shape), seed) for name, shape in entry["keys"].items()}
    stated = entry.get("sha256_of_sorted_names_and_le_f32_bytes")
    if stated and digest(weights) != stated:
        raise ValueError("weights made by the seeded rule do not have the SHA-256 that meta.json states")
    return weights


def seeded_tensor(name: str, shape: tuple[int, ...], seed: int) -> Tensor:
    """One tensor by the rule of the README ("Seeded rule"), computed in float64 and rounded to float32."""
    state = np.random.RandomState((zlib.crc32(name.encode()) + seed) % 2**32)
    x = 2 * state.random_sample(shape) - 1
    if name.endswith(".bias"):
        x = 0.2 * x
    elif len(shape) == 1:
        x = 1 + 0.3 * x
    else:
        x = x * np.sqrt(3 / np.prod(shape[1:])) * (1.5 if "to_q." in name or "to_k." in name else 1.0)
    return torch.from_numpy(x.astype("<f4"))


def digest(weights: Weights) -> str:
    """SHA-256 over name and little-endian float32 bytes of each tensor, names sorted."""
    sha = hashlib.sha256()
    for name in sorted(weights):
        sha.update(name.encode())
        sha.update(weights[name].numpy().astype("<f4").tobytes())
    return sha.hexdigest()
