"""Does a file still have the hash that the list names? Links of old lists often lead to other images by now."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from lposekit.errors import Outcome, Rejected

_ALGORITHM_BY_DIGITS = {32: "md5", 40: "sha1", 64: "sha256", 128: "sha512"}
_NAMED_COLUMNS = ("sha256", "sha512", "md5", "sha1")
_HEX = re.compile(r"[0-9a-f]+")


@dataclass(frozen=True, slots=True)
class ContentHash:
    """A hash of a file's bytes, as a list gives it."""

    algorithm: str
    hex_digest: str

    def check(self, body: bytes) -> None:
        """Raises `Rejected(HASH_MISMATCH)` if `body` is not the image that was listed."""
        self._compare(hashlib.new(self.algorithm, body, usedforsecurity=False).hexdigest())

    def check_file(self, path: Path) -> None:
        """The same for a file that is too large for memory.

        Raises:
            OSError: it cannot be read.
        """
        with path.open("rb") as stream:
            digest = hashlib.file_digest(stream, lambda: hashlib.new(self.algorithm, usedforsecurity=False))
        self._compare(digest.hexdigest())

    def _compare(self, found: str) -> None:
        if found != self.hex_digest:
            raise Rejected(Outcome.HASH_MISMATCH, f"{self.algorithm} is {found}, the list says {self.hex_digest}")


def listed_hash(columns: Mapping[str, object]) -> ContentHash | None:
    """The hash of a row, from its column `sha256`, `sha512`, `md5`, `sha1`, or a hexadecimal `hash`.

    None where there is none, or none of the right length. LAION's integer `hash` joins its tables (it is made of URL
    and caption), says nothing about the image, and is passed over.
    """
    by_name = {name.lower(): value for name, value in columns.items()}
    for name in (*_NAMED_COLUMNS, "hash"):
        value = by_name.get(name)
        digest = value.strip().lower() if isinstance(value, str) else ""
        algorithm = _ALGORITHM_BY_DIGITS.get(len(digest)) if _HEX.fullmatch(digest) else None
        if algorithm is not None and name in (algorithm, "hash"):
            return ContentHash(algorithm, digest)
    return None
