"""From values to one HTML file: templates, formats, and a write that leaves no half page."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

import jinja2
from markupsafe import Markup, escape

from lposekit.shards.files import write_bytes
from lposekit.words import counted

PUBLIC_NAME = "public.html"
"""File name of a page that may be shown to others, beside the private one."""

_FOLDER = Path(__file__).parent
_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]{0,31}://\S+", re.IGNORECASE)  # bounded: strangers write these texts


@cache
def _templates(folder: Path) -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([folder, _FOLDER]),
        # on for everything: captions, addresses and error texts come from strangers
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"share": share, "web_address": web_address, "size": file_size, "duration": duration}
    environment.filters["prose"] = prose
    environment.filters["form"] = lambda number, one: counted(number, one).partition(" ")[2]
    environment.filters["number"] = lambda value: f"{value:,}"
    environment.globals["style_sheet"] = Markup((_FOLDER / "report.css").read_text(encoding="ascii"))
    script = (_FOLDER / "report.js").read_text(encoding="ascii")
    environment.globals["script"] = Markup(script)
    environment.globals["script_hash"] = "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return environment


def write_page(path: Path, template: str, *, folder: Path = _FOLDER, **values: object) -> Path:
    """Render the template of that name to `path`, atomically; returns the path.

    Args:
        folder: where the template lies; what it includes or extends may also come from `lposekit/report`.

    Raises:
        LposekitError: the disk is full or the folder cannot be written; the page of before stays.
    """
    # a text may hold half of a surrogate pair, which UTF-8 cannot say
    page = _templates(folder).get_template(template).render(**values).encode("utf-8", "replace")
    write_bytes(path, page)
    return path


def share(part: float, whole: float) -> str:
    """`part` of `whole` in per cent; a dash for nothing of nothing."""
    if not whole:
        return "-"
    if part in (0, whole):
        return "100%" if part else "0%"
    permille = round(1000 * part / whole)
    if permille in (0, 1000):
        return "<0.1%" if permille == 0 else ">99.9%"
    return f"{permille / 10:.1f}%"


def file_size(num_bytes: float) -> str:
    """Bytes in a unit that keeps the number short."""
    for unit in ("B", "kB", "MB", "GB"):
        if num_bytes < 1000:
            return f"{num_bytes:.3g} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:,.1f} TB"


def prose(text: str) -> Markup:
    """A text of ours or of strangers, escaped, with `code` between backticks set as code."""
    return Markup(re.sub(r"`([^`]{1,200})`", r"<code>\1</code>", str(escape(text))))


def duration(seconds: float) -> str:
    """Seconds as `1 h 02 min`, `3 min 20 s` or `4.2 s`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def web_address(value: object) -> str | None:
    """The value if it is an http(s) address that a link may lead to; None for `javascript:` and the like."""
    text = str(value or "").strip()
    return text if re.match(r"https?://[^\s]", text, re.IGNORECASE) else None


def flatten(value: Mapping[str, object], prefix: str = "") -> list[tuple[str, str]]:
    """Nested settings as lines (`fetch.timeout_s`, `20.0`), in the order given."""
    lines: list[tuple[str, str]] = []
    for name, item in value.items():
        if isinstance(item, Mapping):
            lines += flatten(item, f"{prefix}{name}.")
        elif isinstance(item, Sequence) and not isinstance(item, str | bytes):
            lines.append((f"{prefix}{name}", ", ".join(_plain(entry) for entry in item) or "none"))
        else:
            lines.append((f"{prefix}{name}", _plain(item)))
    return lines


def _plain(value: object) -> str:
    if isinstance(value, Mapping):
        return "; ".join(f"{name} {text}" for name, text in flatten(value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "none" if value is None else str(value)


def without_places(text: str) -> str:
    """The text without web addresses and file paths, for a page that is made public."""
    text = _ADDRESS.sub("(address not shown)", text)
    return re.sub(r"(?<![\w.])(?:~|\.{1,2})?/[^\s,;]+|\b[A-Za-z]:\\\S+", "(path not shown)", text)
