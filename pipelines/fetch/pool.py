"""Connections at rest, how many may be open to one host, and hosts that want none for a while."""

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
from pipelines.fetch.retry import TryAgain


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
class RestingHosts:
    """Hosts that asked to be left alone for a while (429 or 503 with Retry-After): all rows of a host heed it."""

    max_hosts: int = 10_000
    longest_rest_s: float = 3600.0
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)
    _hosts: OrderedDict[str, _Rest] = field(default_factory=OrderedDict, repr=False)

    def note(self, host: str, problem: Rejected) -> None:
        """Remember what `problem` says of the host, if it names a time."""
        if not isinstance(problem, TryAgain) or not problem.retry_after_s:
            return
        rest_s = min(problem.retry_after_s, self.longest_rest_s)
        with self._lock:
            self._hosts[host] = _Rest(time.monotonic() + rest_s, problem.outcome, problem.detail)
            self._hosts.move_to_end(host)
            if len(self._hosts) > self.max_hosts:
                self._hosts.popitem(last=False)

    def check(self, host: str) -> None:
        """Raises `TryAgain` with the host's own outcome, and the time that is left, instead of asking it again."""
        with self._lock:
            rest = self._hosts.get(host)
        left_s = rest.until - time.monotonic() if rest else 0.0
        if rest and left_s > 0:
            raise TryAgain(rest.outcome, f"{host} answered another row: {rest.detail}", left_s)


@dataclass(frozen=True, slots=True)
class _Rest:
    until: float
    outcome: Outcome
    detail: str


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
