"""Connect to Ray, and decide how many processes of each kind a run gets."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass

from lposekit.errors import Interrupted, UsageError
from lposekit.interrupts import handlers_restored
from pipelines.image.settings import PoseSettings

logger = logging.getLogger(__name__)

LOCAL_OBJECT_STORE_BYTES = 1 << 30


@contextlib.contextmanager
def connected(address: str | None) -> Iterator[None]:
    """A Ray cluster: the one at ``address`` (or of the Ray job that runs us), else one on this machine.

    Raises:
        UsageError: nothing answers at the address. Interrupted: SIGTERM came while Ray started.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray reports usage to its makers unless told not to
    import ray

    if ray.is_initialized():
        yield
        return
    address = address or os.environ.get("RAY_ADDRESS")
    try:
        with handlers_restored():  # Ray installs one for SIGTERM that ends the process
            _start(address)
    except SystemExit as error:
        raise Interrupted("stopped by SIGTERM while Ray started; the same command continues") from error
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise UsageError(
            f"no Ray cluster answers at {address or 'this machine'}: {error}. Ray 2.60 clusters ask for a token: "
            "`lposekit doctor` explains how to pass it."
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


def _start(address: str | None) -> None:
    import ray

    if address:
        ray.init(address=address, logging_level=logging.ERROR, log_to_driver=False)
    else:
        ray.init(
            address="local",
            include_dashboard=False,
            logging_level=logging.ERROR,
            log_to_driver=False,
            object_store_memory=LOCAL_OBJECT_STORE_BYTES,
        )


@dataclass(frozen=True, slots=True)
class Layout:
    """Processes of a run."""

    num_workers: int
    num_pose_actors: int
    pose_device: str
    pose_num_gpus: float
    pose_num_cpus: float


def plan_layout(workers: int | None, pose: PoseSettings) -> Layout:
    """How many shard workers and pose actors the connected cluster gets.

    Shard workers claim no CPU: they wait for the network most of the time, and must not starve the pose actors.
    """
    import ray

    resources = ray.cluster_resources()
    cpus, gpus = max(1, int(resources.get("CPU", 1))), int(resources.get("GPU", 0))
    use_gpu = gpus > 0 if pose.device == "auto" else pose.device.startswith("cuda")
    if use_gpu and not gpus:
        raise UsageError("pose.device asks for a GPU, and the Ray cluster has none. Set pose.device to cpu or auto.")
    if use_gpu:
        actors = pose.actors or gpus * pose.actors_per_gpu
        return Layout(workers or cpus, actors, "cuda", min(1.0, gpus / actors), 1.0 if cpus > actors else 0.0)
    actors = pose.actors or max(1, cpus // pose.threads)
    return Layout(workers or cpus, actors, "cpu", 0.0, min(float(pose.threads), cpus / actors))
