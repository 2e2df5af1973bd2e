"""The pass limits of a fixture set, read from `tolerance` in its `meta.json`."""

from __future__ import annotations

import re

from torch import Tensor


def limit_of(tolerance: dict[str, str], case_kind: str, name: str, expected: Tensor) -> float:
    """Largest absolute difference allowed for a tensor. `case_kind`: `module`, `unet`, `step` or `ddim`."""
    return allowed(tolerance[tolerance_key(case_kind, name)], expected)


def tolerance_key(case_kind: str, name: str) -> str:
    """Which entry of `tolerance` a tensor falls under."""
    if case_kind == "module":
        return "adapter" if name.startswith("expected.features") else "modules"
    if case_kind == "ddim":
        return "ddim"
    if name.startswith("expected.loss"):
        return "loss"
    if name.startswith("expected.grad_norm"):
        return "grad_norm"
    return "grad" if name.startswith("expected.grad.") else "unet_forward"


def allowed(rule: str, expected: Tensor) -> float:
    """The limit that a rule such as `max|diff| <= 2e-5*max(1,absmax)` or `relative 1e-3` sets for a tensor."""
    factor = float(re.findall(r"\d+(?:\.\d+)?e-?\d+", rule)[0])
    absmax = expected.double().abs().max().item()
    if "max(1,absmax)" in rule:
        return factor * max(1.0, absmax)
    return factor * absmax if "absmax" in rule or "relative" in rule else factor
