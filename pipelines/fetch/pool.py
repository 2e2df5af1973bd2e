"""Connections at rest, and how many may be open to one host."""

from __future__ import annotations

import select
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from lposekit.errors import Outcome, Rejected
from pipelines.fetch.connection import GuardedConnection
from pipelines.fetch.deadline import Deadline


@dataclass(slots=True)
class IdleConnections:
    """Kept-alive connections by origin, for many threads. Their number stays bounded: the oldest is closed first."""

    max_connections: int = 128
    max_age_s: float = 20.0
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)
    _idle: OrderedDict[GuardedConnection, None] = field(default_factory=OrderedDict, repr=False)
    _by_origin: dict[str, list[GuardedConnection]] = field(default_factory=dict, repr=False)

    def take(self, origin: str) -> GuardedConnection | None:
        """A connection that was alive a moment ago, or None."""
        while (connection := self._pop(origin)) is not None:
            if time.monotonic() - connection.idle_since <= self.max_age_s and not _has_ended(connection):
                return connection
            connection.close()
        return None

    def put(self, connection: GuardedConnection) -> None:
        connection.idle_since = time.monotonic()
        with self._lock:
            self._idle[connection] = None
            self._by_origin.setdefault(connection.url.origin, []).append(connection)
            oldest = next(iter(self._idle)) if len(self._idle) > self.max_connections else None
            if oldest is not None:
                self._forget(oldest)
        if oldest is not None:
            oldest.close()

    def close(self) -> None:
        with self._lock:
            connections = list(self._idle)
            self._idle.clear()
            self._by_origin.clear()
        for connection in connections:
            connection.close()

    def _pop(self, origin: str) -> GuardedConnection | None:
        with self._lock:
            known = self._by_origin.get(origin)
            connection = known[-1] if known else None
            if connection is not None:
                self._forget(connection)
            return connection

    def _forget(self, connection: GuardedConnection) -> None:
        del self._idle[connection]
        known = self._by_origin[connection.url.origin]
        known.remove(connection)
        if not known:
            del self._by_origin[connection.url.origin]


def _has_ended(connection: GuardedConnection) -> bool:
    """True if the peer has closed a resting connection, or has sent what nobody asked for."""
    if connection.sock is None:
        return True
    poll = select.poll()
    poll.register(connection.sock, select.POLLIN)
    return bool(poll.poll(0))


@dataclass(slots=True)
class HostSlots:
    """At most `per_host` requests to one host at a time, whatever the number of threads."""

    per_host: int
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)
    _hosts: dict[str, _Slot] = field(default_factory=dict, repr=False)

    @contextmanager
    def hold(self, host: str, deadline: Deadline) -> Iterator[None]:
        """Wait for a free slot, at most the row's patience; raises `Rejected(TIMEOUT)` when that is over."""
        with self._lock:
            slot = self._hosts.setdefault(host, _Slot(threading.Semaphore(self.per_host)))
            slot.num_users += 1
        try:
            _wait_for(slot.semaphore, host, deadline)
            try:
                yield
            finally:
                slot.semaphore.release()
        finally:
            with self._lock:
                slot.num_users -= 1
                if slot.num_users == 0:
                    del self._hosts[host]


@dataclass(slots=True)
class _Slot:
    semaphore: threading.Semaphore
    num_users: int = 0


def _wait_for(semaphore: threading.Semaphore, host: str, deadline: Deadline) -> None:
    if semaphore.acquire(blocking=False):
        return
    started_at = time.monotonic()
    is_free = semaphore.acquire(timeout=max(0.0, deadline.patience_s))
    deadline.forgive(time.monotonic() - started_at)
    if not is_free:
        raise Rejected(Outcome.TIMEOUT, f"{host}: no connection became free in time; its rows are too close together")
