"""Web addresses as the fetcher understands them: parsed once, strictly, before anything is opened."""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass
from urllib.parse import urljoin

from urllib3.exceptions import LocationParseError
from urllib3.util import parse_url

from lposekit.errors import Outcome, Rejected

MAX_URL_CHARS = 8192
DEFAULT_PORTS = {"http": 80, "https": 443}
_MORE_THAN_A_HOST = re.compile(r"[/?#@\\]|:(?![^\[]*\])")
"""A path, query, fragment or user name; or a port, which is a colon outside the brackets of an IPv6 literal."""
_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_HOST_NAME = re.compile(rf"(?!.{{254}})(?:{_LABEL}\.)*{_LABEL}")
# Below 1024 only the web's own; above, not where databases and other services listen without a password
# (most are "bad ports" of the Fetch standard, https://fetch.spec.whatwg.org/#port-blocking).
_FIRST_FREE_PORT = 1024
_FOREIGN_PORTS = frozenset(
    {1433, 1719, 1720, 1723, 2049, 2375, 2379, 3306, 3659, 4045, 4190, 5060, 5061, 5432, 6000, 6379}
)
_FOREIGN_PORTS |= {6566, 6665, 6666, 6667, 6668, 6669, 6679, 6697, 9200, 10080, 11211, 27017}


@dataclass(frozen=True, slots=True)
class WebUrl:
    """An http(s) address.

    `host` is lower case ASCII, an IPv6 literal without brackets; `target` is path and query, percent-encoded.
    """

    scheme: str
    host: str
    port: int
    target: str

    @property
    def authority(self) -> str:
        """`host:port`, the port always named: `example.org:443`, `[::1]:8080`."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def origin(self) -> str:
        return f"{self.scheme}://{self.authority}"

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = "" if self.port == DEFAULT_PORTS[self.scheme] else f":{self.port}"
        return f"{self.scheme}://{host}{port}{self.target}"


def parse_web_url(text: object) -> WebUrl:
    """Parse an absolute http(s) URL, percent-encoding what has to be.

    Raises `Rejected(BAD_URL)` for every other scheme, for missing or malformed parts, for user names and passwords
    (nothing of the kind may travel from a public list to a server), and for ports of services that are not the web.
    """
    if not isinstance(text, str) or not text.strip():
        raise Rejected(Outcome.BAD_URL, "no URL")
    if len(text) > MAX_URL_CHARS:
        raise Rejected(Outcome.BAD_URL, f"URL of {len(text)} characters (limit {MAX_URL_CHARS})")
    try:
        parts = parse_url(text.strip())
    except LocationParseError as problem:
        raise Rejected(Outcome.BAD_URL, f"not a URL: {problem!s:.200}") from problem
    if parts.scheme not in DEFAULT_PORTS:
        raise Rejected(Outcome.BAD_URL, f"scheme {parts.scheme or 'missing'!r} is not http or https")
    if parts.auth is not None:
        raise Rejected(Outcome.BAD_URL, "user name or password in the URL")
    port = DEFAULT_PORTS[parts.scheme] if parts.port is None else parts.port
    if port in _FOREIGN_PORTS or (port < _FIRST_FREE_PORT and port not in DEFAULT_PORTS.values()):
        raise Rejected(Outcome.BAD_URL, f"port {port} is not a port of the web")
    return WebUrl(parts.scheme, _checked_host(parts.host), port, parts.request_uri)


def parse_domain(text: str) -> str:
    """The host name, or address, that a line of a list names: `example.org`, `*.example.org`.

    Raises `Rejected(BAD_URL)` for more than that. `example.org/photos/1.jpg` is an address whose scheme was left out:
    its host, taken for the whole line, would stand for all that the host ever served.
    """
    if _MORE_THAN_A_HOST.search(text):
        raise Rejected(Outcome.BAD_URL, f"not a domain, and no URL without http:// or https://: {text!r:.80}")
    return parse_web_url(f"http://{text.removeprefix('*.').strip('.')}/").host


def redirect_target(base: WebUrl, location: str) -> WebUrl:
    """The address a `Location` header points to; raises `Rejected(REDIRECT)` if that is not a web address."""
    # http.client decodes headers as latin-1; most servers that send other letters mean UTF-8.
    with contextlib.suppress(UnicodeError):
        location = location.encode("iso-8859-1").decode("utf-8")
    try:
        return parse_web_url(urljoin(str(base), location.strip()))
    except (Rejected, ValueError) as problem:
        detail = problem.detail if isinstance(problem, Rejected) else str(problem)
        raise Rejected(Outcome.REDIRECT, f"redirect to a bad address: {detail}") from problem


def _checked_host(host: str | None) -> str:
    if host and host.startswith("[") and host.endswith("]"):
        return host[1:-1]
    name = (host or "").removesuffix(".")  # example.org. is example.org, for slots, blocklist and certificates too
    if not _HOST_NAME.fullmatch(name):
        raise Rejected(Outcome.BAD_URL, f"not a host name: {host!r:.80}")
    return name
