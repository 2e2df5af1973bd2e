"""Settings of `lposekit materialize`. Values only: how they are found and merged is `lposekit.settings`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from lposekit.setting_values import FLAG_ONLY, Fraction, Minutes, NotNegative, Positive
from pipelines.fetch.settings import FetchSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class MaterializeSettings:
    """Settings of `lposekit materialize`. How images are decoded and stored, the index says."""

    index: Path | None = None
    """The index: a folder, or the address of one (`s3://bucket/prefix`); the flag may be omitted."""
    output: Path | None = None
    """The dataset folder to write; the same command continues it."""
    again: str | None = None
    """Of a finished folder, fetch the rows with these outcomes again, separated by commas: `timeout,http_5xx`."""
    workers: Positive | None = None
    """Shards fetched in parallel; default: one per core."""
    decode_processes: NotNegative = 1
    """Killable decoder processes per worker."""
    ray_address: str | None = None
    """Address of a running Ray cluster; default: start a local one."""
    allow_private_addresses: Annotated[bool, FLAG_ONLY] = False
    """Also fetch from private addresses. Flag only: refused in settings files and the environment."""
    min_success: Fraction | None = None
    """Exit with code 3 if a smaller fraction of the rows was fetched and decoded."""
    network_failure_limit: Fraction | None = 0.9
    """Stop (exit code 3) if more than this fraction of the last rows failed on the network; `none`: never."""
    stall_minutes: Minutes = 30.0
    """End (exit code 1) after so many minutes without any progress, and say what was waited for."""
    fetch: FetchSettings = field(default_factory=FetchSettings)
