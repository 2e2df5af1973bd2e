"""One torch thread for every test here."""

from tests.support.one_thread import one_thread  # noqa: F401
