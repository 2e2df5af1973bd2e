"""What the owners of images, and the user, forbid: opt-out headers and blocklists."""

from __future__ import annotations

import hashlib
import http.client
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from lposekit.errors import Outcome, Rejected, UsageError
from pipelines.fetch.urls import WebUrl, parse_domain, parse_web_url

OPT_OUT_DIRECTIVES = frozenset({"noai", "noimageai", "noindex", "noimageindex", "noml", "none"})
"""Directives of `X-Robots-Tag` that turn an image down; `none` means noindex and nofollow."""
_AGENT_NAME = re.compile(r"[a-z_*][a-z0-9_.*-]*")
_VALUED_DIRECTIVES = frozenset({"unavailable_after", "max-snippet", "max-image-preview", "max-video-preview"})
_SHA256 = re.compile(r"[0-9a-f]{64}")
_COMMENT = re.compile(r"(?:^|\s)#.*", re.DOTALL)


def without_comment(line: str) -> str:
    """A line of a list without white space around it and what begins with `#` at its start or after white space; a `#`
    within an address begins its fragment."""
    return _COMMENT.sub("", line, count=1).strip()


def product_token(user_agent: str) -> str:
    """The name by which robots rules address us: `lposekit` of `lposekit/0.1 (...)`."""
    return user_agent.split("/", 1)[0].split(maxsplit=1)[0].lower() if user_agent.strip() else ""


def check_opt_out(headers: http.client.HTTPMessage, agent: str) -> None:
    """Raises `Rejected(OPT_OUT)` if the answer's headers forbid this use.

    `X-Robots-Tag: noai, noindex` holds for all; `X-Robots-Tag: lposekit: noai` for the agent of that name
    (`agent` is our product token); `tdm-reservation: 1` reserves the rights of text and data mining
    (https://www.w3.org/community/reports/tdmrep/CG-FINAL-tdmrep-20240510/).
    """
    for value in headers.get_all("X-Robots-Tag", []):
        for addressee, directive in _directives(value):
            if addressee in (None, "*", agent) and directive in OPT_OUT_DIRECTIVES:
                raise Rejected(Outcome.OPT_OUT, f"X-Robots-Tag: {value!s:.200}")
    if any(value.strip() == "1" for value in headers.get_all("TDM-Reservation", [])):
        raise Rejected(Outcome.OPT_OUT, "TDM-Reservation: 1")


def _directives(value: str) -> Iterable[tuple[str | None, str]]:
    """Pairs of addressee and directive. A name before a colon addresses everything after it in the same header."""
    addressee = None
    for part in str(value).lower().split(","):
        name, colon, rest = (piece.strip() for piece in part.partition(":"))
        if not colon or name in _VALUED_DIRECTIVES:
            yield addressee, name
        elif _AGENT_NAME.fullmatch(name):
            addressee = name
            yield addressee, rest


@dataclass(frozen=True, slots=True)
class Blocklist:
    """URLs, domains (with their subdomains) and sha256 of files that are never fetched, or never kept."""

    urls: frozenset[str] = frozenset()
    domains: frozenset[str] = frozenset()
    sha256: frozenset[str] = frozenset()

    @classmethod
    def from_lines(cls, lines: Iterable[str], source: str = "blocklist") -> Blocklist:
        """One entry a line: a URL (with `://`), a sha256 (64 hexadecimal digits) or a domain; `#`, at the start of a
        line or after white space: a comment.

        Raises `UsageError` naming the line: an entry that nobody understands must not be passed over in silence.
        """
        urls: set[str] = set()
        domains: set[str] = set()
        sha256: set[str] = set()
        for number, line in enumerate(lines, start=1):
            entry = without_comment(line)
            if not entry:
                continue
            try:
                if _SHA256.fullmatch(entry.lower()):
                    sha256.add(entry.lower())
                elif "://" in entry:
                    urls.add(str(parse_web_url(entry)))
                else:
                    domains.add(parse_domain(entry.lower()))
            except Rejected as problem:
                hint = "Write a URL, a domain or a sha256."
                raise UsageError(f"{source} line {number}: {problem.detail}. {hint}") from problem
        return cls(frozenset(urls), frozenset(domains), frozenset(sha256))

    @classmethod
    def from_files(cls, paths: Iterable[Path]) -> Blocklist:
        """Read and join blocklist files. Raises `UsageError` for a bad line or a missing file."""
        lists = []
        for path in paths:
            try:
                with path.open(encoding="utf-8") as lines:
                    lists.append(cls.from_lines(lines, str(path)))
            except (OSError, UnicodeError) as problem:
                raise UsageError(f"blocklist {path} cannot be read: {problem}. Nothing was fetched.") from problem
        return cls(
            frozenset().union(*(one.urls for one in lists)),
            frozenset().union(*(one.domains for one in lists)),
            frozenset().union(*(one.sha256 for one in lists)),
        )

    def check_url(self, url: WebUrl) -> None:
        """Raises `Rejected(BLOCKED)` for a listed URL, or a host in a listed domain."""
        if str(url) in self.urls:
            raise Rejected(Outcome.BLOCKED, "URL is on the blocklist")
        labels = url.host.split(".")
        for start in range(len(labels) if self.domains else 0):
            domain = ".".join(labels[start:])
            if domain in self.domains:
                raise Rejected(Outcome.BLOCKED, f"domain {domain} is on the blocklist")

    def check_body(self, body: bytes) -> None:
        """Raises `Rejected(BLOCKED)` if the bytes are a listed file."""
        if self.sha256:
            self.check_sha256(hashlib.sha256(body).hexdigest())

    def check_sha256(self, hex_digest: str) -> None:
        """Raises `Rejected(BLOCKED)` if the digest is that of a listed file."""
        if hex_digest in self.sha256:
            raise Rejected(Outcome.BLOCKED, "sha256 is on the blocklist")
