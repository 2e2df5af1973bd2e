"""How much of a row's address is stored: a dataset is shared, and a query may hold a key to somebody's files."""

from __future__ import annotations

import re

from lposekit.records import StoredQuery, without_user

_SECRET = re.compile(
    r"""(?ix) token | secret | passw | pwd | auth(?!or) | signature | credential | session | hmac
    | api[-_]?key | access[-_]?key | ^(?: sig | key | sid | jwt | policy | key-pair-id | x-amz-.* | x-goog-.* )$
    """
)
"""Names of parameters whose values open something: of signed addresses of object stores, of APIs, of sessions."""


ADDRESS = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]{0,40}://[^\s\"'<>\\]+")
"""An address, anywhere in a text. No registered scheme is longer than 41 characters; without a limit, a text of letters
takes quadratic time."""


def stored_address(text: str, query: StoredQuery) -> str:
    """`text`, if it is an address, without user name and password, and with as much of its query as asked for.

    Args:
        query: `all`; `none`; or `safe`, all but parameters that look like keys. The part behind `#` goes the same way.
    """
    shown = without_user(text) if "@" in text else text
    if query == "all" or "://" not in shown:
        return shown
    address, _, fragment = shown.partition("#")
    address, _, parameters = address.partition("?")
    kept = ("", "") if query == "none" else (_without_secrets(parameters), _without_secrets(fragment))
    return address + "".join(mark + part for mark, part in zip("?#", kept, strict=True) if part)


def _without_secrets(parameters: str) -> str:
    parts = parameters.split("&")
    return "&".join(part for part in parts if "=" not in part or not _SECRET.search(part.partition("=")[0]))
