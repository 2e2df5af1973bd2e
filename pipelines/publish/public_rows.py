"""What the world may see of a dataset's rows: samples that are stored, by addresses that anybody may ask.

Rows that were turned down are not told: among them are those that owners or the user refused, and the reasons of
failures, which may name machines. No value of the list's other columns is told that looks like a path of one, and no
part of an address that looks like a key.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import pyarrow as pa

from lposekit.errors import Rejected
from lposekit.records import Columns
from lposekit.shards.private import is_place
from lposekit.stored_address import stored_address
from pipelines.fetch.addresses import is_public, literal_address
from pipelines.fetch.policy import Blocklist
from pipelines.fetch.removals import Removals, traits
from pipelines.fetch.urls import WebUrl, parse_web_url

STORED = "success"
"""Status of rows that have a sample."""
_LOCAL_NAMES = ("localhost", "local", "internal", "lan", "home", "corp", "intranet", "home.arpa")
"""Names, and endings of names, that mean something on one network only (RFC 6762, RFC 8375, and by custom)."""


@dataclass(slots=True)
class PublicRows:
    """Rules for the rows of one dataset; counts what is left out, by reason.

    needs_address: leave out rows that nobody else can fetch, such as local videos.
    """

    blocklist: Blocklist
    removals: Removals
    needs_address: bool
    allow_private_addresses: bool = False
    left_out: Counter[str] = field(default_factory=Counter)

    def of(self, table: pa.Table) -> pa.Table:
        """The rows of a shard's table that may be told, with what may be told of them."""
        return pa.Table.from_pylist(list(self.rows(table.to_pylist())), schema=table.schema)

    def rows(self, rows: Iterable[Columns]) -> Iterator[Columns]:
        """As `of`, of rows."""
        return (_told(columns) for columns in rows if columns["status"] == STORED and self._may_be_told(columns))

    def _may_be_told(self, columns: Columns) -> bool:
        reason = self._why_not(columns)
        if reason:
            self.left_out[reason] += 1
        return not reason

    def _why_not(self, columns: Columns) -> str:
        url, sha256 = columns.get("url"), columns.get("sha256")
        if sha256 in self.blocklist.sha256:
            return "blocked"
        if self.removals.name(traits(url, [sha256], [columns["key"]])):
            return "removed"
        try:
            return self._why_not_address(parse_web_url(url or ""))
        except Rejected:
            return "no web address" if self.needs_address else ""

    def _why_not_address(self, url: WebUrl) -> str:
        try:
            self.blocklist.check_url(url)
        except Rejected:
            return "blocked"
        return "private address" if is_private_host(url.host) and not self.allow_private_addresses else ""


def is_private_host(host: str) -> bool:
    """Whether a host means something on one network only, as far as its name tells."""
    literal = literal_address(host)
    if literal is not None:
        return not is_public(literal)
    name = host.rstrip(".").lower()
    return "." not in name or any(name.endswith(f".{local}") for local in _LOCAL_NAMES)


def _told(columns: Columns) -> Columns:
    return {**{name: told(value) for name, value in columns.items()}, "caption": columns.get("caption")}


def told(value: object) -> object:
    """What may be told of a value: no path of a machine, no address with a key, at any depth."""
    if isinstance(value, str):
        return None if is_place(value) else stored_address(value, "safe")
    if isinstance(value, Mapping):
        return {name: told(item) for name, item in value.items()}
    return [told(item) for item in value] if isinstance(value, list) else value
