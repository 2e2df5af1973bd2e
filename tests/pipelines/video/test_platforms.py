"""Contract of platform videos: yt-dlp runs for known hosts only, in its own folder; a late one dies with all that it
started. A stand-in program plays yt-dlp: the border, since there is no platform in a test.
"""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lposekit.errors import Outcome, Rejected
from lposekit.sandbox.sandbox import child_environment
from pipelines.video.platforms import fetch_platform_video, is_platform_url
from tests.support.build_process import wait_until
from tests.support.fixtures import REPOSITORY

pytestmark = pytest.mark.timeout(180)
URL = "https://www.youtube.com/watch?v=QMi8-5Kq1M8"


def stand_in(folder: Path, script: str) -> str:
    """A program that is started in place of `python -m yt_dlp ...`."""
    path = folder / "python"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


def fetch(folder: Path, script: str, timeout_s: float = 20.0) -> bytes:
    target = folder / "target"
    fetch_platform_video(URL, target, max_bytes=10**6, timeout_s=timeout_s, python=stand_in(folder, script))
    return target.read_bytes()


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        (URL, True),
        ("https://youtu.be/QMi8", True),
        ("http://vimeo.com/1", True),
        ("https://example.com/youtube.com/a.mp4", False),
        ("https://notyoutube.com/watch", False),
        ("https://youtube.com.example.org/", False),
        ("file://youtube.com/etc/passwd", False),
        ("https://[broken", False),
        ("-o /etc/passwd", False),
    ],
)
def test_only_pages_of_known_platforms_are_platform_addresses(url: str, expected: bool) -> None:
    assert is_platform_url(url) is expected


@pytest.mark.case(38)
def test_video_arrives_and_parts_do_not(tmp_path: Path) -> None:
    parts = "for part in part part-Frag3 part-Frag4.part ytdl temp; do echo half > video.mp4.$part; done"
    parts += "; echo half > video.f137.mp4; echo half > video.part; echo half > video.temp"
    assert fetch(tmp_path, f"{parts}; echo whole > video.mp4") == b"whole\n"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["python", "target"]


# mutation tried: `os.environ` for `child_environment()`: red
@pytest.mark.case(64, 66)
def test_program_gets_no_tokens_and_no_proxies_of_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secrets = (
        "AWS_SECRET_ACCESS_KEY",
        "HF_TOKEN",
        "GOOGLE_APPLICATION_CREDENTIALS",
        "https_proxy",
        "NETRC",
        "ANYTHING",
    )
    for name in secrets:
        monkeypatch.setenv(name, "secret")
    environment = fetch(tmp_path, "env > video.mp4").decode()
    assert "secret" not in environment
    names = {line.partition("=")[0] for line in environment.splitlines()}
    assert names - {"PWD", "SHLVL", "_", "OLDPWD"} <= set(child_environment()) | {"TMPDIR"}


# mutation tried: exit code not looked at: red
def test_file_of_a_program_that_failed_is_none(tmp_path: Path) -> None:
    with pytest.raises(Rejected, match="HTTP Error 403") as caught:
        fetch(tmp_path, 'echo half > video.mp4; echo "ERROR: fragment 7: HTTP Error 403: Forbidden"; exit 1')
    assert caught.value.outcome is Outcome.HTTP_4XX
    assert [file.name for file in tmp_path.iterdir()] == ["python"]


# mutation tried: no limit of the file's size in `child_limits` writes all of it and says nothing: red
def test_program_is_stopped_at_the_limit(tmp_path: Path) -> None:
    write = "import sys\nfile = open('video.mp4', 'wb')\nfor _ in range(50): file.write(bytes(100_000))\nfile.close()"
    with pytest.raises(Rejected, match="File too large") as caught:
        fetch(tmp_path, f'{sys.executable} -c "{write}"')
    assert caught.value.outcome is Outcome.TOO_BIG
    assert [file.name for file in tmp_path.iterdir()] == ["python"]


# mutation tried: size not looked at: red
def test_file_cut_off_at_the_limit_is_too_big(tmp_path: Path) -> None:
    with pytest.raises(Rejected) as caught:
        fetch(tmp_path, "head -c 2000000 /dev/zero > video.mp4; true")
    assert caught.value.outcome is Outcome.TOO_BIG


# mutation tried: no `die_with_parent` in `child_limits`: red
def test_program_does_not_outlive_a_killed_worker(tmp_path: Path) -> None:
    python = stand_in(tmp_path, f"echo $$ > {tmp_path}/pid; sleep 300; echo late > {tmp_path}/late")
    script = (
        "from pathlib import Path; from pipelines.video.platforms import fetch_platform_video\n"
        f"target = Path({str(tmp_path)!r}) / 'target'\n"
        f"fetch_platform_video({URL!r}, target, max_bytes=9, timeout_s=99, python={python!r})"
    )
    worker = subprocess.Popen([sys.executable, "-c", script], cwd=REPOSITORY)
    wait_until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text().strip() != "", "the program")
    worker.kill()
    worker.wait(30)
    assert _is_gone(int((tmp_path / "pid").read_text()))


def test_address_is_never_an_option(tmp_path: Path) -> None:
    script = 'for last; do :; done; for each; do [ "$each" = -- ] && echo "$last" > video.mp4; done; true'
    assert fetch(tmp_path, script).decode().strip() == URL


@pytest.mark.parametrize(
    ("said", "outcome"),
    [
        ("ERROR: [youtube] x: Private video. Sign in if you have been granted access", Outcome.HTTP_4XX),
        ("ERROR: unable to download video data: HTTP Error 429: Too Many Requests", Outcome.HTTP_4XX),
        ("ERROR: HTTP Error 503: Service Unavailable", Outcome.HTTP_5XX),
        ("ERROR: Unable to download webpage: The read operation timed out", Outcome.TIMEOUT),
        ("ERROR: Failed to resolve 'www.youtube.com' ([Errno -2] Name or service not known)", Outcome.DNS),
        ("File is larger than max-filesize (9999999 bytes > 1000000 bytes). Aborting.", Outcome.TOO_BIG),
        ("something new", Outcome.CONNECT),
    ],
)
def test_failure_is_named(tmp_path: Path, said: str, outcome: Outcome) -> None:
    with pytest.raises(Rejected) as caught:
        fetch(tmp_path, f'echo half > video.mp4.part; echo "{said}"; exit 1')
    assert caught.value.outcome is outcome
    assert said[:40] in caught.value.detail
    assert [file.name for file in tmp_path.iterdir()] == ["python"]


# mutation tried: process.kill() in place of os.killpg leaves the sleeper alive: red
@pytest.mark.case(38)
def test_late_program_dies_with_all_that_it_started(tmp_path: Path) -> None:
    began = time.monotonic()
    with pytest.raises(Rejected) as caught:
        fetch(tmp_path, f"sleep 300 & echo $! > {tmp_path}/sleeper; echo half > video.mp4.part; wait", timeout_s=1.0)
    assert caught.value.outcome is Outcome.TIMEOUT
    assert time.monotonic() - began < 15
    sleeper = int((tmp_path / "sleeper").read_text())
    assert _is_gone(sleeper)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["python", "sleeper"]


def _is_gone(pid: int) -> bool:
    for _ in range(100):
        try:
            if Path(f"/proc/{pid}/stat").read_text().split(")")[1].split()[0] == "Z":
                return True
        except OSError:
            return True
        time.sleep(0.05)
    return False


def test_without_yt_dlp_the_row_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(Rejected, match=r"pip install 'lposekit\[platforms\]'") as caught:
        fetch_platform_video(URL, tmp_path / "target", max_bytes=1, timeout_s=1)
    assert caught.value.outcome is Outcome.BAD_URL
    assert not os.listdir(tmp_path)
