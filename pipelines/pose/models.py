"""The pose models that settings name: what is known of them before they are loaded, and the pool that loads them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from lposekit.errors import UsageError
from lposekit.pose import stub
from lposekit.pose.at_hand import require_weights
from lposekit.pose.backend import Backend, BackendSetting, choose_backend
from lposekit.pose.weights import named_folder
from lposekit.pose.zoo import Precision, detector_entry, pose_entry, precision_on
from lposekit.recipe import Machine, Pool
from lposekit.shards.card import card_backend, read_card
from lposekit.shards.layout import DatasetLayout
from pipelines.pose.actor import PoseActor, PoseSpec

_CALLS_AT_ONCE_ON_A_GPU = 2
"""One is computed while the next is prepared and copied there; what else is sent waits in the actor's queue."""


class DetectionSettings(Protocol):
    """The settings below `pose` that every build with pose models has."""

    @property
    def box_score_threshold(self) -> float | None: ...
    @property
    def keypoint_score_threshold(self) -> float | None: ...
    @property
    def min_box_area_fraction(self) -> float: ...
    @property
    def min_box_side_px(self) -> float: ...
    @property
    def duplicate_oks(self) -> float | None: ...
    @property
    def device(self) -> str: ...
    @property
    def precision(self) -> Precision | Literal["auto"]: ...
    @property
    def backend(self) -> BackendSetting: ...
    @property
    def actors(self) -> int | None: ...
    @property
    def actors_per_gpu(self) -> int: ...
    @property
    def threads(self) -> int | None: ...
    @property
    def batch_size(self) -> int: ...
    @property
    def crop_batch_size(self) -> int: ...
    @property
    def attempts(self) -> int: ...


class PoseModelSettings(Protocol):
    """The settings of a build with pose models, as far as the models go."""

    @property
    def detector(self) -> str: ...
    @property
    def pose_model(self) -> str: ...
    @property
    def weights_dir(self) -> Path | None: ...
    @property
    def ray_address(self) -> str | None: ...
    @property
    def pose(self) -> DetectionSettings: ...


@dataclass(frozen=True, slots=True)
class KnownModel:
    """What a build needs of pose model and detector before they are loaded; thresholds are those in use, be they set
    or the models' own."""

    keypoint_format: str
    keypoint_score_threshold: float
    box_score_threshold: float


def known_model(settings: PoseModelSettings) -> KnownModel:
    """What is known of the models before they are loaded.

    Raises:
        UsageError: no such detector or pose model.
    """
    if settings.pose_model == stub.NAME:
        known = KnownModel(stub.KEYPOINT_FORMAT, stub.KEYPOINT_SCORE_THRESHOLD, stub.BOX_SCORE_THRESHOLD)
    else:
        detector, entry = detector_entry(settings.detector), pose_entry(settings.pose_model)
        known = KnownModel(entry.keypoint_format, entry.keypoint_score_threshold, detector.box_score_threshold)
    keypoint, box = settings.pose.keypoint_score_threshold, settings.pose.box_score_threshold
    return KnownModel(
        known.keypoint_format,
        known.keypoint_score_threshold if keypoint is None else keypoint,
        known.box_score_threshold if box is None else box,
    )


def require_models(settings: PoseModelSettings, *, may_download: bool) -> None:
    """Look for the weights, which may take minutes. On a cluster its nodes need them, and this machine may lack them.

    Raises:
        UsageError, WeightsError: see `lposekit.pose.at_hand.require_weights`.
    """
    if settings.pose_model == stub.NAME or settings.ray_address or os.environ.get("RAY_ADDRESS"):
        return
    entries = detector_entry(settings.detector), pose_entry(settings.pose_model)
    require_weights([entry.weights for entry in entries], settings.weights_dir, may_download=may_download)


def cpu_backend(settings: PoseModelSettings, layout: DatasetLayout | None = None) -> Backend:
    """What runs the models where there is no GPU. The driver asks once, and its workers take what it says.

    Args:
        layout: of the folder to write; one that was begun goes on with its backend.

    Raises:
        UsageError: the backend that the settings name cannot be had, or is not the folder's.
    """
    return choose_backend(settings.pose.backend, "cpu", precision_on("cpu", settings.pose.precision), _held(layout))


def _held(layout: DatasetLayout | None) -> str | None:
    """The backend that a folder was begun with; None if nothing of it is committed yet."""
    if layout is None or not layout.card.is_file() or not layout.committed_shards():
        return None
    return card_backend(read_card(layout).models or {})


def pose_spec(
    settings: PoseModelSettings,
    device: str,
    box_score_threshold: float,
    threads: int | None,
    on_cpu: Backend,
) -> PoseSpec:
    """The models of a run, on a device.

    Args:
        box_score_threshold: from which the detector reports a box.
        threads: of the backend; None: one per core.
        on_cpu: see `cpu_backend`.

    Raises:
        UsageError: the settings name a backend that does not run on this device.
    """
    pose = settings.pose
    # Named here, not left to the environment: the actors may run on other machines and in bare children.
    named = settings.weights_dir or named_folder()
    precision = precision_on(device, pose.precision)
    return PoseSpec(
        settings.detector,
        settings.pose_model,
        named.resolve() if named else None,
        on_cpu if device == "cpu" else choose_backend(pose.backend, device, precision),
        device,
        precision,
        box_score_threshold,
        min_box_area_fraction=pose.min_box_area_fraction,
        min_box_side_px=pose.min_box_side_px,
        threads=threads,
        batch_size=pose.batch_size,
        crop_batch_size=pose.crop_batch_size,
        duplicate_oks=pose.duplicate_oks,
        attempts=pose.attempts,
    )


def device_of(pose: DetectionSettings, *, has_gpu: bool) -> str:
    """The device that the settings mean: of `auto`, a GPU if there is one."""
    if pose.device == "auto":
        return "cuda" if has_gpu else "cpu"
    return pose.device


def pose_pool(pose: DetectionSettings, spec: PoseSpec, machine: Machine) -> Pool:
    """Actors for the models of `spec`. Workers of a build claim no CPU: they must not starve these.

    Raises:
        UsageError: the settings ask for a GPU, and there is none.
    """
    if spec.device.startswith("cuda"):
        if not machine.gpus:
            raise UsageError(
                "pose.device asks for a GPU, and the Ray cluster has none. Set pose.device to cpu or auto."
            )
        size = pose.actors or machine.gpus * pose.actors_per_gpu
        num_cpus = 1.0 if machine.cpus > size else 0.0
        return Pool(PoseActor, (spec,), size, num_cpus, min(1.0, machine.gpus / size), _CALLS_AT_ONCE_ON_A_GPU)
    threads = spec.threads or 1
    size = pose.actors or max(1, machine.cpus // threads)
    return Pool(PoseActor, (spec,), size, min(float(threads), machine.cpus / size), 0.0)
