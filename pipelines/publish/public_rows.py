"""What the world may see of a dataset's rows: samples that are stored, by addresses that anybody may ask.

Rows that were turned down are not told: among them are those that owners or the user refused, and the reasons of
failures, which may name machines. No value of the list's other columns is told that looks like a path of one, and no
part of an address that looks like a key.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import pyarrow as pa

from lposekit.errors import Rejected
from lposekit.records import Columns
from lposekit.shards.private import is_place
from lposekit.stored_address import ADDRESS, stored_address
from pipelines.export.card import LICENCE_COLUMNS
from pipelines.fetch.addresses import is_public, literal_address
from pipelines.fetch.policy import Blocklist
from pipelines.fetch.removals import Removals, traits
from pipelines.fetch.urls import WebUrl, parse_web_url

STORED = "success"
"""Status of rows that have a sample."""
_LOCAL_NAMES = (
    *("localhost", "localdomain", "local", "internal", "private", "lan", "home", "corp", "intranet", "home.arpa"),
    *("svc", "fritz.box", "ts.net", "nip.io", "sslip.io", "xip.io"),
)
"""Names, and endings of names, that mean something on one network only (RFC 6762, RFC 8375, and by custom)."""
_PLACE_COLUMNS = ("url", "path")


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
    licences: Counter[str] = field(default_factory=Counter)
    """Of the rows that were told, where the list stated them."""

    def of(self, table: pa.Table) -> pa.Table:
        """The rows of a shard's table that may be told, with what may be told of them."""
        return pa.Table.from_pylist(list(self.rows(table.to_pylist())), schema=table.schema)

    def rows(self, rows: Iterable[Columns]) -> Iterator[Columns]:
        """As `of`, of rows."""
        for columns in rows:
            if columns["status"] == STORED and self._may_be_told(columns):
                public = told_row(columns)
                name = next((name for name in LICENCE_COLUMNS if name in public), None)
                if name is not None:
                    self.licences[str(public[name] or "not stated")] += 1
                yield public

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


def told_row(values: Columns) -> Columns:
    """What may be told of a row, or of a sample's json. The caption is a stranger's text, and stays as it is."""
    return {name: _told_cell(name, value) for name, value in values.items()}


def _told_cell(name: str, value: object) -> object:
    if name == "caption":
        return value
    if name in _PLACE_COLUMNS and isinstance(value, str):
        # a local file, which nobody else can fetch; of an address, its host was judged with the row
        return stored_address(value, "safe") if "://" in value else None
    return told(value)


def told(value: object) -> object:
    """What may be told of a value, at any depth: no path of a machine, no address of one network, no key in an address.

    A text that holds one of the first two is not told at all.
    """
    if isinstance(value, str):
        return _told_text(value)
    if isinstance(value, Mapping):
        return {name: told(item) for name, item in value.items()}
    if isinstance(value, bytes):
        return None
    return [told(item) for item in value] if isinstance(value, list | tuple) else value


def _told_text(text: str) -> str | None:
    addresses = ADDRESS.findall(text)
    if is_place(text) or any(map(_is_private, addresses)):
        return None
    return ADDRESS.sub(lambda found: stored_address(found[0], "safe"), text)


def _is_private(address: str) -> bool:
    """Whether an address is of one network, or of somebody's machine or account (`file:`, `s3:`)."""
    try:
        parts = urlsplit(address)
        return parts.scheme.lower() not in ("http", "https") or is_private_host(parts.hostname or "")
    except ValueError:
        return True
