"""Settings of the transport guard. Values only: how they are found and merged is `lposekit.settings`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from lposekit.records import StoredQuery
from lposekit.setting_values import MAY_CHANGE, NotNegative, Positive, Seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class TransportSettings:
    """How files are fetched."""

    connect_timeout_s: Annotated[Seconds, MAY_CHANGE] = 5.0
    """Timeout for establishing a connection, including the TLS handshake."""
    idle_timeout_s: Annotated[Seconds, MAY_CHANGE] = 5.0
    """Longest time without data from the server during a response."""
    min_bytes_per_s: Annotated[NotNegative, MAY_CHANGE] = 1024
    """Minimum transfer rate, taken over `idle_timeout_s`; slower answers end as `timeout`. 0: none."""
    total_timeout_s: Annotated[Seconds, MAY_CHANGE] = 20.0
    """Timeout for one row, including all redirects and retries."""
    host_timeouts: Annotated[Positive, MAY_CHANGE] = 3
    """After this many timeouts in a row a host rests, and its rows end as `timeout` at once."""
    host_rest_s: Annotated[Seconds, MAY_CHANGE] = 60.0
    """First rest of such a host; each further one is twice as long, at most 10 minutes."""
    max_body_bytes: Positive = 32 * 2**20
    """Maximum size of a body, both as sent and decoded; larger ones end as `too_big`."""
    max_redirects: NotNegative = 5
    """Maximum number of redirects for one row; more end as `redirect`."""
    retries: Annotated[NotNegative, MAY_CHANGE] = 2
    """Retries after a temporary failure (429, 5xx, reset), with jittered back-off and Retry-After."""
    user_agent: Annotated[str, MAY_CHANGE] = "lposekit/0.1 (dataset builder; +https://github.com/lposekit/lposekit)"
    """User-Agent header. Set it to your own name and contact."""
    robots: bool = True
    """Obey robots.txt (fetched once per origin, cached)."""
    opt_out_headers: bool = True
    """Obey X-Robots-Tag (noai, noimageai, noindex, noimageindex, noml) and TDM reservations."""
    verify_hash: bool = True
    """Check files against the md5, sha256 or hash column of the list, if there is one."""
    blocklist: Annotated[tuple[Path, ...], MAY_CHANGE] = ()
    """Files with one URL, domain or sha256 per line. Matching URLs are never fetched; matching files are refused."""
    # May change: it decides what is told of a row, not what becomes of it; and folders from before it can be continued.
    stored_query: Annotated[StoredQuery, MAY_CHANGE] = "safe"
    """What of an address's query is stored: `safe`, all but parameters that look like keys; `all`; `none`. What is
    fetched is the whole address; a later `retry` has the stored one."""
    ca_file: Annotated[Path | None, MAY_CHANGE] = None
    """Certificates to trust instead of those of the system."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchSettings(TransportSettings):
    """How images are fetched: as other files, with many parallel downloads."""

    per_host_connections: Annotated[Positive, MAY_CHANGE] = 8
    """Maximum number of open connections to one host, per worker."""
    threads: Annotated[Positive, MAY_CHANGE] = 64
    """Parallel downloads per worker."""
    dedup: bool = False
    """Reject images whose sha256 already occurred in the same shard."""
