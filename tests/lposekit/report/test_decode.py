"""Contract: what a report decodes, it decodes in a confined child; a file that kills the child costs its own image."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import psutil
import pytest

from lposekit.report import decode
from lposekit.report.decode import close_decoder, decode_jpeg, three_frames_of_mp4
from lposekit.report.html import write_report
from lposekit.sandbox.sandbox import Sandbox
from lposekit.shards.layout import DatasetLayout
from tests.support.videos import moving, write_video

GREY = np.full((40, 60, 3), 90, np.uint8)
JPEG = cv2.imencode(".jpg", GREY)[1].tobytes()


@pytest.fixture(autouse=True)
def _no_child_is_left() -> Iterator[None]:
    yield
    close_decoder()


def strange(payload: Mapping[str, Any]) -> Any:
    """Stands for a native decoder that its input has taken over, or killed."""
    answers = {
        b"crash": lambda: os._exit(7),
        b"text": lambda: {"images": ["<script>"]},
        b"grey": lambda: {"images": [np.zeros((4, 4), np.uint8)]},
        b"floats": lambda: {"images": [np.zeros((4, 4, 3))]},
        b"no list": lambda: {"images": np.zeros((4, 4, 3), np.uint8)},
        b"empty": lambda: {"images": [np.zeros((0, 4, 3), np.uint8)]},
    }
    answer = answers.get(payload["jpeg"])
    return decode.decoded(payload) if answer is None else answer()


@pytest.mark.parametrize("data", [b"crash", b"text", b"grey", b"floats", b"no list", b"empty"])
def test_a_decoder_that_crashes_or_lies_costs_its_own_image(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    # Mutation tried: `_is_image` that says yes to all -> red: text, grey, floats, empty.
    # Mutation tried: `SandboxError` not caught -> red: crash.
    with Sandbox(f"{__name__}:strange", memory_limit_bytes=2**28) as sandbox:
        monkeypatch.setattr(decode, "_sandbox", sandbox)
        assert decode_jpeg(data) is None
        found_HWC = decode_jpeg(JPEG)
    assert found_HWC is not None
    assert found_HWC.shape == GREY.shape


def test_images_and_clips_are_decoded_in_a_child_that_the_page_ends(tmp_path: Path, photos: DatasetLayout) -> None:
    # Mutation tried: `_ask` that decodes in its own process -> red: no child.
    # Mutation tried: `close_decoder` left out of `write_report` -> red: it stays.
    assert decode_jpeg(JPEG) is not None
    child = psutil.Process(decode._sandbox.pid)
    clip = write_video(tmp_path / "a.mp4", (moving(number) for number in range(12)), preset="ultrafast")
    assert len(three_frames_of_mp4(clip.read_bytes(), 12, 25.0)) == 3
    assert decode._sandbox.pid == child.pid
    write_report(photos.root)
    assert not child.is_running()
    assert decode._sandbox.pid is None
