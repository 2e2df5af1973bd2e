"""Connect to Ray, and ask what it has."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from typing import Any

from lposekit.errors import Interrupted, UsageError
from lposekit.interrupts import handlers_restored, reinstall_handlers
from lposekit.recipe import Machine

logger = logging.getLogger(__name__)

MIN_OBJECT_STORE_BYTES = 1 << 30
_SPARE = 1.25
"""Of the object store: it is full before its last byte is taken."""
_SHARE_OF_MEMORY = 0.3


@contextlib.contextmanager
def connected(address: str | None, bytes_in_flight: int = 0) -> Iterator[None]:
    """A Ray cluster: the one at `address` (or of the Ray job that runs us), else one on this machine.

    Args:
        bytes_in_flight: what processes hand to each other at a time; a Ray of our own gets room for it.

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
            _start(address, bytes_in_flight)
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
        with _signals_kept():
            ray.shutdown()


def object_store_bytes(bytes_in_flight: int, memory_bytes: int, shared_memory_bytes: int) -> int:
    """The size of a local Ray's object store: what is on its way fits in, as far as the machine has it."""
    wanted = max(MIN_OBJECT_STORE_BYTES, int(_SPARE * bytes_in_flight))
    return max(MIN_OBJECT_STORE_BYTES, min(wanted, int(_SHARE_OF_MEMORY * memory_bytes), shared_memory_bytes))


def _start(address: str | None, bytes_in_flight: int) -> None:
    import ray

    if address:
        ray.init(address=address, logging_level=logging.ERROR, log_to_driver=False)
        return
    with _fewer_daemons():
        ray.init(
            address="local",
            include_dashboard=False,
            logging_level=logging.ERROR,
            log_to_driver=False,
            object_store_memory=object_store_bytes(bytes_in_flight, _memory_bytes(), _shared_memory_bytes()),
        )


@contextlib.contextmanager
def _fewer_daemons() -> Iterator[None]:
    """A Ray that is started in here has neither a server of the dashboard, which it would wait for even without its
    pages, nor monitors of logs and of an autoscaler: nothing asks them, and they are a third of its start.

    Ray 2.60 has no settings for that. A version that starts them in other places starts them all.
    """
    from ray._private import node, services

    unused: list[tuple[Any, str, Callable[..., object]]] = [
        (services, "start_api_server", lambda *_, **__: ("", None)),
        (node.Node, "start_log_monitor", lambda _: None),
        (node.Node, "start_monitor", lambda _: None),
    ]
    unused = [each for each in unused if hasattr(each[0], each[1])]
    before = [(owner, name, getattr(owner, name)) for owner, name, _ in unused]
    for owner, name, nothing in unused:
        setattr(owner, name, nothing)
    try:
        yield
    finally:
        for owner, name, starts in before:
            setattr(owner, name, starts)


@contextlib.contextmanager
def _signals_kept() -> Iterator[None]:
    """A Ray that is stopped in here does not take our SIGTERM away: its native part puts back the system's default,
    with which a scheduler's second signal would end the process without its report.

    Ray 2.60 does so before it waits (a second) for its processes to end, so the handlers are installed again before
    that; and after it, for a version that ends in another way.
    """
    from ray._private import node

    name = "kill_all_processes"
    kill: Callable[..., object] | None = getattr(node.Node, name, None)

    def kill_with_signals(*arguments: object, **named: object) -> object:
        assert kill is not None
        reinstall_handlers()
        return kill(*arguments, **named)

    if kill is not None:
        setattr(node.Node, name, kill_with_signals)
    try:
        yield
    finally:
        if kill is not None:
            setattr(node.Node, name, kill)
        reinstall_handlers()


def _memory_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _shared_memory_bytes() -> int:
    """What is free where Ray keeps its objects; beyond it, Ray would write to a disk."""
    try:
        return shutil.disk_usage("/dev/shm").free
    except OSError:
        return 0


def machine() -> Machine:
    """What the connected cluster has."""
    import ray

    resources = ray.cluster_resources()
    return Machine(max(1, int(resources.get("CPU", 1))), int(resources.get("GPU", 0)))
