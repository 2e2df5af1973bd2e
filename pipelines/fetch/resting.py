"""Hosts that are left alone for a while: all rows of a host heed what one of them met."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TypeVar

from lposekit.errors import Outcome, Rejected
from pipelines.fetch.deadline import Deadline
from pipelines.fetch.retry import TryAgain

_LONGEST_ASKED_S = 3600.0
_LONGEST_TIMEOUT_REST_S = 600.0
_Value = TypeVar("_Value")


@dataclass(slots=True)
class RestingHosts:
    """Hosts that asked for a rest (429 or 503 with Retry-After), and hosts that timed out again and again.

    After `max_timeouts` timeouts in a row a host rests for `rest_s`; its rows end as `timeout` at once, so that none of
    them holds a thread. Then one row tries it: an answer ends the rest, a timeout begins one twice as long.
    """

    max_timeouts: int
    rest_s: float
    max_hosts: int = 10_000
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)
    _hosts: OrderedDict[str, _Rest] = field(default_factory=OrderedDict, repr=False)
    _timeouts: OrderedDict[str, int] = field(default_factory=OrderedDict, repr=False)

    def check(self, host: str, request: Deadline | None = None) -> None:
        """Raises `Rejected` with what the host is known for, instead of asking it again.

        That is `TryAgain` with the time that is left if the host named one.

        Args:
            request: clock of the row whose request follows at once: after a rest, it is the one that tries the host.
        """
        with self._lock:
            rest = self._hosts.get(host)
            if rest is None:
                return
            left_s = rest.until - time.monotonic()
            if rest.is_asked and left_s > 0:
                raise TryAgain(rest.outcome, f"{host} answered another row: {rest.detail}", left_s)
            if rest.is_asked:
                del self._hosts[host]
            elif left_s > 0 or (rest.tried_by is not None and rest.tried_by.remaining_s() > 0):
                raise Rejected(rest.outcome, f"{host} is left alone: {rest.detail}")
            else:
                rest.tried_by = request

    def is_doubtful(self, host: str) -> bool:
        """Whether its last request timed out: then one at a time is enough to learn more."""
        with self._lock:
            return host in self._timeouts

    def answered(self, host: str) -> None:
        """The host did something other than let a request time out."""
        with self._lock:
            if self._timeouts.pop(host, None) is not None and host in self._hosts and not self._hosts[host].is_asked:
                del self._hosts[host]

    def timed_out(self, host: str, problem: Rejected, deadline: Deadline) -> None:
        """A request to the host took its whole time. What was sent before its rest began does not count twice."""
        with self._lock:
            rest = self._hosts.get(host)
            if rest is not None and rest.tried_by is not deadline:
                return
            count = self._timeouts.get(host, 0) + 1
            _remember(self._timeouts, host, count, self.max_hosts)
            if count >= self.max_timeouts:
                rest_s = min(self.rest_s * 2.0 ** (count - self.max_timeouts), _LONGEST_TIMEOUT_REST_S)
                detail = f"{count} requests in a row timed out, the last: {problem.detail}"
                self._rest(host, _Rest(time.monotonic() + rest_s, problem.outcome, detail, is_asked=False))

    def asked_for(self, host: str, problem: Rejected) -> None:
        """Remember the time that an answer names, if it does."""
        if isinstance(problem, TryAgain) and problem.retry_after_s:
            until = time.monotonic() + min(problem.retry_after_s, _LONGEST_ASKED_S)
            with self._lock:
                self._rest(host, _Rest(until, problem.outcome, problem.detail, is_asked=True))

    def _rest(self, host: str, rest: _Rest) -> None:
        _remember(self._hosts, host, rest, self.max_hosts)


@dataclass(slots=True)
class _Rest:
    until: float
    outcome: Outcome
    detail: str
    is_asked: bool
    """The host named the time itself."""
    tried_by: Deadline | None = None
    """The row that may try a host whose rest is over."""


def _remember(table: OrderedDict[str, _Value], host: str, value: _Value, max_hosts: int) -> None:
    table[host] = value
    table.move_to_end(host)
    if len(table) > max_hosts:
        table.popitem(last=False)
