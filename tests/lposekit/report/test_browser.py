"""Contract of the report in a real browser (Debian's Chromium, headless, from file://).

The images load, nothing overflows on a phone, the page asks no server for anything, no text of a stranger runs; what
the page's own script adds works under the page's own policy.
Without Chromium the tests skip; with LPOSEKIT_REQUIRE_BROWSER=1, which CI sets, they fail.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import socket
import subprocess
import threading
from collections.abc import Iterator
from html import unescape
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from lposekit.errors import Outcome
from lposekit.records import ImageRow, sample_key
from lposekit.report.html import write_report
from lposekit.shards.dataset import open_dataset
from lposekit.shards.layout import DatasetLayout
from pipelines.image.rows import posed_row, unposed_row
from tests.lposekit.report.conftest import FPS
from tests.support.chromium import chromium_path
from tests.support.dataset_folder import RULES, person, solid_image
from tests.support.datasets import make_dataset_of, make_hostile_dataset

pytestmark = pytest.mark.timeout(240)
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
    return chromium_path()


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
    assert facts["loaded"] == facts["visible"] == facts["images"] == 2 * (videos.read_stats(0).clips or 0)
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


OWNED = "<script>document.title = 'owned'</script><img src='data:,x' onerror=\"document.title = 'owned'\">"


def test_the_policy_lets_the_pages_own_script_run_and_no_other(chromium: str, report: Path, tmp_path: Path) -> None:
    # Mutations: a wrong hash: the form stays hidden; `'unsafe-inline'` for scripts: the title is "owned".
    copy = tmp_path / "page.html"
    copy.write_text(report.read_text(encoding="utf-8").replace("</header>", OWNED + "</header>"), encoding="utf-8")
    dom = browse(chromium, copy, tmp_path / "profile", "--dump-dom")
    assert "<title>dataset: dataset report</title>" in dom
    found = re.search(r'<p id="found"[^>]*>([^<]*)</p>', dom)
    assert found
    assert re.fullmatch(r"\d+ of \d+ samples shown, 44 of 44 rows listed", found[1])
    form = re.search(r'<form id="finder"[^>]*>', dom)
    assert form
    assert "hidden" not in form[0]


ASK = """
<script>
window.addEventListener("load", () => {
  const form = document.getElementById("finder"), facts = [], number = text => Number(text.replaceAll(",", ""));
  for (const fields of %s) {
    form.reset();
    for (const [name, value] of Object.entries(fields)) form.elements[name].value = value;
    const start = performance.now();
    form.dispatchEvent(new Event("submit", { cancelable: true }));
    const height = document.body.offsetHeight;
    const words = document.getElementById("found").textContent.match(/[0-9][0-9,]*/g);
    facts.push({ fields, ms: performance.now() - start, samples: number(words[0]), rows: number(words[2]), height,
      drawn: document.getElementById("row-body").rows.length,
      visible: [...document.querySelectorAll("figure[data-outcome]")].filter(e => e.offsetWidth > 0).length });
  }
  const more = document.getElementById("more-rows");
  more.click();
  facts.push({ drawn: document.getElementById("row-body").rows.length, focused: document.activeElement.tagName,
    load_ms: performance.now() });
  const pre = document.createElement("pre");
  pre.id = "facts";
  pre.textContent = JSON.stringify(facts);
  document.body.append(pre);
});
</script>
"""


def ask(chromium: str, page: Path, folder: Path, queries: list[dict[str, str]]) -> list[dict[str, Any]]:
    """What the page finds, asked by a script in a copy without the policy that forbids scripts."""
    text = page.read_text(encoding="utf-8")
    without_policy = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", text)
    copy = folder / "asked.html"
    copy.write_text(without_policy.replace("</body>", ASK % json.dumps(queries) + "</body>"), encoding="utf-8")
    dom = browse(chromium, copy, folder / "profile", "--dump-dom")
    found = re.search(r'<pre id="facts">(.+?)</pre>', dom, re.DOTALL)
    assert found, "the page did not load"
    return json.loads(unescape(found.group(1)))


def test_ten_thousand_rows_and_a_hundred_samples_are_found_quickly(chromium: str, tmp_path: Path) -> None:
    """The timings are printed (`pytest -s`).

    Mutations: `some` in place of `every` word; no bounds; all rows drawn.
    """
    results = []
    for i in range(10_000):
        row = ImageRow(sample_key(0, i), f"https://a.example/{i}.jpg", f"number {i} walks a dog {'<b>' * (i % 2)}", {})
        if i % 100 == 0:
            results.append(posed_row(row, solid_image(i % 7), f"{i:064x}", [person(10 + i % 7)], RULES))
        else:
            results.append(unposed_row(row, (Outcome.DNS, Outcome.TIMEOUT)[i % 2], "no"))
    page = write_report(make_dataset_of(tmp_path / "d", [results]).root)
    queries = [
        {},
        {"text": "4200 DOG"},
        {"text": "no such words"},
        {"outcome": "kept"},
        {"outcome": "dns"},
        {"low1": "12", "high1": "13"},
        {"low0": "1", "text": "<b>"},
    ]
    *answers, after = ask(chromium, page, tmp_path, queries)
    of_keypoints = sum(10 + i % 7 in (12, 13) for i in range(0, 10_000, 100))
    found = [(answer["samples"], answer["rows"]) for answer in answers]
    assert found == [(100, 10_000), (1, 1), (0, 0), (100, 100), (0, 4900), (of_keypoints, of_keypoints), (0, 0)]
    assert [answer["visible"] for answer in answers] == [answer["samples"] for answer in answers]
    assert max(answer["drawn"] for answer in answers) == 100
    assert (after["drawn"], after["focused"]) == (0, "BODY"), "nothing more of nothing"
    print(f"\npage {page.stat().st_size / 1e6:.2f} MB, asked after {after['load_ms']:.0f} ms in all")  # noqa: T201
    for answer in answers:
        print(f"{answer['ms']:7.1f} ms  {answer['fields']}")  # noqa: T201


def test_clips_decode_in_the_browser_and_have_a_button_that_says_what_it_does(
    chromium: str, videos: DatasetLayout, tmp_path: Path
) -> None:
    # Mutations: `media-src` left out of the policy; the button without `aria-label`.
    text = write_report(videos.root).read_text(encoding="utf-8")
    probe = """for (const video of document.querySelectorAll("video")) {
      video.addEventListener("loadeddata", () => { video.dataset.decoded = `${video.videoWidth} ${video.duration}`; });
      video.addEventListener("error", () => { video.dataset.decoded = video.error.message; });
      video.preload = "auto";
      video.load();
    }"""
    digest = base64.b64encode(hashlib.sha256(probe.encode()).digest()).decode()
    text = text.replace("script-src ", f"script-src 'sha256-{digest}' ", 1)
    watch = text.replace("</body>", f"<script>{probe}</script></body>")
    copy = tmp_path / "page.html"
    copy.write_text(watch, encoding="utf-8")
    dom = browse(chromium, copy, tmp_path / "profile", "--dump-dom", "--virtual-time-budget=5000")
    clips = videos.read_stats(0).clips or 0
    decoded = re.findall(r'<video[^>]*data-decoded="([^"]*)"', dom)
    assert [float(words.split()[0]) for words in decoded] == [256.0] * clips
    lengths_s = [sample.metadata["num_frames"] / FPS for sample in open_dataset(videos.root)]
    assert [float(words.split()[1]) for words in decoded] == pytest.approx(lengths_s, abs=0.11)
    assert len(re.findall(r'<button[^>]*class="play"[^>]*aria-label="Play: Clip \d+"', dom)) == clips >= 2


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
