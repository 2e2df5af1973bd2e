"""Contract of the page of `lposekit demo` in a real browser (Chromium, headless), with gradio in an environment that is
made as the command says: prompt, upload, skeletons, progress, clip; this machine alone reaches it; a file of 1 GB is
refused; nothing is loaded from elsewhere; nothing is left at the end.

Run by `make test-package`: the environment asks the package index.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from lposekit.errors import UsageError
from tests.support.chromium import Tab, browsing
from tests.support.fixtures import REPOSITORY, fixture_path
from tests.support.train_runs import small_base
from trainer.demo.page_process import require_environment
from trainer.model.base import load_base
from trainer.model.pose_encoder import build_pose_encoder
from trainer.model.switches import OFFICIAL
from trainer.model.unet import inflate
from trainer.run.sampler import WeightsFacts, assemble

pytestmark = [pytest.mark.slow, pytest.mark.timeout(800)]
GB = 2**30
MAX_MB = 2
STEPS = 6
MAX_STREAMS = 200


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The environment, made by the very command that is shown where there is none."""
    folder = tmp_path_factory.mktemp("demo") / "environment"
    with pytest.raises(UsageError) as told:
        require_environment(folder)
    [command] = [line for line in str(told.value).splitlines() if line.startswith("  ")]
    done = subprocess.run(command, shell=True, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    check = [folder / "bin" / "python", "-m", "pip", "check"]
    checked = subprocess.run(check, check=False, capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout
    return folder


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved pipeline of random weights: to train a run takes longer, and the other tests have it."""
    base = load_base(str(small_base()))
    encoder = build_pose_encoder(base.unet.config["block_out_channels"], OFFICIAL)
    pipeline = assemble(base, inflate(base.unet, OFFICIAL), encoder, WeightsFacts("random", size=64, frames=4))
    folder = tmp_path_factory.mktemp("weights") / "random"
    pipeline.save_pretrained(folder)
    return folder


@dataclass(slots=True)
class Demo:
    """A demo under way."""

    process: subprocess.Popen[bytes]
    log: Path
    folder: Path

    @property
    def address(self) -> str:
        return self.waited_for(r"the page is open: (http://\S+)", 180)

    @property
    def port(self) -> int:
        return int(self.address.rpartition(":")[2])

    @property
    def work(self) -> Path:
        """Its temporary folder."""
        [found] = self.folder.glob("lposekit-demo-*")
        return found

    def waited_for(self, pattern: str, timeout_s: float = 60) -> str:
        """What the log says, once it does."""
        end = time.monotonic() + timeout_s
        while not (found := re.search(pattern, self.log.read_text())):
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < end, self.log.read_text()
            time.sleep(0.05)
        return found[found.re.groups]

    def request(self, method: str, path: str, headers: dict[str, str], body: object = None) -> tuple[int, str]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            return answer.status, answer.read().decode(errors="replace")
        finally:
            connection.close()


@pytest.fixture(scope="module")
def demo(environment: Path, weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    with started(environment, weights, tmp_path_factory.mktemp("temporary")) as demo:
        yield demo


@contextlib.contextmanager
def started(environment: Path, weights: Path, folder: Path, *more: str) -> Iterator[Demo]:
    """A demo of small weights, with the real models of the fixtures."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("LPOSEKIT_")}
    models = {
        "LPOSEKIT_WEIGHTS": str(fixture_path("weights")),
        "LPOSEKIT_DETECTOR": "rtmdet-nano-rebuilt",
        "LPOSEKIT_POSE_MODEL": "tinypose",
    }
    command = [sys.executable, "-m", "lposekit", "demo", str(weights), "--environment", str(environment)]
    flags = [*("--port", "0", "--steps", str(STEPS), "--stride", "2", "--frames", "64"), f"--max-upload-mb={MAX_MB}"]
    with (folder / "log.txt").open("wb") as log:
        process = subprocess.Popen(
            [*command, *flags, *more],
            cwd=folder,
            env={**inherited, **models, "TMPDIR": str(folder), "PYTHONPATH": str(REPOSITORY)},
            stdout=log,
            stderr=log,
        )
    try:
        yield Demo(process, folder / "log.txt", folder)
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def tab(demo: Demo, tmp_path: Path) -> Iterator[Tab]:
    with browsing(tmp_path / "profile") as opened:
        opened.open(demo.address)
        opened.until("!!document.querySelector('#draw') && !!document.querySelector('#video input[type=file]')")
        yield opened


FORM = "multipart/form-data; boundary=x"


def form(data: bytes) -> bytes:
    """The body of an upload of one file."""
    head = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.mp4"\r\n\r\n'
    return head + data + b"\r\n--x--\r\n"


PROGRESS = "document.querySelector('#progress').innerText"
RECORD = """
window.told = [];
new MutationObserver(() => {
  const text = document.querySelector('#progress').innerText.trim();
  if (text && text !== window.told.at(-1)) window.told.push(text);
}).observe(document.body, { subtree: true, childList: true, characterData: true });
"""
PLAYED = "(video => video && video.readyState >= 2 && [video.videoWidth, video.duration])"


def test_prompt_upload_skeletons_progress_and_clip(demo: Demo, tab: Tab) -> None:
    # Mutations to try: `yield` of the progress left out; web fonts as gradio has them.
    tab.value(RECORD)
    tab.write("#prompt textarea", "a girl dances on the moon")
    tab.choose_file("#video input[type=file]", fixture_path("data/videos/t2vz_girl_dancing.mp4"))
    width, duration_s = tab.until(f"{PLAYED}(document.querySelector('#skeletons video'))")
    assert width == 512
    assert duration_s > 0.5
    assert "1 person in 8 frames" in tab.value("document.querySelector('#found').innerText")
    tab.click("#draw")
    width, duration_s = tab.until(f"{PLAYED}(document.querySelector('#clip video'))")
    assert (width, round(8 * duration_s)) == (64, 4)
    told = tab.value("window.told")
    assert any(text.startswith("estimating poses: frame") for text in told)
    assert f"step {STEPS - 1} of {STEPS}" in told
    assert "4 frames, seed 33" in tab.value("document.querySelector('#result').innerText")
    assert "--prompt=a girl dances on the moon" in tab.value("document.querySelector('#command textarea').value")
    assert list(demo.work.glob("uploads/**/t2vz_girl_dancing.mp4")) == [], "the video is not kept"
    hosts = {url.split("/")[2] for url in tab.requested if url.startswith(("http", "ws"))}
    assert hosts == {f"127.0.0.1:{demo.port}"}
    assert not [text for text in tab.said if "Content Security Policy" in text]


def test_a_file_of_1_GB_is_refused_by_page_and_server_and_is_not_written(demo: Demo, tab: Tab, tmp_path: Path) -> None:
    # Mutation tried: neither `max_file_size` nor the first check of `too_large`.
    large = tmp_path / "large.mp4"
    with large.open("wb") as stream:
        stream.truncate(GB)
    tab.choose_file("#video input[type=file]", large)
    tab.until("/exceed the maximum allowed size of 2.0 M/.test(document.body.innerText)")
    assert not [url for url in tab.requested if "/upload?" in url], "nothing was sent"
    status, text = demo.request("POST", "/gradio_api/upload", {"Content-Type": FORM, "Content-Length": str(GB)})
    assert (status, text) == (413, f"The file is too large: at most {MAX_MB} MB may be uploaded.")
    with socket.create_connection(("127.0.0.1", demo.port)) as line, contextlib.suppress(OSError):
        line.sendall(f"POST /gradio_api/upload HTTP/1.1\r\nHost: localhost\r\nContent-Type: {FORM}\r\n".encode())
        line.sendall(b"Content-Length: 1000\r\n\r\n" + form(bytes(8 * 2**20)))  # more than it says
    chunked = {"Content-Type": FORM, "Transfer-Encoding": "chunked"}
    for stated in ({}, {"Content-Length": "1000"}):  # a server reads the chunks, whatever the length says
        assert demo.request("POST", "/gradio_api/upload", {**chunked, **stated}, b"0\r\n\r\n")[0] == 411
    written = sum(path.stat().st_size for path in demo.work.rglob("*") if path.is_file())
    assert written < MAX_MB * 2**20


def test_many_uploads_are_refused_before_they_fill_the_disk(demo: Demo) -> None:
    # Mutations to try: `ROOM_UPLOADS` of a thousand; a limit of each file alone.
    several = {"Content-Type": FORM, "Content-Length": str(5 * (MAX_MB - 1) * 2**20)}
    assert demo.request("POST", "/gradio_api/upload", several)[0] == 413
    file = {"Content-Type": FORM, "Content-Length": str(MAX_MB * 2**20 + 1000)}
    for i in range(7):
        body = form(bytes([i]) * (MAX_MB * 2**20))
        assert demo.request("POST", "/gradio_api/upload", {"Content-Type": FORM}, body)[0] == 200
    assert demo.request("POST", "/gradio_api/upload", file)[0] == 507
    for path in demo.work.glob("uploads/*"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def test_uploads_under_way_count_before_they_are_written(demo: Demo) -> None:
    # Mutation to try: `incoming` not counted.
    head = f"POST /gradio_api/upload HTTP/1.1\r\nHost: localhost\r\nContent-Type: {FORM}\r\n"
    with contextlib.ExitStack() as lines:
        for _ in range(8):
            line = lines.enter_context(socket.create_connection(("127.0.0.1", demo.port)))
            line.sendall(f"{head}Content-Length: {MAX_MB * 2**20}\r\n\r\n".encode())
        end = time.monotonic() + 60
        while (status := demo.request("POST", "/gradio_api/upload", {"Content-Type": FORM}, form(b"a"))[0]) != 507:
            assert time.monotonic() < end, status
    while demo.request("POST", "/gradio_api/upload", {"Content-Type": FORM}, form(b"a"))[0] != 200:
        assert time.monotonic() < end, "what broke off counts no longer"


def ask_gradio(demo: Demo, function: int, data: list[object]) -> str:
    """Ask past the page; what gradio says of it, to its end."""
    session = f"s{time.monotonic_ns()}"
    body = json.dumps({"data": data, "fn_index": function, "session_hash": session})
    assert demo.request("POST", "/gradio_api/queue/join", {"Content-Type": "application/json"}, body)[0] == 200
    return demo.request("GET", f"/gradio_api/queue/data?session_hash={session}", {})[1]


def test_who_asks_gradio_past_the_page_gets_no_more_than_the_page(demo: Demo) -> None:
    # Mutations to try: all of gradio's routes; its own download; lines of any length sent.
    address = {"path": "http://example.com/a.mp4", "meta": {"_type": "gradio.FileData"}}
    assert "addresses are not taken" in ask_gradio(demo, 0, [address])
    assert "This request is too large" in ask_gradio(demo, 1, ["a" * 70_000, None, None, 33, STEPS, 5])
    assert "has 1001 characters" in ask_gradio(demo, 1, ["a" * 1001, None, None, 33, STEPS, 5])
    recording = form(b"no video").replace(b'"files"', b'"video"')
    for path in ("process_recording", "component_server", "vibe-edit", "run/upload"):
        assert demo.request("POST", f"/gradio_api/{path}", {"Content-Type": FORM}, recording)[0] == 405, path
    for origin in ("null", "http://localhost.evil.example", f"https://127.0.0.1:{demo.port}"):
        assert demo.request("POST", "/gradio_api/queue/join", {"Origin": origin}, b"{}")[0] == 403, origin


def test_only_this_machine_and_only_this_page_reach_it(demo: Demo) -> None:
    # Mutations to try: `refusal` without its check of the host, or of the origin.
    bound = [c.laddr.ip for c in psutil.net_connections("tcp") if c.status == "LISTEN" and c.laddr.port == demo.port]
    assert set(bound) == {"127.0.0.1"}
    others = [a.address for each in psutil.net_if_addrs().values() for a in each if a.family == socket.AF_INET]
    for other in {*others} - {"127.0.0.1"}:
        with pytest.raises(OSError, match="refused"):
            socket.create_connection((other, demo.port), timeout=5)
    assert demo.request("GET", "/", {})[0] == 200
    assert demo.request("GET", "/", {"Host": f"evil.example:{demo.port}"})[0] == 421
    assert demo.request("POST", "/gradio_api/queue/join", {"Origin": "http://evil.example"}, b"{}")[0] == 403
    for path in ("/etc/passwd", str(demo.log), str(demo.work / "home"), "/proc/self/environ"):
        assert demo.request("GET", f"/gradio_api/file={path}", {})[0] in (403, 404), path


def test_other_sites_get_nothing_but_a_link_and_the_page_nothing_that_it_does_not_ask_for(demo: Demo) -> None:
    # Mutations tried: `is_of_another_site` never; `GETS` of everything -> one of these answers without end.
    link = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
    assert demo.request("GET", "/", link)[0] == 200
    for site in ("cross-site", "same-site"):
        assert demo.request("GET", "/config", {"Sec-Fetch-Site": site, "Sec-Fetch-Mode": "cors"})[0] == 403, site
        assert demo.request("GET", "/gradio_api/heartbeat/a", {**link, "Sec-Fetch-Site": site})[0] == 403, site
    assert demo.request("GET", "/config", {"Sec-Fetch-Site": "same-origin", "Sec-Fetch-Mode": "cors"})[0] == 200
    for path in ("dev/reload", "openapi.json", "vibe-code"):
        assert demo.request("GET", f"/gradio_api/{path}", {})[0] == 404, path


def open_stream(demo: Demo, lines: contextlib.ExitStack) -> int:
    """The status of one more stream, which stays open with the others."""
    line = lines.enter_context(socket.create_connection(("127.0.0.1", demo.port), timeout=60))
    line.sendall(f"GET /gradio_api/heartbeat/{time.monotonic_ns()} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    return int(line.recv(12).split()[1])


def test_open_streams_are_bounded_and_closed_ones_count_no_longer(demo: Demo) -> None:
    # Mutations tried: `streams` not counted; never taken off.
    with contextlib.ExitStack() as lines:
        opened = [open_stream(demo, lines) for _ in range(MAX_STREAMS + 1)]
    # a few of a page that was just closed may still be open
    assert (set(opened[: MAX_STREAMS - 10]), opened[-1]) == ({200}, 503)
    end = time.monotonic() + 60
    with contextlib.ExitStack() as lines:
        while open_stream(demo, lines) != 200:
            assert time.monotonic() < end


def test_a_page_open_to_a_network_answers_to_addresses_and_its_own_names(
    environment: Path, weights: Path, tmp_path: Path
) -> None:
    # Mutation tried: `any_address` for every name.
    with started(environment, weights, tmp_path, "--host", "0.0.0.0") as demo:
        for name in ("127.0.0.1", "192.0.2.7", "[2001:db8::7]", socket.gethostname().upper()):
            assert demo.request("GET", "/", {"Host": f"{name}:{demo.port}"})[0] == 200, name
        for name in ("evil.example", "127.0.0.1.evil.example", "localhost."):
            assert demo.request("GET", "/", {"Host": f"{name}:{demo.port}"})[0] == 421, name


STEPS_ARE_200 = """(() => {
  const [number, range] = ["number", "range"].map(kind => document.querySelector(`#steps input[type=${kind}]`));
  if (number && number.value !== "200") {
    number.value = 200;
    number.dispatchEvent(new Event("input", {bubbles: true}));
  }
  return Boolean(range) && range.value === "200";
})()"""
"""Asked again and again: a field of gradio that has just been opened takes no value yet."""


def test_stopping_and_closing_the_page_end_the_work(demo: Demo, tab: Tab) -> None:
    # Mutations tried: `stop.click` without a function, which cancels nothing; without the second clearing.
    tab.click("#video input[type=file]")
    tab.write("#prompt textarea", "a cat")
    tab.value("document.querySelectorAll('button.label-wrap').forEach(b => b.click())")
    tab.until(STEPS_ARE_200)
    for end in ("stop", "close"):
        before = demo.log.read_text().count("a request was cancelled")
        tab.click("#draw")
        tab.until(f"/step \\d+ of 200/.test({PROGRESS})")
        if end == "stop":
            tab.click("#stop")
        else:
            tab.call("Page.navigate", url="about:blank")
        demo.waited_for(rf"(?s)(a request was cancelled.*){{{before + 1}}}()")
        tab.until("!/step/.test(document.body.innerText)")


def test_ctrl_c_ends_all_processes_and_removes_all_files(demo: Demo) -> None:
    # Mutations to try: `PageProcess.end` left out; `mkdtemp` in place of `TemporaryDirectory`.
    children = psutil.Process(demo.process.pid).children(recursive=True)
    assert any("page.py" in " ".join(child.cmdline()) for child in children)
    demo.process.send_signal(signal.SIGINT)
    assert demo.process.wait(60) == 130
    assert "the page is closed; 1 clip drawn, removed" in demo.log.read_text()
    assert psutil.wait_procs(children, 10)[1] == []
    assert list(demo.folder.glob("lposekit-*")) == []
    assert "Traceback" not in demo.log.read_text()
