"""robots.txt, fetched once an origin through the same guard, and obeyed (RFC 9309)."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from dataclasses import dataclass, field

from protego import Protego

from lposekit.errors import Outcome, Rejected
from pipelines.fetch.deadline import Deadline
from pipelines.fetch.opener import GuardedOpener
from pipelines.fetch.retry import TryAgain
from pipelines.fetch.urls import WebUrl

MAX_ROBOTS_BYTES = 512 * 1024
"""Rules beyond this are not read (RFC 9309 asks for at least 500 KiB)."""
MAX_AGENTS_TIMES_RULES = 1_000_000

_NO_RULES = Protego.parse("")


@dataclass(slots=True)
class RobotsRules:
    """The rules of every origin met lately, for many threads.

    What an origin without usable rules means, after RFC 9309 section 2.3.1: no file (4xx), or only redirects: all is
    allowed. Server error (5xx), 429, or an unreadable file: nothing is. A host that cannot be reached turns its rows
    down with the reason itself (dns, timeout, ...), which is what the image's own request would have met.

    `opener` must have no rules of its own. `agent` is our product token.
    """

    opener: GuardedOpener
    agent: str
    keep_s: float = 24 * 3600.0
    keep_failure_s: float = 60.0
    max_origins: int = 2_000
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)
    _known: OrderedDict[str, _Entry] = field(default_factory=OrderedDict, repr=False)

    def check(self, url: WebUrl, deadline: Deadline) -> None:
        """Raises `Rejected(ROBOTS)` if the rules turn us away, or the network's `Rejected` if nobody can say."""
        entry = self._entry(url.origin)
        if not entry.lock.acquire(timeout=max(0.0, deadline.remaining_s())):
            raise Rejected(Outcome.TIMEOUT, f"{url.origin}/robots.txt: no answer in time")
        try:
            if entry.expires_at < time.monotonic():
                entry.verdict = self._fetch(url.origin, deadline)
                is_final = isinstance(entry.verdict, Protego)
                entry.expires_at = time.monotonic() + (self.keep_s if is_final else self.keep_failure_s)
        finally:
            entry.lock.release()
        verdict = entry.verdict
        if isinstance(verdict, Rejected):
            raise Rejected(verdict.outcome, verdict.detail)
        if not verdict.can_fetch(str(url), self.agent):
            raise Rejected(Outcome.ROBOTS, f"{url.origin}/robots.txt disallows {url.target:.200}")

    def _entry(self, origin: str) -> _Entry:
        with self._lock:
            entry = self._known.setdefault(origin, _Entry())
            self._known.move_to_end(origin)
            if len(self._known) > self.max_origins:
                self._known.popitem(last=False)
            return entry

    def _fetch(self, origin: str, deadline: Deadline) -> Protego | Rejected:
        try:
            fetched = self.opener.fetch(
                f"{origin}/robots.txt", max_body_bytes=MAX_ROBOTS_BYTES, cut_at_cap=True, deadline=deadline
            )
        except Rejected as problem:
            return _verdict_on_failure(problem, origin)
        return _parse(fetched.body, origin)


@dataclass(slots=True)
class _Entry:
    lock: threading.Lock = field(default_factory=threading.Lock)
    expires_at: float = float("-inf")
    verdict: Protego | Rejected = _NO_RULES


def _parse(body: bytes, origin: str) -> Protego | Rejected:
    text = body.decode("utf-8", "replace")
    lowered = text.lower()
    # The parser gives every rule to every agent of its group: some 100 KB of the right kind would take minutes.
    if lowered.count("agent") * lowered.count("allow") > MAX_AGENTS_TIMES_RULES:
        return Rejected(Outcome.ROBOTS, f"{origin}/robots.txt: too many agents and rules to be evaluated")
    return Protego.parse(text)


def _verdict_on_failure(problem: Rejected, origin: str) -> Protego | Rejected:
    detail = f"{origin}/robots.txt: {problem.detail}"
    match problem.outcome:
        case Outcome.REDIRECT:
            return _NO_RULES
        case Outcome.HTTP_4XX if not isinstance(problem, TryAgain):
            return _NO_RULES
        case Outcome.DNS | Outcome.CONNECT | Outcome.TLS | Outcome.TIMEOUT | Outcome.SHORT_READ:
            return Rejected(problem.outcome, detail)
        case Outcome.PRIVATE_ADDRESS:
            return Rejected(problem.outcome, detail)
    return Rejected(Outcome.ROBOTS, f"{detail}; nothing is allowed until it can be read (RFC 9309)")
