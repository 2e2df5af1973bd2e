"""Settings of `lposekit push`. Values only: how they are found and merged is `lposekit.settings`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from lposekit.setting_values import FLAG_ONLY


@dataclass(frozen=True, slots=True, kw_only=True)
class PushSettings:
    """Settings of `lposekit push`."""

    source: Path | None = None
    """A dataset folder, or a run folder of `lposekit train`; the flag may be omitted."""
    to: str | None = None
    """Where to: `hub:USER/NAME` (Hugging Face), an object store (`s3://bucket/prefix`), or a folder."""
    with_images: bool = False
    """Of a dataset: push the images or clips too. By default only their addresses, captions and poses go: an index."""
    blocklist: tuple[Path, ...] = ()
    """Files with one URL, domain or sha256 per line: rows that they name are left out."""
    private: bool = False
    """Of a new repository on the hub: make it private."""
    allow_private_addresses: Annotated[bool, FLAG_ONLY] = False
    """Also tell rows whose address means something on one network only. Flag only."""
