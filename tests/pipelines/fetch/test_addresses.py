"""No URL, redirect or name server can make us connect to an address that is not public."""

from __future__ import annotations

import dataclasses
import ipaddress
import itertools
import socket
import threading
import time
from collections.abc import Iterator, Sequence

import pytest

from lposekit.errors import Outcome
from pipelines.fetch.addresses import SystemResolver, is_public
from pipelines.fetch.opener import GuardedOpener
from pipelines.fetch.settings import FetchSettings
from tests.pipelines.fetch.conftest import names, opener_for, outcome, quick_settings
from tests.support.bad_server import BadServer, closed_port

pytestmark = pytest.mark.timeout(180)

PRIVATE = """
    127.0.0.1 127.255.255.254 0.0.0.0 10.1.2.3 172.16.0.1 172.31.255.255 192.168.1.1 169.254.169.254 100.64.0.1
    100.127.255.255 192.0.0.8 192.0.2.1 192.88.99.1 198.18.0.1 198.51.100.1 203.0.113.1 224.0.0.1 239.1.1.1 240.0.0.1
    255.255.255.255 ::1 :: ::ffff:10.0.0.1 ::ffff:8.8.8.8 ::8.8.8.8 64:ff9b::a00:1 64:ff9b::808:808 64:ff9b:1::1
    2002:a00:1:: 2002:808:808:: 2001::1 2001:db8::1 3fff::1 100::1 fc00::1 fd12::1 fe80::1 fe80::1%eth0 fec0::1
    ff02::1 5f00::1
    192.31.196.1 192.175.48.1 192.52.193.1 2001:3::1 2001:4:112::1 2001:1::1 2001:30::1 2620:4f:8000::1
    2606:4700:0:1:0:5efe:a00:1 2a00:1450:4001:1:200:5efe:808:808
""".split()  # noqa: SIM905


# Mutations: return True; leave out `_SPECIAL_6`, `_SPECIAL_4`, `_GLOBAL_UNICAST_6`, `_ISATAP`, or `is_multicast`.
@pytest.mark.case(63)
@pytest.mark.parametrize("address", PRIVATE)
@pytest.mark.case(2)
def test_special_addresses_are_not_public(address: str) -> None:
    assert not is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize(
    "address",
    [
        "8.8.8.8",
        "192.31.195.1",
        "93.184.216.34",
        "2606:4700::1111",
        "2a00:1450::5efe",
        "2001:200::1",
        "2001:4860::8888",
    ],
)
def test_addresses_of_public_hosts_are_public(address: str) -> None:
    assert is_public(ipaddress.ip_address(address))


# Mutation: skip `_may_dial` for resolved names.
@pytest.mark.parametrize("address", PRIVATE)
@pytest.mark.case(2)
def test_a_name_that_leads_inside_is_refused_before_connecting(server: BadServer, address: str) -> None:
    opener = GuardedOpener(quick_settings(), resolver=names({"inside.test": [address]}))
    assert outcome(opener, f"{server.url_as('inside.test')}/ok") is Outcome.PRIVATE_ADDRESS
    assert server.num_connections == 0


# Mutation: let `_literal` read canonical spellings only, so that the rest goes to the resolver.
@pytest.mark.parametrize(
    "host", ["127.0.0.1", "0x7f000001", "2130706433", "127.1", "0177.0.0.1", "[::1]", "[::ffff:127.0.0.1]"]
)
@pytest.mark.case(2)
def test_every_spelling_of_a_local_address_is_refused_before_connecting(server: BadServer, host: str) -> None:
    opener = GuardedOpener(quick_settings(), resolver=names({}))
    assert outcome(opener, f"http://{host}:{server.port}/ok") is Outcome.PRIVATE_ADDRESS
    assert server.num_connections == 0


# Mutation: the answer is parsed outside of its `try` (a `ValueError`).
@pytest.mark.case(63)
@pytest.mark.parametrize("answer", ["localhost", "", "127.0.0.1/8", "1.2.3", "\x00"])
def test_an_answer_of_the_resolver_that_is_no_address_is_a_failure_of_names(server: BadServer, answer: str) -> None:
    opener = GuardedOpener(quick_settings(), allow_private_addresses=True, resolver=names({"odd.test": [answer]}))
    assert outcome(opener, f"{server.url_as('odd.test')}/ok") is Outcome.DNS


# Mutation: check `found[:1]` only.
def test_one_private_address_among_public_ones_refuses_the_host(server: BadServer) -> None:
    opener = GuardedOpener(quick_settings(), resolver=names({"mixed.test": ["93.184.216.34", "127.0.0.1"]}))
    assert outcome(opener, f"{server.url_as('mixed.test')}/ok") is Outcome.PRIVATE_ADDRESS
    assert server.num_connections == 0


# Mutation: check addresses for the first hop only (in `connect`, `if self.url` is the list's URL).
@pytest.mark.parametrize(
    "target", ["http://inside.test:{port}/ok", "http://127.0.0.1:{port}/ok", "//0x7f000001:{port}/ok"]
)
@pytest.mark.case(3)
def test_a_redirect_that_leads_inside_is_refused_at_the_second_hop(
    server: BadServer, other_server: BadServer, target: str
) -> None:
    opener = GuardedOpener(
        quick_settings(),
        resolver=names({"public.test": ["127.0.0.1"], "inside.test": ["127.0.0.1"]}),
        allowed_local=frozenset({f"public.test:{server.port}"}),
    )
    url = f"{server.url_as('public.test')}/to?{target.format(port=other_server.port)}"
    assert outcome(opener, url) is Outcome.PRIVATE_ADDRESS
    assert len(server.hits) == 1
    assert other_server.num_connections == 0


# Mutation: in `_dial`, connect to the host's name (the resolver is asked again and answers with the other address).
@pytest.mark.case(4)
def test_the_address_that_was_checked_is_the_one_dialled(server: BadServer) -> None:
    with BadServer(address="127.0.0.2", port=server.port) as rebound:
        answers = itertools.chain([["127.0.0.1"]], itertools.repeat(["127.0.0.2"]))
        asked: list[str] = []

        def resolve(host: str) -> Sequence[str]:
            asked.append(host)
            return next(answers)

        opener = GuardedOpener(
            quick_settings(), resolver=resolve, allowed_local=frozenset({f"moving.test:{server.port}"})
        )
        opener.fetch(f"{server.url_as('moving.test')}/ok")
        assert asked == ["moving.test"]
        assert [hit.host for hit in server.hits] == [f"moving.test:{server.port}"]
        assert rebound.num_connections == 0


@pytest.mark.case(4)
def test_a_second_answer_that_leads_inside_is_refused_too(server: BadServer) -> None:
    answers = iter([["127.0.0.1"], ["10.0.0.1"]])
    opener = GuardedOpener(
        quick_settings(),
        resolver=lambda _: next(answers),
        allowed_local=frozenset({f"moving.test:{server.port}"}),
    )
    url = f"{server.url_as('moving.test')}/hang-up-after"
    opener.fetch(url)
    time.sleep(0.1)  # the kept connection ends, so the second fetch has to connect anew
    assert outcome(opener, url) is Outcome.PRIVATE_ADDRESS


# Mutation: compare hosts only, or lift the check for any address of an allowed pair.
def test_allowed_local_pairs_are_exact_and_loopback_only(server: BadServer, other_server: BadServer) -> None:
    opener = GuardedOpener(
        quick_settings(),
        resolver=names({"sample.test": ["127.0.0.1"], "alias.test": ["127.0.0.1"], "lan.test": ["10.0.0.1"]}),
        allowed_local=frozenset({f"sample.test:{server.port}", f"lan.test:{server.port}"}),
    )
    assert opener.fetch(f"{server.url_as('sample.test')}/ok").http_status == 200
    for url in (other_server.url_as("sample.test"), server.url_as("alias.test"), server.url_as("lan.test"), server.url):
        assert outcome(opener, f"{url}/ok") is Outcome.PRIVATE_ADDRESS
    assert len(server.hits) == 1
    assert other_server.num_connections == 0


def test_private_addresses_open_by_argument_only(server: BadServer) -> None:
    assert GuardedOpener(quick_settings(), allow_private_addresses=True).fetch(f"{server.url}/ok").http_status == 200
    assert not [field.name for field in dataclasses.fields(FetchSettings) if "private" in field.name]


# Mutation: give the first address all of the time in `_dial`, or raise at its failure.
def test_a_dead_address_leaves_the_next_one_its_turn(server: BadServer) -> None:
    opener = GuardedOpener(
        quick_settings(),
        resolver=names({"twin.test": ["127.0.0.3", "127.0.0.1"]}),
        allowed_local=frozenset({f"twin.test:{server.port}"}),
    )
    assert opener.fetch(f"{server.url_as('twin.test')}/ok").http_status == 200


def test_unknown_names_and_closed_ports_have_their_own_outcomes() -> None:
    opener = GuardedOpener(quick_settings(retries=0), resolver=names({}))
    assert outcome(opener, "http://nowhere.test/a.jpg") is Outcome.DNS
    with BadServer() as gone:
        pass
    assert outcome(opener_for(gone, retries=0), f"{gone.url}/ok") is Outcome.CONNECT
    assert closed_port() != gone.port


# Mutation: call `socket.getaddrinfo` in the caller's thread.
def test_a_silent_name_server_holds_nobody_beyond_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    released = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: released.wait(10) and [])
    opener = GuardedOpener(quick_settings(connect_timeout_s=0.3, retries=0))
    started_at = time.monotonic()
    assert outcome(opener, "http://slow.test/a.jpg") is Outcome.DNS
    assert time.monotonic() - started_at < 3.0
    released.set()


# Mutation: keep EAI_AGAIN like other failures.
def test_a_passing_failure_of_the_name_server_is_tried_again(
    server: BadServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers: Iterator[object] = iter(
        [socket.gaierror(socket.EAI_AGAIN, "try again"), [(0, 0, 0, "", ("127.0.0.1", 0))]]
    )

    def look_up(*_: object, **__: object) -> object:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    allowed = frozenset({f"sample.test:{server.port}"})
    opener = GuardedOpener(quick_settings(), allowed_local=allowed, sleep=lambda _: None)
    assert opener.fetch(f"{server.url_as('sample.test')}/ok").attempts == 2


def test_a_name_is_looked_up_once_for_many_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    entry = (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("93.184.216.34", 0))

    def look_up(host: str, *_: object, **__: object) -> list[object]:
        asked.append(host)
        time.sleep(0.05)
        return [entry, entry]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    resolver = SystemResolver()
    answers: list[Sequence[str]] = []
    threads = [threading.Thread(target=lambda: answers.append(resolver("one.test"))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(5)
    assert answers == [["93.184.216.34"]] * 8
    assert asked == ["one.test"]
