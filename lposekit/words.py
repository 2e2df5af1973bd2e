"""Numbers in sentences."""

from __future__ import annotations


def counted(number: int, one: str, many: str = "") -> str:
    """`1 image`, `2,000 images`; `many`: the plural, if it is not made with an s."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def per_second(rate: float, what: str) -> str:
    """`1,234.5 rows/s`, `0.043 rows/s`: a slow rate is never shown as none."""
    return f"{rate:,.1f} {what}/s" if rate >= 1 else f"{rate:.2g} {what}/s"


def seconds_in_words(seconds: float) -> str:
    """About how long, short: `12 s`, `3 min`, `5 h 20 min`, `2 d 4 h`."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 100:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min"
    return f"{hours // 24} d {hours % 24} h"
