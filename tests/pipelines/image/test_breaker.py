"""An outage is told apart from a list of dead links."""

from __future__ import annotations

import pytest

from lposekit.errors import Outcome, Rejected
from pipelines.image.breaker import CircuitBreaker
from tests.pipelines.fetch.conftest import opener_for
from tests.support.bad_server import BadServer

pytestmark = pytest.mark.timeout(180)


# Mutation: `is_open` returns False.
def test_it_opens_when_every_host_fails() -> None:
    with BadServer() as gone:
        pass
    opener = opener_for(gone, retries=0)
    breaker = CircuitBreaker(max_share=0.9, last_rows=100, min_rows=20)
    for number in range(30):
        with pytest.raises(Rejected) as caught:
            opener.fetch(f"{gone.url}/{number}")
        breaker.add([caught.value.outcome])
        assert breaker.is_open == (number >= 19)
    assert breaker.describe() == "30 of the last 30 rows failed by the network (connect 30)"


def test_it_stays_closed_on_a_rotten_list() -> None:
    breaker = CircuitBreaker(max_share=0.9)
    breaker.add([Outcome.DNS] * 60 + [Outcome.HTTP_4XX] * 30 + [Outcome.KEPT] * 10)
    assert not breaker.is_open


# Mutation: every outcome of the group `network` counts as a failure of the network.
def test_files_that_are_gone_are_no_outage() -> None:
    breaker = CircuitBreaker(max_share=0.5)
    breaker.add([Outcome.HTTP_4XX] * 60 + [Outcome.REDIRECT] * 40)
    assert not breaker.is_open


# Mutation: count all of the past, not the window.
def test_only_the_last_rows_count() -> None:
    breaker = CircuitBreaker(max_share=0.9, last_rows=100)
    breaker.add([Outcome.KEPT] * 5000 + [Outcome.TIMEOUT] * 100)
    assert breaker.is_open
    breaker.add([Outcome.NO_PERSON] * 50)
    assert not breaker.is_open


# Mutation: `add` without its filter.
def test_rows_that_were_never_fetched_do_not_hide_an_outage() -> None:
    breaker = CircuitBreaker(max_share=0.9, last_rows=100)
    breaker.add(([Outcome.METADATA_FILTER] * 9 + [Outcome.DNS]) * 100)
    assert breaker.is_open


def test_three_dead_links_are_no_outage() -> None:
    breaker = CircuitBreaker(max_share=0.9)
    breaker.add([Outcome.DNS] * 3)
    assert not breaker.is_open


# Mutation: `>=` in place of `>` in `is_open`.
@pytest.mark.parametrize(("failed", "is_open"), [(9, False), (10, True)])
def test_exactly_the_share_that_is_allowed_does_not_open_it(failed: int, is_open: bool) -> None:
    breaker = CircuitBreaker(max_share=0.45, last_rows=20, min_rows=20)
    breaker.add([Outcome.DNS] * failed + [Outcome.KEPT] * (20 - failed))
    assert breaker.is_open == is_open


def test_a_share_of_one_never_opens_it() -> None:
    breaker = CircuitBreaker(max_share=1.0, last_rows=20, min_rows=20)
    breaker.add([Outcome.TIMEOUT] * 50)
    assert not breaker.is_open


# Mutation: `>=` in place of `>` where old rows are let go.
def test_the_window_has_as_many_rows_as_it_is_asked_for() -> None:
    breaker = CircuitBreaker(max_share=0.5, last_rows=10)
    breaker.add([Outcome.KEPT] * 3 + [Outcome.DNS] * 9)
    assert breaker.describe() == "9 of the last 10 rows failed by the network (dns 9)"


# Mutation: `min_rows` alone, whatever the window.
def test_a_window_smaller_than_the_least_number_of_rows_opens_when_it_is_full() -> None:
    breaker = CircuitBreaker(max_share=0.5, last_rows=10, min_rows=50)
    breaker.add([Outcome.DNS] * 9)
    assert not breaker.is_open
    breaker.add([Outcome.DNS])
    assert breaker.is_open
