"""`lposekit demo`: check, load the run, listen, start the page, do what it asks for until Ctrl-C. Read this first.

Two processes: this one, with the models, and the page's, with gradio (see page.py), which needs packages that do not
fit ours. They speak lines of JSON over a socket pair. The page gets the listening socket, so that the address is
chosen, and checked, here.
"""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import queue
import socket
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lposekit.errors import LposekitError, UsageError
from lposekit.setting_values import check_values
from lposekit.words import counted
from trainer.demo.drawing import load_artist
from trainer.demo.jobs import Cancelled, Desk, FindPoses
from trainer.demo.messages import MAX_LINE_BYTES, MAX_PROMPT, checked
from trainer.demo.page_process import PINS, PageProcess, page_process, require_environment
from trainer.demo.settings import MAX_STEPS, NEEDED_FOR_DEMO, DemoSettings

log = logging.getLogger(__name__)

Message = dict[str, Any]


@dataclass(frozen=True, slots=True)
class DemoReport:
    """The end of a demo. address: where the page was. output: where its clips are; None: they were removed."""

    address: str
    drawn: int
    output: Path | None
    exit_code: int = 130

    def as_json(self) -> dict[str, object]:
        return {"address": self.address, "drawn": self.drawn, "output": self.output and str(self.output)}

    def summary_lines(self) -> list[str]:
        where = f"kept in {self.output}" if self.output else "removed"
        return [f"the page is closed; {counted(self.drawn, 'clip')} drawn, {where}"]


def run(settings: DemoSettings, *, find_poses: FindPoses, extensions: tuple[str, ...]) -> DemoReport:
    """Serve the page until it is interrupted (KeyboardInterrupt, which ends here).

    extensions: endings of the files that the page takes as videos.

    Raises:
        UsageError: settings that cannot work, no environment with gradio, an address that cannot be listened at.
        LposekitError: a file is damaged; the page's process ended.
    """
    check_values(settings, required=NEEDED_FOR_DEMO)
    python = require_environment(settings.environment)
    refuse_output(settings.output)
    with listening(settings.host, settings.port) as server:
        artist = load_artist(settings)
        address = address_of(server)
        with tempfile.TemporaryDirectory(prefix="lposekit-demo-") as folder:
            desk = Desk(artist, find_poses, Path(folder), settings.output)
            desk.uploads.mkdir()
            desk.shown.mkdir()
            facts = page_facts(settings, desk, extensions)
            with contextlib.suppress(KeyboardInterrupt), page_process(python, server, desk.work, facts) as page:
                server.close()  # the page has it
                say_open(address, settings.host)
                serve(page, desk, settings.max_waiting)
            return DemoReport(address, desk.drawn, settings.output)


# --- before anything is loaded ---------------------------------------------------------------------------------------


def refuse_output(output: Path | None) -> None:
    """Make the folder of the clips. Raises UsageError where nothing can be written."""
    if output is None:
        return
    try:
        output.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=output):
            pass
    except OSError as error:
        raise UsageError(
            f"--output {output}: nothing can be written there ({error.strerror}). Name another."
        ) from error


@contextlib.contextmanager
def listening(host: str, port: int) -> Iterator[socket.socket]:
    """A socket that listens at the address. Raises UsageError where it cannot."""
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        server = socket.socket(family, kind, protocol)
    except OSError as error:
        raise UsageError(f"--host {host}: no address of this machine ({error.strerror}). Leave it out.") from error
    with server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            server.bind(place)
            server.listen(64)
        except OSError as error:
            raise UsageError(
                f"--host {host} --port {port}: cannot be listened at ({error.strerror}). Is another demo open there? "
                "Take another port, or --port 0 for a free one."
            ) from error
        yield server


def address_of(server: socket.socket) -> str:
    host, port = server.getsockname()[:2]
    return f"http://[{host}]:{port}" if server.family == socket.AF_INET6 else f"http://{host}:{port}"


def is_loopback(host: str) -> bool:
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"


def own_names(host: str) -> list[str]:
    """The names under which the page is asked for. Another site's name that leads here (DNS rebinding) is none."""
    given = f"[{host}]" if ":" in host else host
    machine = [] if is_loopback(host) else [socket.gethostname(), socket.getfqdn()]
    return ["localhost", "127.0.0.1", "[::1]", given.lower(), *map(str.lower, machine)]


def say_open(address: str, host: str) -> None:
    if not is_loopback(host):
        log.warning(
            "--host %s: everybody who can reach this machine can use the page, without a password and unencrypted: "
            "upload videos, draw, and see what others draw if they know its name. Close it when it is not needed.",
            host,
        )
    log.info("the page is open: %s (Ctrl-C closes it)", address)


def page_facts(settings: DemoSettings, desk: Desk, extensions: tuple[str, ...]) -> Message:
    """What the page is told at its start."""
    pins = dict(line.split("==") for line in PINS.read_text().split() if "==" in line)
    return {
        "gradio": pins["gradio"],
        "run": settings.run.name if settings.run else "",
        "follows_poses": desk.artist.follows_poses,
        "side": desk.artist.facts.size,
        "frames": settings.frames,
        "steps": settings.steps,
        "max_steps": MAX_STEPS,
        "guidance": settings.guidance,
        "max_prompt": MAX_PROMPT,
        "max_line_bytes": MAX_LINE_BYTES,
        "max_waiting": settings.max_waiting,
        "max_upload_bytes": settings.max_upload_mb * 2**20,
        "max_video_frames": settings.max_video_frames,
        "extensions": list(extensions),
        "hosts": own_names(settings.host),
        "any_address": not is_loopback(settings.host),
        "shown": str(desk.shown),
        "uploads": str(desk.uploads),
    }


# --- while the page is open ------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Jobs:
    """Jobs that wait, and those that nobody wants any more."""

    waiting: queue.Queue[tuple[int, Message] | None]
    unwanted: set[int] = field(default_factory=set)

    def listen(self, page: PageProcess) -> None:
        """Take what the page says, until it ends; then a None waits."""
        for message in page.messages():
            number = message.get("job")
            if not isinstance(number, int):
                continue
            if message.get("do") == "cancel":
                self.unwanted.add(number)
                continue
            try:
                self.waiting.put_nowait((number, message))
            except queue.Full:
                page.send({"job": number, "error": "Too many people draw at the moment. Try again in a minute."})
        self.waiting.put(None)


def serve(page: PageProcess, desk: Desk, max_waiting: int) -> None:
    """Do the jobs one by one, in this thread. Raises LposekitError when the page has ended."""
    jobs = Jobs(queue.Queue(max_waiting))
    threading.Thread(target=jobs.listen, args=(page,), name="page", daemon=True).start()
    while (job := jobs.waiting.get()) is not None:
        number, message = job
        page.send({"job": number, **answer(desk, message, number, page, jobs)})
        jobs.unwanted.discard(number)
    raise LposekitError(f"the page's process ended (exit code {page.end()}). Run the same command again.")


def answer(desk: Desk, message: Message, number: int, page: PageProcess, jobs: Jobs) -> Message:
    """The end of one job: what was done, or what is wrong, for the person at the page."""

    def tell(done: int, total: int, what: str) -> None:
        if number in jobs.unwanted:
            raise Cancelled("cancelled")
        page.send({"job": number, "progress": [done, total], "what": what})

    try:
        return {"done": desk.do(checked(message, desk.uploads), tell)}
    except Cancelled:
        log.info("a request was cancelled")
        return {"error": "cancelled"}
    except LposekitError as error:
        log.warning("a request failed: %s", error)
        return {"error": str(error)}
    except Exception as error:
        log.exception("a request failed")
        return {"error": f"This request failed ({type(error).__name__}); the log of the command says more."}
