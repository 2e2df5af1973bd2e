"""Settings of the transport guard. Values only: how they are found and merged is `lposekit.settings`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from lposekit.setting_values import MAY_CHANGE, NotNegative, Positive, Seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class TransportSettings:
    """How files are fetched."""

    connect_timeout_s: Annotated[Seconds, MAY_CHANGE] = 5.0
    """Longest wait for a connection, TLS handshake included."""
    idle_timeout_s: Annotated[Seconds, MAY_CHANGE] = 5.0
    """Longest silence of a server in the middle of an answer."""
    total_timeout_s: Annotated[Seconds, MAY_CHANGE] = 20.0
    """Longest time for one row, all redirects and retries included."""
    max_body_bytes: Positive = 32 * 2**20
    """Largest body, as sent and after decoding; larger ones end as `too_big`."""
    max_redirects: NotNegative = 5
    """Redirects followed for one row; more end as `redirect`."""
    retries: Annotated[NotNegative, MAY_CHANGE] = 2
    """Further tries after a temporary failure (429, 5xx, reset), with jittered back-off and Retry-After."""
    user_agent: Annotated[str, MAY_CHANGE] = "lposekit/0.1 (dataset builder; +https://github.com/lposekit/lposekit)"
    """Who asks, as servers see it. Set it to a name and contact of your own."""
    robots: bool = True
    """Obey robots.txt (fetched once an origin, cached)."""
    opt_out_headers: bool = True
    """Obey X-Robots-Tag (noai, noimageai, noindex, noimageindex, noml) and TDM reservation."""
    verify_hash: bool = True
    """Check the list's md5, sha256 or hash column, where there is one."""
    blocklist: Annotated[tuple[Path, ...], MAY_CHANGE] = ()
    """Files with one URL, domain or sha256 a line: never fetched, and refused by hash after the fetch."""
    ca_file: Annotated[Path | None, MAY_CHANGE] = None
    """Certificates to trust instead of the system's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchSettings(TransportSettings):
    """How pictures are fetched: as other files, many at the same time."""

    per_host_connections: Annotated[Positive, MAY_CHANGE] = 8
    """Connections open to one host at the same time, in one worker."""
    threads: Annotated[Positive, MAY_CHANGE] = 64
    """Downloads at the same time, in one worker."""
    dedup: bool = False
    """Turn down a picture whose sha256 already occurred in its shard."""
