"""What runs the models: torch, which every other backend is compared with, or OpenVINO, faster on a CPU. Free of both.

The driver of a build chooses once, by `choose_backend`; its actors obey or refuse. Numbers are equal bit for bit within
one backend, in one version, on one kind of CPU; elsewhere decisions are, and keypoints nearly are (docs/decisions).
"""

from __future__ import annotations

import platform
import re
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal, TypeAlias

from lposekit.errors import UsageError
from lposekit.json_values import JsonValue
from lposekit.pose.zoo import Precision
from lposekit.shards.card import PIXELS

Backend: TypeAlias = Literal["torch", "openvino"]
BackendSetting: TypeAlias = Literal["auto", "torch", "openvino"]
ENGINE: Backend = "openvino"
_VECTORS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile", "asimd", "sve")
"""CPU flags by which an engine chooses its kernels."""


def backend_version(backend: Backend) -> str | None:
    """The installed version of a backend; None if it is not installed."""
    try:
        return version(backend)
    except PackageNotFoundError:
        return None


def choose_backend(asked: BackendSetting, device: str, precision: Precision, held: str | None = None) -> Backend:
    """The backend that a setting means.

    Args:
        device: of torch, `cpu` or `cuda`.
        held: what a folder that is continued was begun with.

    Raises:
        UsageError: it is not installed, cannot do what is asked, or is not the folder's.
    """
    fits = device == "cpu" and precision == "float32"
    if asked == "auto" and held is None:
        return ENGINE if fits and backend_version(ENGINE) else "torch"
    chosen = held if asked == "auto" else asked
    if held is not None and chosen != held:
        raise UsageError(
            f"--pose.backend {asked}: the folder was begun with {held}, and each backend has last digits of its own. "
            f"Give --pose.backend {held} (or auto), or name another --output."
        )
    if chosen == "torch":
        return "torch"
    if chosen != ENGINE:
        raise UsageError(f"the folder was begun with the backend {chosen}, which this lposekit does not have.")
    if not fits:
        raise UsageError(
            f"the backend {ENGINE} runs in float32 on a CPU; asked for: {precision} on {device}. Give --pose.device "
            "cpu --pose.precision float32, or --pose.backend torch."
        )
    if backend_version(ENGINE) is None:
        raise UsageError(
            f"the backend {ENGINE} is not installed. `lposekit doctor` prints the command that installs it; "
            "--pose.backend torch does without, but cannot continue a folder that was begun with it."
        )
    return ENGINE


def backend_card(backend: Backend, threads: int | None, device: str = "cpu") -> dict[str, JsonValue]:
    """What the dataset card says of a backend. `pixels`: images are resized on the device, in other last digits than
    OpenCV's; left out where OpenCV does it, as in cards of before there was anything else."""
    pixels: dict[str, JsonValue] = {} if device == "cpu" else {PIXELS: "device"}
    return {"name": backend, "version": backend_version(backend), "threads": threads, **pixels}


def cpu_kind() -> str:
    """The kind of this machine's CPU: what decides which kernels a backend takes."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return platform.machine()
    first = dict(re.findall(r"^([^\t\n:]+?)\s*: *(.*)$", text.partition("\n\n")[0], re.MULTILINE))
    names = ("vendor_id", "cpu family", "model", "CPU implementer", "CPU part")
    words = [first[name] if name == "vendor_id" else f"{name} {first[name]}" for name in names if name in first]
    flags = set(first.get("flags", first.get("Features", "")).split())
    return " ".join([platform.machine(), *words, *(flag for flag in _VECTORS if flag in flags)])
