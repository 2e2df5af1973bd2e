"""Contract of `lposekit demo` but for its page: what the page may ask for; that its clips are those of `lposekit
sample`; that what goes wrong with one request is told and stops no other; what is refused before anything is loaded.

The tests play the page: they speak its lines. The page itself, in a browser: tests/package/test_demo.py.
"""

from __future__ import annotations

import dataclasses
import json
import shlex
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from lposekit.cli import main
from lposekit.commands.demo import PoseFinder
from lposekit.errors import LposekitError, UsageError
from pipelines.video.poses.settings import PosesSettings
from tests.lposekit.pose.poses import standing
from tests.pipelines.video.poses.test_poses import Walker, video
from tests.support.fixtures import fixture_path
from tests.support.sample_runs import trained
from trainer.demo.drawing import Artist, load_artist
from trainer.demo.jobs import MAX_SHOWN, Desk
from trainer.demo.page_process import PageProcess, page_process, require_environment
from trainer.demo.serve import is_loopback, listening, serve
from trainer.demo.settings import DemoSettings

STEPS = 3
DRAW = {"do": "draw", "prompt": "a man dances", "pose": "", "seed": 7, "steps": STEPS, "guidance": 12.5}
POSES = PosesSettings(detector="rtmdet-nano-rebuilt", pose_model="tinypose")


@pytest.fixture(scope="module")
def artist() -> Artist:
    return load_artist(DemoSettings(run=trained(2), frames=4, stride=2))


class Page:
    """Speaks the page's lines to a desk that works in a thread."""

    def __init__(self, desk: Desk, max_waiting: int = 8) -> None:
        ours, theirs = socket.socketpair()
        ours.settimeout(60)
        self.line, self.stream = ours, ours.makefile("rb")
        self.process = PageProcess(subprocess.Popen([sys.executable, "-c", ""]), theirs)
        self.failed: list[str] = []
        self.thread = threading.Thread(target=self._serve, args=(desk, max_waiting), daemon=True)
        self.thread.start()
        self.last = 0

    def _serve(self, desk: Desk, max_waiting: int) -> None:
        try:
            serve(self.process, desk, max_waiting)
        except LposekitError as error:
            self.failed.append(str(error))

    def send(self, **message: Any) -> int:
        self.last += 1
        self.line.sendall(json.dumps({"job": self.last, **message}).encode() + b"\n")
        return self.last

    def answers(self) -> Iterator[dict[str, Any]]:
        for data in self.stream:
            yield json.loads(data)

    def end_of(self, number: int) -> dict[str, Any]:
        return next(answer for answer in self.answers() if answer["job"] == number and "progress" not in answer)

    def ask(self, **message: Any) -> dict[str, Any]:
        return self.end_of(self.send(**message))

    def close(self) -> None:
        self.stream.close()
        self.line.close()
        self.thread.join(60)
        assert not self.thread.is_alive()


@pytest.fixture
def desk(artist: Artist, tmp_path: Path) -> Desk:
    for name in ("uploads", "shown", "kept"):
        (tmp_path / name).mkdir()
    return Desk(artist, PoseFinder(POSES, 600, Walker()), tmp_path, tmp_path / "kept")


@pytest.fixture
def page(desk: Desk) -> Iterator[Page]:
    played = Page(desk)
    yield played
    played.close()


def upload(desk: Desk, source: Path | None = None, frames: int = 8) -> str:
    path = desk.uploads / "some.mp4"
    if source is None:
        return str(video(path, range(frames)))
    return str(shutil.copyfile(source, desk.uploads / source.name))


def command_again(command: str, output: Path) -> bytes:
    """Run the command that the page shows, but for its output; the bytes that it writes."""
    words = shlex.split(command)
    assert words[0] == "lposekit"
    words[words.index("--output") + 1] = str(output)
    assert main(words[1:]) == 0
    return output.read_bytes()


def test_the_shown_command_draws_the_same_bytes_also_for_the_second_clip(
    desk: Desk, page: Page, tmp_path: Path
) -> None:
    # Mutation: the seed left out of `command_line`.
    posed = page.ask(do="pose", video=upload(desk))["done"]
    assert posed["note"] == "1 person in 8 frames"
    assert Path(posed["skeletons"]).is_relative_to(desk.shown)
    for number, pose in enumerate((posed["pose"], ""), 1):
        done = page.ask(**{**DRAW, "pose": pose, "seed": number})["done"]
        kept = desk.kept / f"{number:04d}.mp4"
        assert f"seed {number}" in done["note"]
        assert kept.read_bytes() == Path(done["clip"]).read_bytes()
        assert command_again(done["command"], tmp_path / "again.mp4") == kept.read_bytes()
    assert sorted(path.name for path in desk.kept.iterdir()) == [*("0001.mp4", "0001.poses.json", "0002.mp4")]


@pytest.mark.more
def test_a_real_video_is_posed_by_the_real_models_and_drawn_alike_by_the_command_where_nothing_is_kept(
    artist: Artist, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LPOSEKIT_WEIGHTS", str(fixture_path("weights")))
    monkeypatch.setenv("LPOSEKIT_DETECTOR", POSES.detector)
    monkeypatch.setenv("LPOSEKIT_POSE_MODEL", POSES.pose_model)
    source = fixture_path("data/videos/t2vz_girl_dancing.mp4")
    desk = Desk(artist, PoseFinder(POSES, 600), tmp_path, None)
    desk.uploads.mkdir()
    page = Page(desk)
    posed = page.ask(do="pose", video=upload(desk, source))["done"]
    done = page.ask(**{**DRAW, "pose": posed["pose"]})["done"]
    page.close()
    monkeypatch.chdir(source.parent)
    assert command_again(done["command"], tmp_path / "again.mp4") == Path(done["clip"]).read_bytes()


def test_progress_is_told_step_by_step(desk: Desk, page: Page) -> None:
    page.send(**DRAW)
    told = []
    for answer in page.answers():
        if "done" in answer:
            break
        told.append(answer["progress"])
    assert told == [[step, STEPS] for step in range(STEPS + 1)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prompt": "  "}, "The prompt is empty"),
        ({"prompt": "a" * 1001}, "has 1001 characters"),
        ({"prompt": "\udce4"}, "UTF-8"),
        ({"prompt": None}, "The prompt is empty"),
        ({"prompt": "a man\x1b[201~ dances"}, "control characters"),
        ({"seed": -1}, "Seed -1: a whole number"),
        ({"seed": 2**63}, "Seed"),
        ({"seed": 0.5}, "Seed 0.5"),
        ({"seed": None}, "Seed None"),
        ({"steps": 10**6}, "Steps 1000000: a whole number from 1 to 200"),
        ({"guidance": float("inf")}, "Guidance inf"),
        ({"pose": "../../etc"}, "not there any more"),
        ({"do": "remove"}, "cannot be asked for"),
        ({"do": "pose", "video": "/etc/hostname"}, "not there any more"),
    ],
)
def test_what_cannot_be_asked_for_is_told_and_the_next_request_is_done(
    desk: Desk, page: Page, change: dict[str, Any], message: str
) -> None:
    # Mutations: `_uploaded` without its check of the folder; `whole` ignored.
    assert message in page.ask(**{**DRAW, **change})["error"]
    assert "done" in page.ask(**{**DRAW, "steps": 1})


def test_an_upload_that_links_elsewhere_is_refused(desk: Desk, page: Page, tmp_path: Path) -> None:
    # Mutation: `_uploaded` without its check of the folder.
    secret = video(tmp_path / "secret.mp4", range(8))
    (desk.uploads / "link.mp4").symlink_to(secret)
    assert "not there any more" in page.ask(do="pose", video=str(desk.uploads / "link.mp4"))["error"]
    assert secret.exists()


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("nobody", "Nobody was found in the video. Take one that shows a person"),
        ("long", "too long: at most 600 frames"),
        ("text", "cannot be used"),
        ("empty", "cannot be used: the file is empty"),
    ],
)
def test_a_video_without_poses_says_why_and_leaves_nothing(desk: Desk, page: Page, what: str, message: str) -> None:
    # Mutation: the upload is not removed.
    path = Path(upload(desk))
    if what == "nobody":
        desk.find_poses = PoseFinder(POSES, 600, Walker(absent=range(99)))
    if what == "long":
        desk.find_poses = PoseFinder(dataclasses.replace(POSES), 7, Walker())
        message = message.replace("600", "7")
    if what in ("text", "empty"):
        path.write_bytes(b"no video" * (what == "text"))
    assert message in page.ask(do="pose", video=str(path))["error"]
    assert [list(folder.iterdir()) for folder in (desk.uploads, desk.shown, desk.kept)] == [[], [], []]


def test_a_request_that_nobody_waits_for_ends_at_its_next_step(desk: Desk, page: Page) -> None:
    # Mutation: `tell` that never raises: all steps are told.
    number = page.send(**{**DRAW, "steps": 200})
    steps = 0
    for answer in page.answers():
        if "error" in answer:
            break
        steps += 1
        if steps == 3:
            page.send(job=number, do="cancel")
    assert answer["error"] == "cancelled"
    assert steps < 150
    assert list(desk.shown.iterdir()) == []
    assert "done" in page.ask(**DRAW)


class Held(Walker):
    """Models that wait until they are let go."""

    def __init__(self) -> None:
        super().__init__()
        self.begun, self.go = threading.Event(), threading.Event()

    def estimate(self, images_rgb: Sequence[Any], times: Any = None) -> Any:
        self.begun.set()
        self.go.wait(60)
        return [[standing(20.0)] for _ in images_rgb]


def test_only_so_many_wait_and_one_is_worked_on_at_a_time(desk: Desk) -> None:
    # Mutation: a queue without its limit.
    models = Held()
    desk.find_poses = PoseFinder(POSES, 600, models)
    page = Page(desk, max_waiting=2)
    first = page.send(do="pose", video=upload(desk))
    assert models.begun.wait(60)
    waiting = [page.send(**DRAW), page.send(**DRAW)]
    assert "Too many people" in page.ask(**DRAW)["error"]
    models.go.set()
    assert [("done" in page.end_of(number)) for number in (first, *waiting)] == [True] * 3
    page.close()


def test_what_is_shown_is_forgotten_in_the_end_but_not_what_is_used(desk: Desk, page: Page) -> None:
    # Mutation: the oldest removed although it is the one in use.
    pose = page.ask(do="pose", video=upload(desk))["done"]["pose"]
    for _ in range(MAX_SHOWN - 1):
        desk._new_folder()
    assert "done" in page.ask(**{**DRAW, "pose": pose, "steps": 1})
    assert len(list(desk.shown.iterdir())) == MAX_SHOWN
    assert (desk.shown / pose).is_dir()


def test_the_shown_command_is_one_line_whatever_the_prompt(desk: Desk, page: Page) -> None:
    # Mutation to try: `_prompt` that returns `prompt.strip()`.
    done = page.ask(**{**DRAW, "prompt": "a man\n\n dances\x85\u2028now", "steps": 1})["done"]
    assert "'--prompt=a man dances now'" in done["command"]


@pytest.mark.parametrize("data", [b"[" * 60_000 + b"\n", b'"' + b"a" * 70_000 + b'"\n', b"3\n"])
def test_a_page_that_says_nonsense_ends_the_command_and_is_ended(desk: Desk, data: bytes) -> None:
    # Mutations to try: RecursionError not expected; `process.wait()` without the end of the line.
    page = Page(desk)
    waits = [sys.executable, "-c", "import socket, sys; socket.socket(fileno=int(sys.argv[1])).recv(1)"]
    page.process.process.wait()
    number = page.line.fileno()
    page.process.process = subprocess.Popen([*waits, str(number)], pass_fds=(number,))
    page.line.sendall(data)
    page.thread.join(30)
    assert page.failed == ["the page's process ended (exit code 0). Run the same command again."]
    page.close()


def test_a_page_that_ends_ends_the_command(desk: Desk) -> None:
    page = Page(desk)
    page.close()
    assert page.failed == ["the page's process ended (exit code 0). Run the same command again."]


# --- before anything is loaded ---------------------------------------------------------------------------------------


def test_without_gradio_the_command_says_how_to_get_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["demo", str(trained(2)), "--environment", str(tmp_path / "of its own")]
    assert main(arguments) == 2
    said = capsys.readouterr().err
    assert "in an environment of its own" in said
    [line] = [line for line in said.splitlines() if line.startswith("  ")]
    assert shlex.split(line)[1:4] == ["-m", "venv", str(tmp_path / "of its own")]
    assert Path(shlex.split(line)[-1]).is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no folder is named"),
        (["nowhere"], "--run nowhere: there is no such folder"),
        (["RUN", "--port", "70000"], "--port 70000"),
        (["RUN", "--port", "TAKEN"], "cannot be listened at"),
        (["RUN", "--host", "203.0.113.5"], "cannot be listened at"),
        (["RUN", "--output", "/proc/clips"], "nothing can be written there"),
        (["STAGE1", "--port", "0"], "draws single images. Name a run of stage 2"),
    ],
)
def test_what_cannot_work_is_told_before_the_page_opens(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    environment = fake_environment(tmp_path, "raise SystemExit(1)")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        named = {"RUN": str(trained(2)), "STAGE1": str(trained(1)), "TAKEN": str(taken.getsockname()[1])}
        words = [named.get(word, word) for word in arguments]
        assert main(["demo", *words, *(["--environment", str(environment)] if words else [])]) == 2
    assert message in capsys.readouterr().err


def fake_environment(folder: Path, script: str) -> Path:
    """An environment that looks as if gradio were there, and whose Python does something else."""
    (folder / "env" / "bin").mkdir(parents=True)
    (folder / "env" / "lib" / "python3" / "site-packages" / "gradio").mkdir(parents=True)
    (folder / "env" / "lib" / "python3" / "site-packages" / "gradio" / "__init__.py").touch()
    python = folder / "env" / "bin" / "python"
    python.write_text(f"#!{sys.executable}\n{script}\n")
    python.chmod(0o755)
    return folder / "env"


def test_a_page_that_does_not_start_says_what_to_do(tmp_path: Path) -> None:
    # Mutation: a broken line taken for an unexpected error.
    python = require_environment(fake_environment(tmp_path, "raise SystemExit(3)"))
    with (
        listening("127.0.0.1", 0) as server,
        pytest.raises(LposekitError, match=r"did not start \(exit code 3"),
        page_process(python, server, tmp_path, {}),
    ):
        pass


STARTED = """
import json, os, socket, sys
line = socket.socket(fileno=int(sys.argv[3]))
line.sendall(json.dumps(dict(os.environ)).encode() + b"\\n")
while line.recv(100):
    pass
"""


def test_the_pages_process_gets_no_settings_of_gradio_or_ours_and_ends_with_its_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Mutation: `kept` with all names.
    monkeypatch.setenv("GRADIO_SHARE", "True")
    monkeypatch.setenv("LPOSEKIT_WEIGHTS", "secret")
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    python = require_environment(fake_environment(tmp_path, STARTED))
    with listening("127.0.0.1", 0) as server, page_process(python, server, tmp_path, {}) as page:
        given = next(page.messages())
    assert page.process.returncode == 0
    assert not given.keys() & {"GRADIO_SHARE", "LPOSEKIT_WEIGHTS", "PYTHONPATH"}
    assert given["GRADIO_ANALYTICS_ENABLED"] == "False"
    assert given["TMPDIR"] == given["GRADIO_TEMP_DIR"] == str(tmp_path / "uploads")


def test_only_this_machine_reaches_the_page_unless_another_address_is_asked_for() -> None:
    # Mutation: "" or "0.0.0.0" as the default.
    host = DemoSettings().host
    assert is_loopback(host)
    with listening(host, 0) as server:
        assert server.getsockname()[0] == "127.0.0.1"
    assert [is_loopback(name) for name in ("localhost", "::1", "0.0.0.0", "192.168.1.5", "example.org")] == [
        *(True, True, False, False, False)
    ]
    with pytest.raises(UsageError, match="no address of this machine"), listening("no such name", 0):
        pass
