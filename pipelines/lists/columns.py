"""Which column of a list is which (LAION spells them in many ways), and what looks dangerous about a list."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence

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
    "{what}. LAION-5B, which was published in this form, was withdrawn in December 2023 because it links to illegal "
    "images; Re-LAION-5B (research-safe) is free of those links. Say which one this is with --list-source re-laion-5b, "
    "or other."
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


def safety_warnings(lists: Mapping[str, Collection[str]], source: str | None = None) -> list[str]:
    """Warnings about the lists of a run, each once; empty for lists that look harmless.

    Args:
        lists: their columns, by path.
        source: what the user says that they are, if anything.
    """
    warnings = []
    if any(find_column(columns, SAFETY_COLUMNS) is None for columns in lists.values()):
        warnings.append(NO_SAFETY_COLUMN)
    seen = [what for path, columns in lists.items() if (what := _laion5b_signs(path, columns))]
    if seen and source in (None, "laion-5b"):
        more = f" (so {'does 1 more list' if len(seen) == 2 else f'do {len(seen) - 1} more lists'})" if seen[1:] else ""
        warnings.append(LOOKS_LIKE_LAION5B.format(what=seen[0] + more))
    return warnings


def _laion5b_signs(path: str, columns: Collection[str]) -> str:
    """What about a list looks like LAION's withdrawn ones; empty for others. LAION's first releases write URL and TEXT
    in capitals, beside a set of columns of their own; so do lists that were made of them, and Re-LAION."""
    if _RELAION_NAME.search(path):
        return ""
    folder_and_name = path.split("/")[-2:]
    named = _LAION5B_NAME.search("/".join(folder_and_name))
    if named:
        return f"{folder_and_name[-1]} has {named[0]!r} in its name or that of its folder"
    own = [column for column in columns if column.lower() in _LAION5B_COLUMNS]
    if {"URL", "TEXT"} <= set(columns) and len(own) >= 4:
        return f"{folder_and_name[-1]} has columns that are named as LAION's: URL, TEXT, {', '.join(own)}"
    return ""
