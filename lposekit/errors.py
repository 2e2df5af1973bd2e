"""Every way a row can end, and every way a command can fail."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import ClassVar, Literal


class Outcome(enum.StrEnum):
    """How one input row ended. A closed set: each row of a dataset has exactly one of these.

    The values are on disk (parquet column `outcome`, `_stats.json`, the dataset card); never rename one.
    """

    KEPT = "kept"
    # the image was seen, and a rule turned it down
    FEW_KEYPOINTS = "few_keypoints"
    NO_PERSON = "no_person"
    POSE_FAILED = "pose_failed"
    TOO_SMALL = "too_small"
    # never fetched, by a rule
    METADATA_FILTER = "metadata_filter"
    BLOCKED = "blocked"
    DUPLICATE = "duplicate"
    BAD_URL = "bad_url"
    PRIVATE_ADDRESS = "private_address"
    # the network
    DNS = "dns"
    CONNECT = "connect"
    TLS = "tls"
    TIMEOUT = "timeout"
    REDIRECT = "redirect"
    HTTP_4XX = "http_4xx"
    HTTP_5XX = "http_5xx"
    SHORT_READ = "short_read"
    # the owner's word
    ROBOTS = "robots"
    OPT_OUT = "opt_out"
    REMOVED = "removed"
    # the bytes
    TOO_BIG = "too_big"
    BAD_ENCODING = "bad_encoding"
    NOT_IMAGE = "not_image"
    TOO_MANY_PIXELS = "too_many_pixels"
    CORRUPT = "corrupt"
    HASH_MISMATCH = "hash_mismatch"
    WORKER_CRASH = "worker_crash"
    # video only
    NO_VIDEO_STREAM = "no_video_stream"
    TOO_SHORT = "too_short"
    NO_CLIP = "no_clip"
    DECODE_HANG = "decode_hang"

    @property
    def facts(self) -> OutcomeFacts:
        """What the program knows of it."""
        return OUTCOME_FACTS[self]


@dataclass(frozen=True, slots=True)
class OutcomeFacts:
    """All that the program knows of one outcome.

    `stage`: where a row ends: `plan` (never fetched), `fetch`, `decode`, `judge` (decoded, and judged by what
    it shows) or `kept`. `group`: its place in reports. `text`: what it means, for the reader of a report.
    `retryable`: another try may change it; what `lposekit retry` takes by default. `thumbnail`: a small image of
    the row may be kept for the report; never of a refused or unsafe one. `advice`: what to do if a run is full of it.
    """

    stage: Literal["plan", "fetch", "decode", "judge", "kept"]
    group: Literal["kept", "judged", "rule", "owner", "network", "bytes"]
    text: str
    retryable: bool = False
    thumbnail: bool = False
    advice: str = ""

    @property
    def network(self) -> bool:
        """The network failed, not the file: what the circuit breaker counts."""
        return self.group == "network" and self.retryable

    @property
    def judged(self) -> bool:
        """The image or video was fetched, decoded and judged: what `--min-success` counts."""
        return self.stage in ("judge", "kept")

    @property
    def before_decode(self) -> bool:
        """img2dataset counts the row as `failed_to_download`."""
        return self.stage in ("plan", "fetch")


_AGAIN = "`lposekit retry` takes it again"
OUTCOME_FACTS: dict[Outcome, OutcomeFacts] = {
    Outcome.KEPT: OutcomeFacts("kept", "kept", "passed every rule; in the tars"),
    Outcome.FEW_KEYPOINTS: OutcomeFacts(
        "judge", "judged", "a person, but too few of the 17 keypoints detected", thumbnail=True
    ),
    Outcome.NO_PERSON: OutcomeFacts("judge", "judged", "no person that is sure and large enough", thumbnail=True),
    Outcome.POSE_FAILED: OutcomeFacts("judge", "judged", "the pose model failed on it", retryable=True),
    Outcome.TOO_SMALL: OutcomeFacts(
        "decode", "judged", "smaller, or more elongated, than the settings allow", thumbnail=True
    ),
    Outcome.METADATA_FILTER: OutcomeFacts("plan", "rule", "dropped by a filter on the list's columns"),
    Outcome.BLOCKED: OutcomeFacts("plan", "rule", "on the blocklist"),
    Outcome.DUPLICATE: OutcomeFacts("plan", "rule", "the same bytes came earlier"),
    Outcome.BAD_URL: OutcomeFacts("plan", "rule", "not an http(s) address"),
    Outcome.PRIVATE_ADDRESS: OutcomeFacts("plan", "rule", "leads into a private network; not contacted"),
    Outcome.DNS: OutcomeFacts(
        "fetch",
        "network",
        "the name has no address (many of these: look at the resolver)",
        retryable=True,
        advice="names could not be resolved: check the resolver of this machine",
    ),
    Outcome.CONNECT: OutcomeFacts(
        "fetch",
        "network",
        "no connection to the host",
        retryable=True,
        advice="hosts did not answer: check the network and its firewall",
    ),
    Outcome.TLS: OutcomeFacts(
        "fetch",
        "network",
        "no secure connection (certificate or protocol)",
        retryable=True,
        advice="certificates were refused: check the system's certificates (or fetch.ca-file)",
    ),
    Outcome.TIMEOUT: OutcomeFacts(
        "fetch",
        "network",
        f"too slow; {_AGAIN}",
        retryable=True,
        advice="servers were too slow: fewer downloads at a time, or larger time limits, may help",
    ),
    Outcome.REDIRECT: OutcomeFacts("fetch", "network", "too many or bad redirects"),
    Outcome.HTTP_4XX: OutcomeFacts(
        "fetch", "network", "the server says: gone, or not for you", advice="files are gone: usual for old lists"
    ),
    Outcome.HTTP_5XX: OutcomeFacts(
        "fetch",
        "network",
        f"the server failed; {_AGAIN}",
        retryable=True,
        advice="servers failed: run `lposekit retry` later",
    ),
    Outcome.SHORT_READ: OutcomeFacts("fetch", "network", f"the connection broke; {_AGAIN}", retryable=True),
    Outcome.ROBOTS: OutcomeFacts("fetch", "owner", "the site's robots.txt says no"),
    Outcome.OPT_OUT: OutcomeFacts("fetch", "owner", "a header or the site opts out of AI or data mining"),
    Outcome.REMOVED: OutcomeFacts("plan", "owner", "taken out of the dataset by `lposekit remove`"),
    Outcome.TOO_BIG: OutcomeFacts("fetch", "bytes", "more bytes than the settings allow"),
    Outcome.BAD_ENCODING: OutcomeFacts("fetch", "bytes", "compressed in a way that cannot be undone"),
    Outcome.NOT_IMAGE: OutcomeFacts("decode", "bytes", "not an image"),
    Outcome.TOO_MANY_PIXELS: OutcomeFacts("decode", "bytes", "more pixels than the settings allow"),
    Outcome.CORRUPT: OutcomeFacts("decode", "bytes", "damaged"),
    Outcome.HASH_MISMATCH: OutcomeFacts("fetch", "bytes", "no longer the image that the list means"),
    Outcome.WORKER_CRASH: OutcomeFacts("decode", "bytes", "crashed a worker, again and again", retryable=True),
    Outcome.NO_VIDEO_STREAM: OutcomeFacts("decode", "bytes", "no video in the file"),
    Outcome.TOO_SHORT: OutcomeFacts("judge", "judged", "shorter than one clip"),
    Outcome.NO_CLIP: OutcomeFacts("judge", "judged", "every clip window was dropped"),
    Outcome.DECODE_HANG: OutcomeFacts("decode", "bytes", "the decoder hung or was too slow"),
}
"""The one table of what each outcome means."""


class Rejected(Exception):
    """One row is turned down; `outcome` says how and `detail` says why.

    `str()` is `"outcome: detail"`, the form that img2dataset's `error_message` carries.
    """

    def __init__(self, outcome: Outcome, detail: str) -> None:
        super().__init__(outcome, detail)
        self.outcome = outcome
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.outcome.value}: {self.detail}"


class LposekitError(Exception):
    """The work failed. The message says what is wrong, where, and what to do next."""

    exit_code: ClassVar[int] = 1


class UsageError(LposekitError):
    """The command or its settings cannot be used as they are."""

    exit_code: ClassVar[int] = 2


class LimitsError(LposekitError):
    """The work ended, but outside the limits set: a shard uncommitted, or too few rows succeeded."""

    exit_code: ClassVar[int] = 3


class Interrupted(LposekitError):
    """The user asked to stop; everything committed so far is valid."""

    exit_code: ClassVar[int] = 130
