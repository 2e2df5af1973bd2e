"""Every way a row can end, and every way a command can fail."""

from __future__ import annotations

import enum
from typing import ClassVar


class Outcome(enum.StrEnum):
    """How one input row ended. A closed set: each row of a dataset has exactly one of these.

    The values are on disk (parquet column ``outcome``, ``_stats.json``, the dataset card); never rename one.
    """

    KEPT = "kept"
    # the picture was seen, and a rule turned it down
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


NETWORK_OUTCOMES = frozenset(
    {
        Outcome.DNS,
        Outcome.CONNECT,
        Outcome.TLS,
        Outcome.TIMEOUT,
        Outcome.HTTP_5XX,
        Outcome.SHORT_READ,
    }
)
"""Outcomes that another try may change: what `lposekit retry` takes by default and the circuit breaker counts."""

SEEN_OUTCOMES = frozenset(
    {
        Outcome.KEPT,
        Outcome.FEW_KEYPOINTS,
        Outcome.NO_PERSON,
        Outcome.POSE_FAILED,
        Outcome.NO_CLIP,
        Outcome.TOO_SHORT,
    }
)
"""Outcomes of rows whose picture or video was fetched, decoded and judged by what it shows: what `--min-success`
counts."""


class Rejected(Exception):
    """One row is turned down; ``outcome`` says how and ``detail`` says why.

    ``str()`` is ``"outcome: detail"``, the form that img2dataset's ``error_message`` carries.
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
