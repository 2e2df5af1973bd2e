"""`lposekit retry DIR --only dns,timeout`: fetch rows of a dataset again, and put the results into their shards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated

from lposekit.commands.flags import load
from lposekit.commands.output import finish
from lposekit.commands.registry import COMMANDS
from lposekit.setting_flags import Alias
from lposekit.setting_values import FLAG_ONLY, Positive, Seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryLimits:
    """Limits for one video; default: those with which the folder was built."""

    timeout_s: Seconds | None = None
    """Time limit for one video."""
    heartbeat_timeout_s: Seconds | None = None
    """Longest time without a frame decoded or written."""
    memory_bytes: Positive | None = None
    """Memory limit of the process that decodes and encodes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RetrySettings:
    """Settings of `lposekit retry`."""

    data: Path | None = None
    """The dataset folder; the flag may be omitted."""
    only: Annotated[str | None, Alias("--outcome")] = None
    """Outcomes to retry, separated by commas: `dns,timeout`; default: network failures that may pass, and crashes."""
    workers: Positive | None = None
    """Shards built in parallel; default: one per core."""
    ray_address: str | None = None
    """Address of a running Ray cluster; default: start a local one."""
    weights_dir: Path | None = None
    """First folder to search for weights; then LPOSEKIT_WEIGHTS, the cache, the publisher (docs/guide/models.md)."""
    allow_private_addresses: Annotated[bool, FLAG_ONLY] = False
    """Also fetch from private addresses. Flag only: refused in settings files and the environment."""
    allow_outside_paths: Annotated[bool, FLAG_ONLY] = False
    """Also read videos outside of the folder that their paths count from. Flag only, as the one before."""
    limits: RetryLimits = field(default_factory=RetryLimits)


def run(argv: Sequence[str]) -> int:
    loaded = load(COMMANDS["retry"], RetrySettings, argv)
    settings = loaded.settings
    assert settings.data is not None
    from pipelines.recipes import retry

    report = retry(
        settings.data,
        [name.strip() for name in (settings.only or "").split(",") if name.strip()],
        allow_private_addresses=settings.allow_private_addresses,
        allow_outside_paths=settings.allow_outside_paths,
        workers=settings.workers,
        ray_address=settings.ray_address,
        weights_dir=settings.weights_dir,
        limits={name: value for name, value in asdict(settings.limits).items() if value is not None},
        dry_run=loaded.dry_run,
    )
    return finish(report, as_json=loaded.json)
