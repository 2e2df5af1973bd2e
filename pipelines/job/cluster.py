"""Connect to Ray, and ask what it has."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator

from lposekit.errors import Interrupted, UsageError
from lposekit.interrupts import handlers_restored
from lposekit.recipe import Machine

logger = logging.getLogger(__name__)

LOCAL_OBJECT_STORE_BYTES = 1 << 30


@contextlib.contextmanager
def connected(address: str | None) -> Iterator[None]:
    """A Ray cluster: the one at `address` (or of the Ray job that runs us), else one on this machine.

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


def machine() -> Machine:
    """What the connected cluster has."""
    import ray

    resources = ray.cluster_resources()
    return Machine(max(1, int(resources.get("CPU", 1))), int(resources.get("GPU", 0)))
