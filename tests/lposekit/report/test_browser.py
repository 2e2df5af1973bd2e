"""Contract of the report in a real browser (Debian's Chromium, headless, from file://).

The images load, nothing overflows on a phone, the page asks no server for anything, no text of a stranger runs.
Without Chromium the tests skip; with LPOSEKIT_REQUIRE_BROWSER=1, which CI sets, they fail.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from html import unescape
from pathlib import Path

import cv2
import numpy as np
import pytest

from lposekit.report.html import write_report
from lposekit.shards.layout import DatasetLayout
from tests.support.datasets import make_hostile_dataset

pytestmark = pytest.mark.timeout(120)
BROWSER_TIMEOUT_S = 60
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
]
PHONE_WIDTH = 390
MEASURE = """
<script>
window.addEventListener("load", () => {
  const images = [...document.images];
  const wide = [...document.querySelectorAll("body *")].filter(e => !e.closest(".scroll, svg, details:not([open])"));
  const facts = {
    title: document.title,
    images: images.length,
    loaded: images.filter(image => image.complete && image.naturalWidth > 0).length,
    visible: images.filter(image => image.getBoundingClientRect().width > 20).length,
    width: window.innerWidth,
    scroll_width: document.documentElement.scrollWidth,
    overflowing: wide.filter(e => e.getBoundingClientRect().right > window.innerWidth + 1).length,
    text_px: Math.min(...[...document.querySelectorAll("p, dd, dt, td, summary, a")]
      .filter(e => e.textContent.trim()).map(e => parseFloat(getComputedStyle(e).fontSize))),
  };
  parent.postMessage(JSON.stringify(facts), "*");
});
</script>
"""
FRAME = """<!doctype html><meta charset="utf-8"><pre id="facts"></pre>
<script>window.addEventListener("message", e => {{ document.getElementById("facts").textContent = e.data; }});</script>
<iframe src="{page}" style="border: 0; width: {width}px; height: 900px"></iframe>
"""
"""Chromium makes no window narrower than 500 px; a frame may be as narrow as a phone."""


@pytest.fixture(scope="module")
def chromium() -> str:
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None:
        reason = "no Chromium here: apt-get install -y --no-install-recommends chromium"
        if os.environ.get("LPOSEKIT_REQUIRE_BROWSER") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    return path


@pytest.fixture(scope="module")
def report(photos: DatasetLayout) -> Path:
    return write_report(photos.root)


def browse(chromium: str, page: Path, profile: Path, *flags: str) -> str:
    """Open a page in a fresh profile; returns what the browser printed."""
    command = [chromium, *FLAGS, f"--user-data-dir={profile}", *flags, page.resolve().as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=BROWSER_TIMEOUT_S, check=True)
    return done.stdout


def measure(chromium: str, page: Path, folder: Path, width: int) -> dict[str, float]:
    """What the browser makes of a page, measured by a script in a copy without the policy that forbids scripts."""
    text = page.read_text(encoding="utf-8")
    without_policy, count = re.subn(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", text)
    assert count == 1
    copy, frame = folder / "measured.html", folder / "frame.html"
    copy.write_text(without_policy.replace("</body>", MEASURE + "</body>"), encoding="utf-8")
    frame.write_text(FRAME.format(page=copy.name, width=width), encoding="utf-8")
    dom = browse(chromium, frame, folder / "profile", "--window-size=1400,1000", "--dump-dom")
    found = re.search(r'<pre id="facts">(.+?)</pre>', dom, re.DOTALL)
    assert found, "the page did not load"
    return json.loads(unescape(found.group(1)))


@pytest.mark.parametrize("width", [PHONE_WIDTH, pytest.param(1280, marks=pytest.mark.more)])
def test_all_images_load_and_nothing_overflows(chromium: str, report: Path, tmp_path: Path, width: int) -> None:
    # Mutation: `.sheet { columns: 340px }` -> `width: 900px` overflows; a broken data URI is not loaded.
    facts = measure(chromium, report, tmp_path, width)
    assert facts["width"] == width
    assert facts["images"] > 40
    assert facts["loaded"] == facts["visible"] == facts["images"]
    assert facts["scroll_width"] <= width
    assert facts["overflowing"] == 0
    assert facts["text_px"] >= 12


def test_the_video_page_loads_and_fits_a_phone(chromium: str, videos: DatasetLayout, tmp_path: Path) -> None:
    facts = measure(chromium, write_report(videos.root), tmp_path, PHONE_WIDTH)
    assert facts["loaded"] == facts["visible"] == facts["images"] == 3 * (videos.read_stats(0).clips or 0)
    assert facts["scroll_width"] <= PHONE_WIDTH
    assert facts["overflowing"] == 0


@pytest.mark.parametrize("dark", [pytest.param(False, marks=pytest.mark.more), True])
def test_the_page_follows_light_and_dark(chromium: str, report: Path, tmp_path: Path, dark: bool) -> None:
    shot = tmp_path / "shot.png"
    scheme = f"--blink-settings=preferredColorScheme={0 if dark else 1}"
    browse(chromium, report, tmp_path / "profile", "--window-size=1280,1600", f"--screenshot={shot}", scheme)
    image_HWC = cv2.imread(str(shot))
    assert image_HWC is not None
    background = image_HWC[2, 2].mean()
    assert background < 40 if dark else background > 230
    heading_HWC = image_HWC[60:160, 40:400].astype(float)
    assert np.abs(heading_HWC - background).max() > 180, "the heading stands out"
    assert (image_HWC[700:].std(axis=(0, 1)) > 20).all(), "the contact sheet is there"


@pytest.fixture
def trap() -> Iterator[tuple[str, list[bytes]]]:
    """A server that notes every connection: its address and what was sent to it."""
    received: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        stop = threading.Event()

        def listen() -> None:
            while not stop.is_set():
                try:
                    connection, _ = server.accept()
                except TimeoutError:
                    continue
                with connection:
                    connection.settimeout(1)
                    received.append(connection.recv(2000))

        thread = threading.Thread(target=listen, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}", received
        stop.set()
        thread.join(timeout=5)


def test_hostile_texts_neither_run_nor_call_home(chromium: str, tmp_path: Path, trap: tuple[str, list[bytes]]) -> None:
    server, received = trap
    page = write_report(make_hostile_dataset(tmp_path / "d", server).root)
    # even in the copy where scripts are allowed
    facts = measure(chromium, page, tmp_path, PHONE_WIDTH)
    assert facts["title"] == "d: dataset report"
    assert facts["loaded"] == facts["images"] > 0
    assert facts["scroll_width"] <= PHONE_WIDTH
    assert received == []


def test_the_trap_notices_a_page_that_calls_home(chromium: str, tmp_path: Path, trap: tuple[str, list[bytes]]) -> None:
    """The test above would be green with a deaf trap."""
    server, received = trap
    page = tmp_path / "calling.html"
    page.write_text(f'<!doctype html><meta charset="utf-8"><img src="{server}/home.png">', encoding="utf-8")
    browse(chromium, page, tmp_path / "profile", "--dump-dom")
    assert received
