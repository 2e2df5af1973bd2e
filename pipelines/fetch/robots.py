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
MAX_WILDCARDS_TIMES_URL = 2_000_000
"""Wildcards of a file times characters of an address: about a millisecond of matching."""
MAX_LINES = 10_000
LARGE_LINES = 1_000
"""Files up to this size are always parsed."""


@dataclass(slots=True)
class RobotsRules:
    """The rules of every origin met lately, for many threads.

    What an origin without usable rules means, after RFC 9309 section 2.3.1: no file (4xx), or only redirects: all is
    allowed. Server error (5xx), 429, or an unreadable file: nothing is. A host that cannot be reached turns its rows
    down with the reason itself (dns, timeout, ...), which is what the image's own request would have met.

    Parsing takes time and memory: some 5 us and 1 KB a line. So no more than `max_lines` are kept, the origin asked
    longest ago is forgotten first, and of large files only a third of that is parsed; the others allow nothing.

    `opener` must have no rules of its own. `agent` is our product token.
    """

    opener: GuardedOpener
    agent: str
    keep_s: float = 24 * 3600.0
    keep_failure_s: float = 60.0
    max_origins: int = 2_000
    max_lines: int = 300_000
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)
    _known: OrderedDict[str, _Entry] = field(default_factory=OrderedDict, repr=False)
    _num_lines: int = 0
    _num_large: int = 0

    def check(self, url: WebUrl, deadline: Deadline) -> None:
        """Raises `Rejected(ROBOTS)` if the rules turn us away, or the network's `Rejected` if nobody can say."""
        entry = self._entry(url.origin)
        if not entry.lock.acquire(timeout=max(0.0, deadline.remaining_s())):
            raise Rejected(Outcome.TIMEOUT, f"{url.origin}/robots.txt: no answer in time")
        try:
            if entry.expires_at < time.monotonic():
                self._replace(url.origin, entry, self._fetch(url.origin, deadline))
                is_final = isinstance(entry.verdict, _Rules)
                entry.expires_at = time.monotonic() + (self.keep_s if is_final else self.keep_failure_s)
        finally:
            entry.lock.release()
        verdict = entry.verdict
        if isinstance(verdict, Rejected):
            raise Rejected(verdict.outcome, verdict.detail)
        verdict.check(url, self.agent)

    def _entry(self, origin: str) -> _Entry:
        with self._lock:
            entry = self._known.setdefault(origin, _Entry())
            self._known.move_to_end(origin)
            while len(self._known) > self.max_origins or (self._num_lines > self.max_lines and len(self._known) > 1):
                self._count(self._known.popitem(last=False)[1].verdict, -1)
            return entry

    def _replace(self, origin: str, entry: _Entry, verdict: _Rules | Rejected) -> None:
        with self._lock:
            if self._known.get(origin) is entry:  # or it was forgotten meanwhile, and serves those who hold it only
                self._count(entry.verdict, -1)
                self._count(verdict, 1)
            entry.verdict = verdict

    def _count(self, verdict: _Rules | Rejected, sign: int) -> None:
        num_lines = verdict.num_lines if isinstance(verdict, _Rules) else 0
        self._num_lines += sign * num_lines
        self._num_large += sign * num_lines if num_lines > LARGE_LINES else 0

    def _has_room(self, num_lines: int) -> bool:
        with self._lock:
            return num_lines <= LARGE_LINES or self._num_large + num_lines <= self.max_lines // 3

    def _fetch(self, origin: str, deadline: Deadline) -> _Rules | Rejected:
        try:
            fetched = self.opener.fetch(
                f"{origin}/robots.txt", max_body_bytes=MAX_ROBOTS_BYTES, cut_at_cap=True, deadline=deadline
            )
        except Rejected as problem:
            return _verdict_on_failure(problem, origin)
        return self._parse(fetched.body, origin)

    def _parse(self, body: bytes, origin: str) -> _Rules | Rejected:
        text = body.decode("utf-8", "replace")
        lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
        lowered = text.lower()
        # The parser gives every rule to every agent of its group: some 100 KB of the right kind would take minutes.
        is_heavy = lowered.count("agent") * lowered.count("allow") > MAX_AGENTS_TIMES_RULES
        if is_heavy or len(lines) > MAX_LINES or not self._has_room(len(lines)):
            return Rejected(Outcome.ROBOTS, f"{origin}/robots.txt: too many agents and rules to be evaluated")
        return _Rules(Protego.parse("\n".join(lines)), len(lines), text.count("*") + text.count("$"))


@dataclass(frozen=True, slots=True)
class _Rules:
    """A file, parsed once. `num_wildcards` of all its agents: who they are for is the parser's to say."""

    parsed: Protego
    num_lines: int = 0
    num_wildcards: int = 0

    def check(self, url: WebUrl, agent: str) -> None:
        """Raises `Rejected(ROBOTS)` if the address is disallowed, or cannot be matched in reasonable time."""
        address = str(url)
        if self.num_wildcards * len(address) > MAX_WILDCARDS_TIMES_URL:
            raise Rejected(Outcome.ROBOTS, f"{url.origin}/robots.txt: too many wildcards for so long an address")
        if not self.parsed.can_fetch(address, agent):
            raise Rejected(Outcome.ROBOTS, f"{url.origin}/robots.txt disallows {url.target:.200}")


_NO_RULES = _Rules(Protego.parse(""))


@dataclass(slots=True)
class _Entry:
    lock: threading.Lock = field(default_factory=threading.Lock)
    expires_at: float = float("-inf")
    verdict: _Rules | Rejected = _NO_RULES


def _verdict_on_failure(problem: Rejected, origin: str) -> _Rules | Rejected:
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
