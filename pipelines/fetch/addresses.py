"""Which addresses a list from the web may make us connect to: public ones, and nothing else.

A URL list is written by strangers. Without this check a row, or a redirect, can read the metadata service of a cloud
machine or a colleague's unprotected server, and pack the answer into a dataset that is then published.
"""

from __future__ import annotations

import ipaddress
import socket
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

from lposekit.errors import Outcome, Rejected
from pipelines.fetch.retry import TryAgain
from pipelines.fetch.urls import WebUrl

Resolver = Callable[[str], Sequence[str]]
"""Host name to numeric addresses; raises `socket.gaierror`."""
Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_GLOBAL_UNICAST_6 = ipaddress.ip_network("2000::/3")
# Inside 2000::/3, yet not plain public hosts: 6to4 (an IPv4 address, reached through a relay), all protocol assignments
# (Teredo, AMT, AS112, ORCHID, ...), documentation, AS112.
# (https://www.iana.org/assignments/iana-ipv6-special-registry; older Pythons call some of these global.)
_SPECIAL_6 = tuple(
    ipaddress.ip_network(text) for text in ("2002::/16", "2001::/23", "2001:db8::/32", "3fff::/20", "2620:4f:8000::/48")
)
# CGNAT, protocol assignments, 6to4 relays, AS112 (twice), AMT.
_SPECIAL_4 = tuple(
    ipaddress.ip_network(text)
    for text in (
        *("100.64.0.0/10", "192.0.0.0/24", "192.88.99.0/24"),
        *("192.31.196.0/24", "192.175.48.0/24", "192.52.193.0/24"),
    )
)
_ISATAP = (0x0000_5EFE, 0x0200_5EFE)
"""The third quarter of an IPv6 address whose last is an IPv4 address behind a tunnel, whatever its network."""


def is_public(address: Address) -> bool:
    """True for addresses of public hosts only.

    False for private, loopback, link-local, shared (CGNAT), multicast, reserved and documentation ranges, and for every
    IPv6 form that embeds an IPv4 address (mapped, compatible, NAT64, 6to4, Teredo, ISATAP), whatever it embeds.
    """
    if address.is_multicast or address.is_reserved or not address.is_global:
        return False
    if isinstance(address, ipaddress.IPv4Address):
        return not any(address in network for network in _SPECIAL_4)
    if address.scope_id is not None or address not in _GLOBAL_UNICAST_6:
        return False
    if int(address) >> 32 & 0xFFFF_FFFF in _ISATAP:
        return False
    return not any(address in network for network in _SPECIAL_6)


@dataclass(frozen=True, slots=True)
class AddressGuard:
    """Turns a host into addresses that may be dialled.

    `allowed_local` holds exact `host:port` pairs (as in the URL, port always named) that may be on loopback: a
    sample server of this very process. `allow_private` lifts the check altogether.
    """

    resolver: Resolver
    allow_private: bool = False
    allowed_local: frozenset[str] = frozenset()

    def addresses(self, url: WebUrl) -> list[str]:
        """Numeric addresses of the URL's host, all of them checked. Nobody may resolve the name again after this.

        Raises `Rejected(PRIVATE_ADDRESS)` if only one of them is not public: which one a later lookup would prefer is
        the name server's choice.
        """
        literal = literal_address(url.host)
        found = [literal] if literal is not None else self._resolve(url.host)
        for address in found:
            if not self._may_dial(address, url):
                raise Rejected(Outcome.PRIVATE_ADDRESS, f"{url.host} is {address}, which is not a public address")
        return [str(address) for address in found]

    def _may_dial(self, address: Address, url: WebUrl) -> bool:
        if self.allow_private or is_public(address):
            return True
        return address.is_loopback and url.authority in self.allowed_local

    def _resolve(self, host: str) -> list[Address]:
        try:
            texts = self.resolver(host)
        except socket.gaierror as problem:
            detail = f"{host}: {problem.strerror or problem}"
            if problem.errno == socket.EAI_AGAIN:
                raise TryAgain(Outcome.DNS, detail) from problem
            raise Rejected(Outcome.DNS, detail) from problem
        try:
            found = [ipaddress.ip_address(text) for text in texts]
        except ValueError as problem:
            raise Rejected(Outcome.DNS, f"{host}: the resolver's answer is no address: {problem!s:.100}") from problem
        if not found:
            raise Rejected(Outcome.DNS, f"{host}: no address")
        return found


def literal_address(host: str) -> Address | None:
    """The address that a host already is, in any of the spellings C libraries take (`0x7f000001`, `127.1`)."""
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        pass
    try:
        return ipaddress.IPv4Address(socket.inet_aton(host))
    except OSError:
        return None


@dataclass(slots=True)
class SystemResolver:
    """The system's resolver with a bounded wait and a cache, for many threads.

    `getaddrinfo` takes no timeout and may sit for half a minute when a name server is silent, so each lookup has a
    thread of its own and the callers stop waiting after `timeout_s`. Such a thread never holds up an exit (daemon).
    """

    timeout_s: float = 5.0
    keep_s: float = 120.0
    keep_failure_s: float = 20.0
    max_hosts: int = 10_000
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)
    _known: OrderedDict[str, _Lookup] = field(default_factory=OrderedDict, repr=False)

    def __call__(self, host: str) -> Sequence[str]:
        lookup = self._lookup(host)
        try:
            return lookup.answer.result(self.timeout_s)
        except TimeoutError as problem:
            raise socket.gaierror(socket.EAI_AGAIN, f"no answer within {self.timeout_s:g} s") from problem

    def _lookup(self, host: str) -> _Lookup:
        with self._lock:
            lookup = self._known.get(host)
            if lookup is None or lookup.expires_at < time.monotonic():
                lookup = self._known[host] = _Lookup(host)
                threading.Thread(target=self._answer, args=(lookup,), name=f"dns {host}", daemon=True).start()
                if len(self._known) > self.max_hosts:
                    self._known.popitem(last=False)
            return lookup

    def _answer(self, lookup: _Lookup) -> None:
        try:
            entries = socket.getaddrinfo(lookup.host, None, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as problem:
            known = isinstance(problem, socket.gaierror)
            failure = problem if known else socket.gaierror(socket.EAI_FAIL, str(problem))
            is_passing = failure.errno == socket.EAI_AGAIN  # the next try has to ask again
            lookup.expires_at = time.monotonic() + (0.0 if is_passing else self.keep_failure_s)
            lookup.answer.set_exception(failure)
        else:
            lookup.expires_at = time.monotonic() + self.keep_s
            lookup.answer.set_result(list(dict.fromkeys(str(entry[4][0]) for entry in entries)))


@dataclass(slots=True)
class _Lookup:
    host: str
    expires_at: float = float("inf")
    answer: Future[Sequence[str]] = field(default_factory=Future)
