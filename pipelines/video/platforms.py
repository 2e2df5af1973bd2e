"""Videos of platforms (YouTube, Vimeo, ...) through yt-dlp, in a child process with a deadline. It is never imported.

yt-dlp makes its own connections, past our transport guard. So it is started for addresses of known platforms only, and
only if it is installed (`pip install 'lposekit[platforms]'`). Of the rules for other addresses the blocklist holds here
too (the caller applies it to the page's address); robots.txt and opt-out headers are not asked for. yt-dlp leaves parts
of files and may start other programs: it works in a folder of its own, a late one is killed with its whole process
group, and it does not outlive this process.
"""

from __future__ import annotations

import errno
import importlib.util
import os
import re
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from urllib.parse import urlsplit

from lposekit.errors import Outcome, Rejected
from lposekit.sandbox import child_limits
from lposekit.sandbox.sandbox import child_environment

PLATFORM_HOSTS = frozenset(
    {"youtube.com", "youtu.be", "youtube-nocookie.com", "vimeo.com", "dailymotion.com", "bilibili.com"}
)
# one file that holds video: without ffmpeg nothing can be merged, and sound is not wanted
_FORMAT = "bv*[height<=720][ext=mp4]/b[height<=720][ext=mp4]/bv*[height<=720]/b[height<=720]/bv*/b"
_REASONS = (
    (r"HTTP Error 5\d\d", Outcome.HTTP_5XX),
    (r"HTTP Error 4\d\d|private video|unavailable|removed|not available|sign in|\bage\b", Outcome.HTTP_4XX),
    (r"timed out|timeout", Outcome.TIMEOUT),
    (r"getaddrinfo|name or service|name resolution", Outcome.DNS),
    (r"certificate|ssl", Outcome.TLS),
    (r"larger than max-filesize|file too large", Outcome.TOO_BIG),
    (r"unsupported url", Outcome.BAD_URL),
)


_NO_SPACE = re.compile("no space left|disk quota exceeded", re.IGNORECASE)
_WHOLE = re.compile(r"video\.(?!part$|ytdl$|temp$)[a-z0-9]+")
"""Names of finished files, not of parts (`video.mp4.part-Frag3`, `video.f137.mp4`)."""


def is_platform_url(url: str) -> bool:
    """Whether the address is a page of a platform, not a video file."""
    try:
        parts = urlsplit(url)
        host = (parts.hostname or "").lower()
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and any(
        host == name or host.endswith(f".{name}") for name in PLATFORM_HOSTS
    )


def fetch_platform_video(
    url: str, path: Path, *, max_bytes: int, timeout_s: float, python: str = sys.executable
) -> None:
    """Fetch the video of a platform page into `path`.

    Raises:
        Rejected: `timeout`, `too_big`, `http_4xx` (private, removed, refused), ..., `bad_url` where yt-dlp is not
            installed.
        OSError: the disk is full.
    """
    if python == sys.executable and importlib.util.find_spec("yt_dlp") is None:
        raise Rejected(Outcome.BAD_URL, "videos of platforms need yt-dlp: pip install 'lposekit[platforms]'")
    with tempfile.TemporaryDirectory(prefix="lposekit-platform-", dir=path.parent) as folder:
        options = ["--ignore-config", "--no-playlist", "--no-cache-dir", "--no-progress", "--no-mtime", "--quiet"]
        limits = ["--max-filesize", str(max_bytes), "--retries", "3", "--socket-timeout", "20", "-f", _FORMAT]
        limited = [sys.executable, "-P", child_limits.__file__, str(os.getpid()), str(max_bytes)]
        command = [*limited, python, "-m", "yt_dlp", *options, *limits, "-o", "video.%(ext)s", "--", url]
        exit_code, output = _run(command, Path(folder), timeout_s)
        video = next((file for file in Path(folder).iterdir() if _WHOLE.fullmatch(file.name)), None)
        if exit_code != 0 and _NO_SPACE.search(output):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if exit_code != 0 or video is None:
            raise Rejected(_reason(output), f"yt-dlp: {_last_line(output)}")
        if video.stat().st_size >= max_bytes:  # it may have stopped at the limit and called that a success
            raise Rejected(Outcome.TOO_BIG, f"a video of more than {max_bytes} bytes")
        video.replace(path)


def _run(command: list[str], folder: Path, timeout_s: float) -> tuple[int, str]:
    """Exit code of the program, and what it says. Its process group does not outlive this call."""
    environment = {**child_environment(), "TMPDIR": str(folder)}  # no tokens: it runs code that changes every week
    process = subprocess.Popen(
        command,
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=environment,
        text=True,
        errors="replace",
        process_group=0,
    )
    try:
        output, _ = process.communicate(timeout=timeout_s)
        return process.returncode, output
    except subprocess.TimeoutExpired as error:
        raise Rejected(Outcome.TIMEOUT, f"yt-dlp took longer than {timeout_s:g} s") from error
    finally:
        if process.returncode is None:  # not waited for yet, so the number of the group is still its own
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


def _reason(output: str) -> Outcome:
    return next(
        (outcome for pattern, outcome in _REASONS if re.search(pattern, output, re.IGNORECASE)), Outcome.CONNECT
    )


def _last_line(output: str) -> str:
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    return lines[-1][:300] if lines else "it wrote no file and gave no reason"
