"""The page's process: gradio, in an environment of its own. It ends when this process does, however that ends."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import platformdirs

from lposekit.errors import LposekitError, UsageError
from trainer.demo.messages import MAX_LINE_BYTES

PINS = Path(__file__).with_name("pins.txt")
PAGE = Path(__file__).with_name("page.py")
START_TIMEOUT_S = 120.0
END_TIMEOUT_S = 10.0
_OTHERS = ("LPOSEKIT_", "PYTHON", "GRADIO_", "HF_", "UVICORN_")


def default_environment() -> Path:
    """Where gradio is looked for."""
    return platformdirs.user_cache_path("lposekit") / "demo"


def require_environment(folder: Path | None) -> Path:
    """The Python of the environment that holds gradio.

    Raises:
        UsageError: there is none; says how to make it.
    """
    folder = folder or default_environment()
    if any(folder.glob("lib/python*/site-packages/gradio/__init__.py")):
        return folder / "bin" / "python"
    where = shlex.quote(str(folder))
    raise UsageError(
        f"the page needs gradio, in an environment of its own (370 MB), and there is none in {folder}. Make it:\n"
        f"  {shlex.quote(sys.executable)} -m venv {where} && {where}/bin/python -m pip install --only-binary=:all: "
        f"--no-deps -r {shlex.quote(str(PINS))}\nOr name another one: --environment DIR."
    )


@dataclass(slots=True)
class PageProcess:
    """The page's process and the line to it."""

    process: subprocess.Popen[bytes]
    line: socket.socket
    _sending: threading.Lock = field(default_factory=threading.Lock)

    def send(self, message: Mapping[str, Any]) -> None:
        """Tell the page something; nothing happens where it has ended."""
        data = json.dumps(message).encode() + b"\n"
        with self._sending, contextlib.suppress(OSError):
            self.line.sendall(data)

    def messages(self) -> Iterator[dict[str, Any]]:
        """What the page says, until it ends; what is no object of a moderate size is its end as well."""
        with self.line.makefile("rb") as stream, contextlib.suppress(OSError, ValueError, RecursionError):
            while data := stream.readline(MAX_LINE_BYTES):
                message = json.loads(data)
                if not isinstance(message, dict):
                    return
                yield message

    def end(self) -> int:
        """Close the line, which ends the page; kill what goes on. Returns its exit code."""
        with contextlib.suppress(OSError):
            self.line.shutdown(socket.SHUT_RDWR)
        try:
            return self.process.wait(END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()


@contextlib.contextmanager
def page_process(python: Path, server: socket.socket, work: Path, facts: Mapping[str, Any]) -> Iterator[PageProcess]:
    """The page's process, serving at the socket while inside.

    work: a folder for its temporary files, of which `uploads` holds what is uploaded. facts: what the page is told.

    Raises:
        LposekitError: it did not start.
    """
    ours, theirs = socket.socketpair()
    command = [str(python), "-I", str(PAGE), str(theirs.fileno()), str(server.fileno())]
    with ours, theirs:
        process = subprocess.Popen(
            command,
            pass_fds=(theirs.fileno(), server.fileno()),
            env=_environment(work),
            cwd=work,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C goes to this process, which ends the page's
        )
        theirs.close()
        page = PageProcess(process, ours)
        try:
            page.send(facts)
            _await_start(page, python)
            yield page
        finally:
            page.end()


def _environment(work: Path) -> dict[str, str]:
    """The environment variables of the page's process: nothing of it calls home, or writes elsewhere."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_OTHERS)}
    return {
        **kept,
        "GRADIO_ANALYTICS_ENABLED": "False",
        "GRADIO_TEMP_DIR": str(work / "uploads"),
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(work / "home"),
        "MPLCONFIGDIR": str(work / "home"),
        "TMPDIR": str(work / "uploads"),
    }


def _await_start(page: PageProcess, python: Path) -> None:
    page.line.settimeout(START_TIMEOUT_S)
    try:
        first = page.line.recv(1, socket.MSG_PEEK)
    except OSError:  # it ended, or takes too long
        first = b""
    page.line.settimeout(None)
    if not first:
        page.process.kill()
        code = page.process.wait()
        raise LposekitError(
            f"the page did not start (exit code {code}; what it said is above). Make its environment anew: remove "
            f"{python.parent.parent}, and run the same command again for what to do."
        )
