"""Again, after a while, for what goes wrong on a network and is right the next time."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from typing import TypeVar

from lposekit.errors import LposekitError, UsageError

log = logging.getLogger(__name__)

ATTEMPTS = 8
FIRST_WAIT_S, LONGEST_WAIT_S = 0.1, 20.0
# these say what is so, and go on to
_LASTING = (FileNotFoundError, NotADirectoryError, IsADirectoryError, LposekitError)
_NO_CREDENTIALS = frozenset(
    {
        *("NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError", "ProfileNotFound"),
        *("NoAuthTokenError", "TokenRetrievalError", "SSOTokenLoadError", "UnauthorizedSSOTokenError"),
        *("DefaultCredentialsError", "RefreshError", "ClientAuthenticationError"),
    }
)
"""Names of what the drivers of S3, Google and Azure raise without credentials, or with some that have run out."""
_SAID_FROM = 3
_CREDENTIALS = (
    "Give credentials that may read there: for s3://, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE; "
    "FSSPEC_S3_ANON=true reads what is public without any."
)
T = TypeVar("T")


class ShortAnswer(OSError):
    """A server sent fewer bytes than were asked for."""


def with_retries(call: Callable[[], T], what: str) -> T:
    """The result of a call to a server; one that fails is made again, at most `ATTEMPTS` times in all, after waits that
    double and are drawn at random, so that many readers do not come back at once.

    Raises:
        UsageError: at once; credentials are missing, or may not read. FileNotFoundError, LposekitError: at once.
        OSError: it went on failing; says how.
    """
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return call()
        except _LASTING:
            raise
        except Exception as error:
            if isinstance(error, PermissionError) or type(error).__name__ in _NO_CREDENTIALS:
                raise UsageError(f"{what}: {_told(error)}. {_CREDENTIALS}") from error
            if attempt == ATTEMPTS:
                raise OSError(f"{what}: failed {ATTEMPTS} times, at last with {_told(error)}") from error
            wait_s = min(FIRST_WAIT_S * 2**attempt, LONGEST_WAIT_S) * random.uniform(0.5, 1.0)
            level = logging.WARNING if attempt >= _SAID_FROM else logging.DEBUG
            log.log(level, "%s: %s; again in %.1f s", what, _told(error), wait_s)
            time.sleep(wait_s)
    raise AssertionError("not reached")


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
