"""Each outcome in words for the reader of a report, and what to do about it where something can be done."""

from __future__ import annotations

from dataclasses import dataclass

from lposekit.errors import Outcome


@dataclass(frozen=True, slots=True)
class OutcomeWords:
    """``group`` orders and colours the table: kept, judged (seen by the pose model), rule, owner, network, bytes."""

    group: str
    text: str


GROUPS = {
    "kept": "Kept",
    "judged": "Seen, and turned down",
    "rule": "Not fetched, by a rule",
    "owner": "Refused by the owner",
    "network": "Not reached",
    "bytes": "Not usable",
}

OUTCOME_WORDS: dict[Outcome, OutcomeWords] = {
    Outcome.KEPT: OutcomeWords("kept", "passed every rule; in the tars"),
    Outcome.FEW_KEYPOINTS: OutcomeWords("judged", "a person, but too few of the 17 keypoints detected"),
    Outcome.NO_PERSON: OutcomeWords("judged", "no person that is sure and large enough"),
    Outcome.POSE_FAILED: OutcomeWords("judged", "the pose model failed on it"),
    Outcome.TOO_SMALL: OutcomeWords("judged", "smaller, or more elongated, than the settings allow"),
    Outcome.METADATA_FILTER: OutcomeWords("rule", "dropped by a filter on the list's columns"),
    Outcome.BLOCKED: OutcomeWords("rule", "on the blocklist"),
    Outcome.DUPLICATE: OutcomeWords("rule", "the same bytes came earlier"),
    Outcome.BAD_URL: OutcomeWords("rule", "not an http(s) address"),
    Outcome.PRIVATE_ADDRESS: OutcomeWords("rule", "leads into a private network; not contacted"),
    Outcome.ROBOTS: OutcomeWords("owner", "the site's robots.txt says no"),
    Outcome.OPT_OUT: OutcomeWords("owner", "a header or the site opts out of AI or data mining"),
    Outcome.DNS: OutcomeWords("network", "the name has no address (many of these: look at the resolver)"),
    Outcome.CONNECT: OutcomeWords("network", "no connection to the host"),
    Outcome.TLS: OutcomeWords("network", "no secure connection (certificate or protocol)"),
    Outcome.TIMEOUT: OutcomeWords("network", "too slow; `lposekit retry` takes it again"),
    Outcome.REDIRECT: OutcomeWords("network", "too many or bad redirects"),
    Outcome.HTTP_4XX: OutcomeWords("network", "the server says: gone, or not for you"),
    Outcome.HTTP_5XX: OutcomeWords("network", "the server failed; `lposekit retry` takes it again"),
    Outcome.SHORT_READ: OutcomeWords("network", "the connection broke; `lposekit retry` takes it again"),
    Outcome.TOO_BIG: OutcomeWords("bytes", "more bytes than the settings allow"),
    Outcome.BAD_ENCODING: OutcomeWords("bytes", "compressed in a way that cannot be undone"),
    Outcome.NOT_IMAGE: OutcomeWords("bytes", "not a picture"),
    Outcome.TOO_MANY_PIXELS: OutcomeWords("bytes", "more pixels than the settings allow"),
    Outcome.CORRUPT: OutcomeWords("bytes", "damaged"),
    Outcome.HASH_MISMATCH: OutcomeWords("bytes", "no longer the picture that the list means"),
    Outcome.WORKER_CRASH: OutcomeWords("bytes", "crashed a worker, again and again"),
    Outcome.NO_VIDEO_STREAM: OutcomeWords("bytes", "no video in the file"),
    Outcome.TOO_SHORT: OutcomeWords("judged", "shorter than one clip"),
    Outcome.NO_CLIP: OutcomeWords("judged", "every clip window was dropped"),
    Outcome.DECODE_HANG: OutcomeWords("bytes", "the decoder hung or was too slow"),
}
