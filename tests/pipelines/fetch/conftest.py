"""Servers and openers for the fetch tests. The resolver is injected, so that loopback can play public and private."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from lposekit.errors import Outcome, Rejected
from pipelines.fetch.opener import GuardedOpener
from pipelines.fetch.settings import FetchSettings
from tests.support.bad_server import BadServer
from tests.support.certificates import CertificateAuthority

MIB = 2**20


@pytest.fixture
def server() -> Iterator[BadServer]:
    with BadServer() as running:
        yield running


@pytest.fixture
def other_server() -> Iterator[BadServer]:
    with BadServer() as running:
        yield running


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> CertificateAuthority:
    return CertificateAuthority.create(tmp_path_factory.mktemp("authority"))


def quick_settings(**changes: object) -> FetchSettings:
    """Settings whose time limits fit a test."""
    values: dict[str, object] = {
        "connect_timeout_s": 1.0,
        "idle_timeout_s": 1.0,
        "total_timeout_s": 3.0,
        "max_body_bytes": MIB,
        "retries": 2,
    }
    return FetchSettings(**(values | changes))  # type: ignore[arg-type]


def names(table: Mapping[str, Sequence[str]]) -> Callable[[str], Sequence[str]]:
    """A resolver that knows these names and no other."""

    def resolve(host: str) -> Sequence[str]:
        if host not in table:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return table[host]

    return resolve


class Naps(list[float]):
    """Stands in for ``time.sleep`` and notes how long would have been slept."""

    def __call__(self, seconds: float) -> None:
        self.append(seconds)


def opener_for(
    *servers: BadServer, ca_file: Path | None = None, sleep: Callable[[float], None] | None = None, **changes: object
) -> GuardedOpener:
    """An opener that may talk to these servers of the test, and to nothing else on this machine; it never sleeps."""
    return GuardedOpener(
        quick_settings(ca_file=ca_file, **changes),
        allowed_local=frozenset(one.authority for one in servers),
        sleep=sleep or Naps(),
    )


def rejection(opener: GuardedOpener, url: str, **arguments: object) -> Rejected:
    """Fetch what must not be had, and return why not."""
    with pytest.raises(Rejected) as caught:
        opener.fetch(url, **arguments)  # type: ignore[arg-type]
    return caught.value


def outcome(opener: GuardedOpener, url: str) -> Outcome:
    return rejection(opener, url).outcome
