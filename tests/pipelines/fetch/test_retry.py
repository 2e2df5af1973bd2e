"""Contract of back-off: how long, how often, and which answers are worth another try, each at its limit."""

from __future__ import annotations

import time

import pytest

from lposekit.errors import Outcome, Rejected
from pipelines.fetch.resting import RestingHosts
from pipelines.fetch.retry import RetryPolicy, TryAgain, status_problem

RESET = TryAgain(Outcome.SHORT_READ, "reset")


def asking(seconds: float) -> TryAgain:
    """A server that names a time."""
    return TryAgain(Outcome.HTTP_5XX, "busy", seconds)


# Mutations: `2**attempt`; another first wait; no `longest_wait_s`; jitter over the whole wait.
@pytest.mark.parametrize(("jitter", "waits"), [(1.0, [0.5, 1, 2, 4, 8, 8]), (0.0, [0.25, 0.5, 1, 2, 4, 4])])
def test_waits_double_up_to_eight_seconds_and_jitter_takes_off_half_at_most(jitter: float, waits: list[float]) -> None:
    policy = RetryPolicy(9, jitter=lambda: jitter)
    assert [policy.wait_s(RESET, attempt, 100) for attempt in range(1, 7)] == waits


# Mutation: `>=` in place of `>`.
def test_the_last_retry_is_made_and_no_other() -> None:
    policy = RetryPolicy(2)
    assert policy.wait_s(RESET, 2, 100) is not None
    assert policy.wait_s(RESET, 3, 100) is None
    assert RetryPolicy(0).wait_s(RESET, 1, 100) is None


# Mutations: `<` in place of `<=` for the longest time; a time named by the server shortened by jitter.
def test_a_server_waits_for_a_minute_at_most_and_never_less_than_it_asked_for() -> None:
    assert [RetryPolicy(2, jitter=lambda: 0.0).wait_s(asking(wait), 1, 100) for wait in (1, 60, 60.1)] == [1, 60, None]
    assert RetryPolicy(2, jitter=lambda: 1.0).wait_s(asking(60), 1, 100) == pytest.approx(66)


# Mutation: `<=` in place of `<`.
def test_a_row_does_not_wait_until_the_very_end_of_its_time() -> None:
    policy = RetryPolicy(2, jitter=lambda: 1.0)
    assert policy.wait_s(RESET, 1, 0.5) is None
    assert policy.wait_s(RESET, 1, 0.51) == 0.5
    assert policy.wait_s(asking(0), 1, 0.0) is None


# Mutations: 500 counted as 4xx; 425 not in `_TEMPORARY_4XX`.
@pytest.mark.parametrize(
    ("status", "outcome", "again"),
    [
        (404, Outcome.HTTP_4XX, False),
        (408, Outcome.HTTP_4XX, True),
        (425, Outcome.HTTP_4XX, True),
        (429, Outcome.HTTP_4XX, True),
        (499, Outcome.HTTP_4XX, False),
        (500, Outcome.HTTP_5XX, True),
        (599, Outcome.HTTP_5XX, True),
    ],
)
def test_temporary_answers_are_worth_another_try(status: int, outcome: Outcome, again: bool) -> None:
    problem = status_problem(status, None)
    assert (problem.outcome, isinstance(problem, TryAgain)) == (outcome, again)


def rest_of(hosts: RestingHosts, host: str) -> float | None:
    """Seconds for which a host is left alone; None if it may be asked."""
    try:
        hosts.check(host)
    except TryAgain as why:
        return why.retry_after_s
    return None


# Mutation: no `_LONGEST_ASKED_S`.
def test_no_host_rests_for_more_than_an_hour() -> None:
    hosts = RestingHosts(3, 60.0)
    hosts.asked_for("a", asking(7200))
    assert rest_of(hosts, "a") == pytest.approx(3600, abs=60)


# Mutations: `>=` in place of `>`; no `move_to_end`.
def test_of_too_many_resting_hosts_the_one_noted_longest_ago_is_forgotten() -> None:
    hosts = RestingHosts(3, 60.0, max_hosts=2)
    for host in ("a", "b"):
        hosts.asked_for(host, asking(60))
    assert None not in (rest_of(hosts, "a"), rest_of(hosts, "b"))
    for host in ("a", "c"):
        hosts.asked_for(host, asking(60))
    assert [rest_of(hosts, host) is None for host in "abc"] == [False, True, False]


def test_only_an_answer_that_names_a_time_makes_a_host_rest() -> None:
    hosts = RestingHosts(3, 60.0)
    for problem in (RESET, asking(0), Rejected(Outcome.HTTP_4XX, "status 404")):
        hosts.asked_for("a", problem)
    assert rest_of(hosts, "a") is None
    hosts.asked_for("a", asking(0.01))
    time.sleep(0.02)
    assert rest_of(hosts, "a") is None
