"""What was taken out of a dataset and must not come back: the list of `lposekit remove`, and how a folder remembers it.

`_dataset/removed.json` holds addresses and domains as salted hashes: a dataset that is passed on does not say what was
taken out of it. Hashes of files and keys are kept as they are.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from lposekit.errors import LposekitError, Outcome, Rejected, UsageError
from lposekit.json_values import TEXT, JsonFields, list_of, read_json_object
from lposekit.records import without_user
from lposekit.shards.files import write_json
from lposekit.shards.layout import DatasetLayout
from lposekit.stored_address import stored_address
from pipelines.fetch.policy import without_comment
from pipelines.fetch.urls import parse_domain, parse_web_url

EntryKind = Literal["url", "domain", "sha256", "key"]
Entry = tuple[EntryKind, str]
KINDS: tuple[EntryKind, ...] = ("url", "domain", "sha256", "key")
DISCLOSING = ("url", "domain")
"""Kinds of which only a hash is kept."""
DETAIL = "taken out of the dataset by `lposekit remove`"
MAX_BYTES = 2**30
MAX_LINES_SHOWN = 10
SCHEMA = 1
_SHA256 = re.compile(r"[0-9a-f]{64}")
_KEY = re.compile(r"[0-9]{9,}")


def parse_entries(lines: Iterable[str], source: str) -> dict[Entry, str]:
    """What the lines of a list name, each with its line as it was written.

    A line with `://` is an address, 64 hexadecimal digits are the sha256 of a file, 9 digits or more are a key, and
    anything else with a dot is a domain, which stands for its subdomains too; nothing but its name may stand there. `#`
    begins a comment, at the start of a line or after white space.

    Raises:
        UsageError: names the lines that are none of these; nobody is to believe that they were obeyed.
    """
    entries: dict[Entry, str] = {}
    wrong: list[str] = []
    for number, line in enumerate(lines, start=1):
        text = without_comment(line)
        if not text:
            continue
        entry = _entry(text)
        if entry is None:
            wrong.append(f"line {number}: {text[:100]}")
        else:
            entries.setdefault(entry, text)
    if wrong:
        shown = [*wrong[:MAX_LINES_SHOWN], *(["..."] if wrong[MAX_LINES_SHOWN:] else [])]
        raise UsageError(
            f"{source}: {len(wrong)} lines are no address, domain, sha256 or key, so nothing was removed:\n  "
            + "\n  ".join(shown)
            + "\nWrite an address with http:// or https://, a domain (example.org), 64 hexadecimal digits or a key."
        )
    return entries


def read_entries(path: Path) -> dict[Entry, str]:
    """The list in a file; see `parse_entries`. Raises UsageError: it cannot be read, too."""
    try:
        with path.open(encoding="utf-8-sig") as lines:
            return parse_entries(lines, str(path))
    except (OSError, UnicodeError) as error:
        raise UsageError(f"--list {path}: cannot be read ({error}). Name a text file in UTF-8.") from error


def _entry(text: str) -> Entry | None:
    lower = text.lower()
    if _SHA256.fullmatch(lower):
        return "sha256", lower
    if _KEY.fullmatch(text):
        return "key", text
    if "://" in text:
        return "url", _keyless(_plain_url(text))
    try:
        host = parse_domain(lower)
    except Rejected:
        return None
    # a single name is a word that stands there by mistake
    return ("domain", host) if "." in host or ":" in host else None


def _plain_url(text: str) -> str:
    """One spelling for all of an address: as the fetcher would send it, where it would."""
    text = without_user(text.strip())
    try:
        return str(parse_web_url(text))
    except Rejected:
        return text


def _keyless(plain: str) -> str:
    """What datasets store of an address by default: who has only the dataset names no more, and who has the list names
    the row in either."""
    return stored_address(plain, "safe")


def _domains(url: str) -> Iterator[str]:
    try:
        host = parse_web_url(url).host
    except Rejected:
        try:
            host = (urlsplit(url).hostname or "").lower()
        except ValueError:
            return
    labels = host.split(".")
    yield from (".".join(labels[start:]) for start in range(len(labels)))


def traits(url: str | None = None, sha256: Iterable[str | None] = (), keys: Iterable[str | None] = ()) -> list[Entry]:
    """Everything of a row that an entry can name."""
    found = list[Entry]()
    found.extend(("sha256", digest) for digest in sha256 if digest)
    found.extend(("key", key) for key in keys if key)
    if url:
        plain = _plain_url(url)
        found.extend(("url", form) for form in dict.fromkeys((_keyless(plain), plain)))
        found.extend(("domain", domain) for domain in _domains(plain))
    return found


@dataclass(frozen=True, slots=True)
class Removals:
    """What a folder remembers. `entries`: by kind, as stored."""

    salt: str
    entries: Mapping[EntryKind, frozenset[str]]

    def __bool__(self) -> bool:
        return any(self.entries.values())

    def name(self, found: Iterable[Entry]) -> bool:
        """Whether an entry names a row of these traits."""
        return any(self._stored(entry) in self.entries[entry[0]] for entry in found if self.entries[entry[0]])

    @property
    def keys(self) -> frozenset[str]:
        return self.entries["key"]

    def with_entries(self, more: Collection[Entry]) -> Removals:
        added = {kind: {self._stored(entry) for entry in more if entry[0] == kind} for kind in KINDS}
        return Removals(self.salt, {kind: self.entries[kind] | added[kind] for kind in KINDS})

    def _stored(self, entry: Entry) -> str:
        kind, text = entry
        if kind not in DISCLOSING:
            return text
        return hashlib.sha256(f"{self.salt} {kind} {text}".encode("utf-8", "surrogatepass")).hexdigest()


def read_removals(layout: DatasetLayout) -> Removals:
    """What a folder remembers; nothing where nothing was ever removed.

    Raises:
        LposekitError: the file is damaged. To go on without it would bring back what was removed.
    """
    try:
        values = read_json_object(layout.store, layout.relative(layout.removed), MAX_BYTES)
        fields = JsonFields(values)
        salt = fields.need("salt", TEXT)
        return Removals(salt, {kind: frozenset(fields.take(kind, list_of(TEXT)) or ()) for kind in KINDS})
    except FileNotFoundError:
        return Removals(secrets.token_hex(16), {kind: frozenset() for kind in KINDS})
    except (OSError, ValueError) as error:
        raise LposekitError(
            f"{layout.removed}: cannot be read ({error}). It says what must not come back: restore it from a copy, or "
            "remove it and run `lposekit remove` with the whole list again before anything else."
        ) from error


def joined(source: DatasetLayout, target: DatasetLayout) -> Removals:
    """What a folder and the one that is made of it remember, together: each may have been given a list of its own.

    Raises:
        UsageError: their hashes have different salts, so that one file cannot hold both.
    """
    of_source, of_target = read_removals(source), read_removals(target)
    if not of_source or not of_target:
        return of_source or of_target
    if of_source.salt != of_target.salt:
        raise UsageError(
            f"{target.removed} and {source.removed} were begun apart, and cannot be joined: write a new folder, and "
            "run `lposekit remove` on it with what was removed from this one."
        )
    return Removals(of_source.salt, {kind: of_source.entries[kind] | of_target.entries[kind] for kind in KINDS})


def write_removals(layout: DatasetLayout, removals: Removals) -> None:
    """Remember. Raises LposekitError: the disk is full, or the folder cannot be written."""
    entries = {kind: sorted(found) for kind, found in removals.entries.items()}
    write_json(layout.removed, {"schema": SCHEMA, "salt": removals.salt, **entries})


def refuse_removed(removals: Removals, found: Iterable[Entry]) -> None:
    """Raises `Rejected(REMOVED)` for a row of these traits if an entry names it."""
    if removals and removals.name(found):
        raise Rejected(Outcome.REMOVED, DETAIL)
