"""Which column of a list is which (LAION spells them in many ways), and what looks dangerous about a list."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

from lposekit.errors import UsageError
from lposekit.setting_values import nearest

URL_ALIASES = ("url", "image_url", "img_url")
CAPTION_ALIASES = ("caption", "text", "alt", "alt_text", "top_caption")
METADATA_ALIASES = {
    "punsafe": ("punsafe", "p_unsafe"),
    "pwatermark": ("pwatermark", "p_watermark"),
    "similarity": ("similarity", "clip_similarity", "clip_b32_similarity_score"),
    "aesthetic": ("aesthetic", "aesthetic_score"),
    "width": ("width", "original_width"),
    "height": ("height", "original_height"),
}
SAFETY_COLUMNS = ("punsafe", "p_unsafe", "nsfw", "safety", "unsafe")
_LAION5B_COLUMNS = ("width", "height", "similarity", "hash", "punsafe", "pwatermark", "language", "nsfw", "sample_id")
_LAION5B_NAME = re.compile(
    r"laion[-_]?(5b|2b|1b|art|high[-_]?res|aesthetic)|laion.{0,3}(2b|5b)[-_]?(en|multi)", re.IGNORECASE
)
_RELAION_NAME = re.compile(r"re[-_]?laion", re.IGNORECASE)

NO_SAFETY_COLUMN = (
    "the list has no safety column (punsafe, NSFW): nothing says which images are unsafe, and none is filtered out. "
    "Prefer a list that was checked, as Re-LAION-5B research-safe."
)
LOOKS_LIKE_LAION5B = (
    "{path} looks like a part of LAION-5B, which was withdrawn in December 2023 because it links to illegal images. "
    "Use Re-LAION-5B (research-safe), where those links are removed; if this is Re-LAION, a file or folder name with "
    "'re-laion' in it says so."
)


def find_column(columns: Collection[str], aliases: Sequence[str]) -> str | None:
    """The column that one of the aliases names, whatever its case; an earlier alias wins."""
    by_lower = {}
    for column in columns:
        if isinstance(column, str):  # a csv line with too many fields keeps them under None
            by_lower.setdefault(column.lower(), column)
    return next((by_lower[alias] for alias in aliases if alias in by_lower), None)


def url_column(path: str, columns: Collection[str], wanted: str | None) -> str:
    """Raises `UsageError`, naming the columns found, if there is none."""
    return _column(path, columns, wanted, URL_ALIASES, "url_column")


def caption_column(path: str, columns: Collection[str], wanted: str | None) -> str:
    """Raises `UsageError`, naming the columns found, if there is none."""
    return _column(path, columns, wanted, CAPTION_ALIASES, "caption_column")


def _column(path: str, columns: Collection[str], wanted: str | None, aliases: Sequence[str], setting: str) -> str:
    flag = "--" + setting.replace("_", "-")
    if wanted is not None:
        if wanted in columns:
            return wanted
        raise UsageError(f"input {path}: {flag} {wanted}: no such column{nearest(wanted, columns)} {_found(columns)}")
    found = find_column(columns, aliases)
    if found is None:
        known = ", ".join(aliases)
        raise UsageError(
            f"input {path}: no column is called {known} (in any case). {_found(columns)} Name it with {flag}."
        )
    return found


def _found(columns: Collection[str]) -> str:
    return f"The columns are: {', '.join(columns)}."


def safety_warnings(path: str, columns: Collection[str]) -> list[str]:
    """Warnings about one list; empty for one that looks harmless."""
    warnings = []
    if find_column(columns, SAFETY_COLUMNS) is None:
        warnings.append(NO_SAFETY_COLUMN)
    nearby = "/".join(path.split("/")[-2:])
    if not _RELAION_NAME.search(path) and (_LAION5B_NAME.search(nearby) or _has_laion5b_columns(columns)):
        warnings.append(LOOKS_LIKE_LAION5B.format(path=path))
    return warnings


def _has_laion5b_columns(columns: Collection[str]) -> bool:
    """LAION's first releases write URL and TEXT in capitals, beside a set of columns of their own."""
    own = {column.lower() for column in columns} & set(_LAION5B_COLUMNS)
    return {"URL", "TEXT"} <= set(columns) and len(own) >= 4
