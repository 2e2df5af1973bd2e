"""Which failures are tried again, and after how long."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from urllib3.exceptions import InvalidHeader
from urllib3.util import Retry

from lposekit.errors import Outcome, Rejected

_TEMPORARY_4XX = frozenset({408, 425, 429})


class TryAgain(Rejected):
    """A failure that another try may mend: a reset, a short body, a busy server."""

    def __init__(self, outcome: Outcome, detail: str, retry_after_s: float | None = None) -> None:
        super().__init__(outcome, detail)
        self.retry_after_s = retry_after_s


def describe(problem: Exception) -> str:
    """A failure in one line; servers put all kinds of things into what they send instead of an answer."""
    text = " ".join(str(problem).split())
    return f"{type(problem).__name__}: {text:.200}" if text else type(problem).__name__


def status_problem(status: int, retry_after: str | None) -> Rejected:
    """The verdict on an answer that is neither a body nor a redirect.

    404, 410 and their like are final. 429, 408, 425 and all of 5xx ask for another try, after `retry_after` if the
    server names a time (seconds or an HTTP date; nonsense is ignored).
    """
    outcome = Outcome.HTTP_5XX if status >= 500 else Outcome.HTTP_4XX
    if status < 500 and status not in _TEMPORARY_4XX:
        return Rejected(outcome, f"status {status}")
    retry_after_s = parse_retry_after(retry_after)
    asked = "" if retry_after_s is None else f", Retry-After {retry_after_s:.0f} s"
    return TryAgain(outcome, f"status {status}{asked}", retry_after_s)


def parse_retry_after(text: str | None) -> float | None:
    """Seconds to wait, from seconds or an HTTP date; None without a usable value."""
    if text is None:
        return None
    try:
        return Retry().parse_retry_after(text)
    except (InvalidHeader, ValueError, OverflowError):
        return None


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Exponential back-off with jitter, under the row's total time."""

    retries: int
    first_wait_s: float = 0.5
    longest_wait_s: float = 8.0
    longest_retry_after_s: float = 60.0
    jitter: Callable[[], float] = random.random

    def wait_s(self, problem: TryAgain, attempt: int, remaining_s: float) -> float | None:
        """Seconds until the next try, or None to give up.

        `attempt` counts from 1. A server that asks for more time than the row has left is not asked again: coming
        back earlier than it said would be rude, and waiting would hold a thread for nothing.
        """
        if attempt > self.retries:
            return None
        if problem.retry_after_s is not None:
            wait_s = problem.retry_after_s * (1 + 0.1 * self.jitter())
            allowed = problem.retry_after_s <= self.longest_retry_after_s
        else:
            wait_s = min(self.longest_wait_s, self.first_wait_s * 2 ** (attempt - 1)) * (0.5 + 0.5 * self.jitter())
            allowed = True
        return wait_s if allowed and wait_s < remaining_s else None
