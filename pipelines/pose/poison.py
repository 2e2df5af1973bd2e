"""Which images of a batch kill the pose model: found in a killable child, so that nobody else is blamed."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lposekit.pose.protocol import Estimator
from lposekit.sandbox.confinement import Places
from lposekit.sandbox.killed import again_if_killed
from lposekit.sandbox.sandbox import Sandbox, SandboxError
from pipelines.pose.actor import PoseSpec, load_estimator

CALL_TIMEOUT_S = 180.0
MEMORY_LIMIT_BYTES = 8 * 2**30
_loaded: list[Estimator] = []


def estimate_here(payload: Mapping[str, Any], spec: Mapping[str, Any]) -> int:
    """Runs in the child: load the model once, put the images through it; returns their number."""
    if not _loaded:
        weights_dir = Path(spec["weights_dir"]) if spec["weights_dir"] else None
        _loaded.append(load_estimator(PoseSpec(**{**spec, "weights_dir": weights_dir})))
    return len(_loaded[0].estimate(payload["images"]))


def find_killers(spec: PoseSpec, images: Sequence[npt.NDArray[np.uint8]]) -> dict[int, str]:
    """Positions of the images that kill the model's process, with what happened. The model runs on the CPU.

    Halves the batch again and again, so that one killer in a batch of 16 costs at most nine calls.
    """
    plain = asdict(replace(spec, device="cpu", precision="float32"))
    plain["weights_dir"] = str(spec.weights_dir) if spec.weights_dir else None
    sandbox = Sandbox(
        "pipelines.pose.poison:estimate_here",
        memory_limit_bytes=MEMORY_LIMIT_BYTES,
        init_args={"spec": plain},
        # it loads weights from wherever they lie; what it works on is decoded already
        places=Places(reads=("/",), writes=(tempfile.gettempdir(),)),
    )
    killers: dict[int, str] = {}

    def search(positions: list[int]) -> None:
        payload = {"images": [images[i] for i in positions]}
        try:
            again_if_killed(lambda: sandbox.call(payload, timeout_s=CALL_TIMEOUT_S))
        except SandboxError as error:
            if len(positions) == 1:
                killers[positions[0]] = f"the pose model's process died on this image: {error}"
                return
            middle = len(positions) // 2
            search(positions[:middle])
            search(positions[middle:])

    try:
        search(list(range(len(images))))
    finally:
        sandbox.close()
    return killers
