"""Contract of a row's clock: no wait outlasts what is left; waiting for ourselves is given back, but bounded."""

from __future__ import annotations

import time

import pytest

from lposekit.errors import Outcome, Rejected
from pipelines.fetch.deadline import Deadline


def ending_in(seconds: float) -> Deadline:
    return Deadline(time.monotonic() + seconds, idle_timeout_s=5.0, patience_s=20.0)


# Mutation: the idle time alone, whatever is left.
def test_a_wait_is_the_idle_time_or_what_is_left_if_that_is_less() -> None:
    assert ending_in(100).next_wait_s() == 5.0
    assert 0 < ending_in(2).next_wait_s() <= 2.0


# Mutation: a second of grace.
def test_a_time_that_is_over_allows_no_wait() -> None:
    with pytest.raises(Rejected) as refused:
        ending_in(-0.01).next_wait_s()
    assert refused.value.outcome is Outcome.TIMEOUT


# Mutation: patience that is never used up.
def test_what_is_given_back_to_the_row_is_taken_from_its_patience() -> None:
    deadline = ending_in(10)
    ends_at = deadline.ends_at
    deadline.forgive(3.0)
    assert (deadline.ends_at, deadline.patience_s) == (ends_at + 3.0, 17.0)
