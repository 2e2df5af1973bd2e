"""Where the tests take their photos, videos, weights and golden outputs from.

The folder is named by ``LPOSEKIT_FIXTURES`` (default: ``shared`` beside the repository). A missing fixture skips the
test with a reason; with ``LPOSEKIT_REQUIRE_FIXTURES=1``, which CI sets, it fails.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]


def fixtures_root() -> Path:
    return Path(os.environ.get("LPOSEKIT_FIXTURES") or REPOSITORY.parent / "shared")


def fixture_path(name: str) -> Path:
    """The path of a fixture below the fixtures' folder; skips (or fails) the calling test if it is missing."""
    path = fixtures_root() / name
    if path.exists():
        return path
    reason = f"fixture {path} is missing: set LPOSEKIT_FIXTURES to the folder that holds it"
    if os.environ.get("LPOSEKIT_REQUIRE_FIXTURES") == "1":
        pytest.fail(reason)
    pytest.skip(reason)
