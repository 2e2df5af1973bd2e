"""The page of `lposekit demo`: gradio, run by the Python of an environment of its own.

    ENV/bin/python -I page.py LINE SERVER

LINE, SERVER: numbers of open files. LINE is a socket to the process with the models: it says the page's facts in its
first line, then answers requests, all as lines of JSON (see messages.py and serve.py); when it closes, this process
ends. SERVER is the listening socket. Nothing of lposekit is imported here, only gradio and what gradio brings.
"""
# pyright: reportMissingImports=false, reportOptionalMemberAccess=false

from __future__ import annotations

import html
import ipaddress
import json
import os
import queue
import socket
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import gradio as gr
import uvicorn
from fastapi import FastAPI
from gradio import processing_utils
from starlette.requests import ClientDisconnect

Facts = dict[str, Any]
Message = MutableMapping[str, Any]

MAX_REQUEST_BYTES = 2**20
"""Of all requests but uploads."""
UPLOAD = "/gradio_api/upload"
POSTS = (UPLOAD, *(f"/gradio_api/{name}" for name in ("queue/join", "run/predict", "cancel", "reset")))
"""What the page itself posts to. gradio has more: one decodes videos with the ffmpeg of this machine, in no sandbox."""
API = "/gradio_api/"
STREAMS = tuple(API + name for name in ("queue/data", "heartbeat/", "upload_progress"))
"""Answers that last as long as a page is open, or an upload goes on."""
GETS = (*STREAMS, API + "file=", API + "app_id")
"""What the page itself gets of gradio's interface; the last one where its connection was lost for a while."""
MAX_STREAMS = 200
"""At a time; an open page has one or two."""
FORM_BYTES = 2**16
"""What a form adds to the file in it."""
ROOM_UPLOADS = 8
"""All uploads together may take so many times the room of the largest one."""
DELETE_AFTER_S = 3600
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; media-src 'self' blob:; font-src 'self' data:; worker-src 'self' blob:; "
    "frame-ancestors 'none'; form-action 'self'"
)
CSS = """
.gradio-container { width: 100% !important; max-width: 1080px !important; margin: 0 auto !important; }
.gradio-container .block { border-color: var(--border-color-primary) !important; border-width: 1px !important; }
#head h1 { margin: 0 0 4px; font-size: 24px; }
#head p, #found p, #result p { margin: 0; color: var(--body-text-color); }
#head, #progress, #found, #result { padding: 0; border: none !important; }
#progress:has(p) { min-height: 44px; }
#progress progress { width: 100%; height: 10px; accent-color: var(--color-accent); }
#progress p { margin: 0 0 4px; color: var(--body-text-color); }
#progress p.error { color: #b91c1c; white-space: pre-wrap; overflow-wrap: anywhere; }
.dark #progress p.error { color: #fca5a5; }
#video .download { display: none; }  /* an uploaded video is removed once its poses are found */
#command textarea { font-family: ui-monospace, monospace; font-size: 12px; }
"""


# --- the line to the process with the models -------------------------------------------------------------------------


class Line:
    """Requests to the process with the models, and its answers."""

    def __init__(self, number: int) -> None:
        self._socket = socket.socket(fileno=number)
        self._stream = self._socket.makefile("rb")
        self._lock = threading.Lock()
        self._answers: dict[int, queue.Queue[Message]] = {}
        self._last = 0
        self.facts: Facts = json.loads(self._stream.readline())

    def listen(self) -> None:
        """Hand each answer to who waits for it; end this process when the line closes."""
        with suppress(OSError, ValueError):
            for data in self._stream:
                message = json.loads(data)
                if waiting := self._answers.get(message["job"]):
                    waiting.put(message)
        os._exit(0)

    def send(self, message: Message) -> None:
        with self._lock:
            self._socket.sendall(json.dumps(message).encode() + b"\n")

    def ask(self, request: Message) -> Iterator[Message]:
        """What is told of a request while it is worked on, its end last. Who stops listening cancels it."""
        with self._lock:
            self._last += 1
            number = self._last
        message = {"job": number, **request}
        if len(json.dumps(message)) >= self.facts["max_line_bytes"]:
            yield {"error": "This request is too large. Write a shorter prompt."}
            return
        answers = self._answers[number] = queue.Queue()
        ended = False
        try:
            self.send(message)
            while not ended:
                answer = answers.get()
                ended = "done" in answer or "error" in answer
                yield answer
        finally:
            del self._answers[number]
            if not ended:
                self.send({"job": number, "do": "cancel"})


# --- what comes in through the network -------------------------------------------------------------------------------


class Guard:
    """Refuses requests before gradio sees them: another site's, those under another host name, too large ones.

    gradio limits each file of an upload, but lets one upload have a thousand, and keeps what a broken one has written.
    """

    def __init__(self, app: Callable[..., Awaitable[None]], facts: Facts) -> None:
        self.app, self.facts = app, facts
        self.uploads = Path(facts["uploads"])
        self.incoming = 0  # bytes of the uploads under way, as stated
        self.streams = 0  # open ones

    async def __call__(self, scope: Message, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
        elif scope["type"] != "http":  # a websocket: the page has none
            await send({"type": "websocket.close"})
        elif refused := self.refusal(scope):
            await self.refuse(send, *refused)
        else:
            length = int(headers_of(scope)["content-length"]) if scope["path"] == UPLOAD else 0
            streams = int(scope["path"].startswith(STREAMS))
            self.incoming, self.streams = self.incoming + length, self.streams + streams
            try:
                with suppress(ClientDisconnect):  # an upload that broke off
                    await self.app(scope, receive, with_policy(send))
            finally:
                self.incoming, self.streams = self.incoming - length, self.streams - streams

    async def refuse(self, send: Any, status: int, text: str) -> None:
        headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"connection", b"close")]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": text.encode()})

    def refusal(self, scope: Message) -> tuple[int, str] | None:
        """Status and reason, or None."""
        headers = headers_of(scope)
        host = headers.get("host", "")
        if not self.is_ours(host) and not self.is_ours(host.rpartition(":")[0]):
            return 421, "This page answers to its own address only."
        if headers.get("origin") not in (None, f"http://{host}") or is_of_another_site(scope["path"], headers):
            return 403, "Requests of other sites are refused."
        if scope["method"] in ("GET", "HEAD") and scope["path"] != UPLOAD:
            return self.not_shown(scope["path"])
        if scope["method"] != "POST" or scope["path"] not in POSTS:
            return 405, "This page takes no such request."
        length = headers.get("content-length", "")
        if not length.isascii() or not length.isdigit() or "transfer-encoding" in headers:  # chunks go before a length
            return 411, "A length is needed."
        return self.too_large(scope["path"], int(length))

    def is_ours(self, name: str) -> bool:
        """Whether the page answers to this name; open to a network, it answers to addresses in digits as well."""
        with suppress(ValueError):
            if self.facts["any_address"] and ipaddress.ip_address(name.strip("[]")):
                return True
        return name.lower() in self.facts["hosts"]

    def not_shown(self, path: str) -> tuple[int, str] | None:
        if path.startswith(API) and not path.startswith(GETS):
            return 404, "The page has nothing here."
        if path.startswith(STREAMS) and self.streams >= MAX_STREAMS:
            return 503, "Too many pages are open. Try again later."
        return None

    def too_large(self, path: str, length: int) -> tuple[int, str] | None:
        if path != UPLOAD:
            return (413, "This request is too large.") if length > MAX_REQUEST_BYTES else None
        if not self.facts["follows_poses"]:
            return 405, "This run follows no poses, so it takes no videos."
        most = self.facts["max_upload_bytes"]
        if length > most + FORM_BYTES:
            return 413, f"The file is too large: at most {megabytes(most)} may be uploaded."
        if used_bytes(self.uploads) + self.incoming + length > ROOM_UPLOADS * most:
            return 507, "Too many uploads at the moment. Try again later."
        return None


def headers_of(scope: Message) -> dict[str, str]:
    return {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}


def is_of_another_site(path: str, headers: dict[str, str]) -> bool:
    """As browsers tell it. A link to the page itself may stand anywhere."""
    is_link = path == "/" and headers.get("sec-fetch-mode") == "navigate"
    return headers.get("sec-fetch-site", "none") not in ("none", "same-origin") and not is_link


def used_bytes(folder: Path) -> int:
    """Of all files; those that go away meanwhile are not counted."""
    used = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):
                used += os.stat(os.path.join(parent, name)).st_size
    return used


async def no_download(url: str, cache_dir: str) -> str:
    """In place of gradio's download of a file that a request names by its address: of any size, from anywhere."""
    raise gr.Error("Upload the video: addresses are not taken.", print_exception=False)


def with_policy(send: Callable[[Message], Awaitable[None]]) -> Callable[[Message], Awaitable[None]]:
    """Tell the browser that the page loads nothing from elsewhere, and may be framed by nobody."""

    async def sent(message: Message) -> None:
        if message["type"] == "http.response.start":
            policy = [(b"content-security-policy", POLICY.encode()), (b"referrer-policy", b"no-referrer")]
            message["headers"] = [*message.get("headers", []), *policy]
        await send(message)

    return sent


def megabytes(count: int) -> str:
    return f"{count / 2**20:g} MB"


# --- what the page shows ---------------------------------------------------------------------------------------------


def bar(what: str, done: int = 0, total: int = 0) -> str:
    """A line and a progress bar; without a total, one that only moves."""
    value = f'value="{done}" max="{total}"' if total else ""
    return f"<p>{html.escape(what)}</p><progress {value}></progress>"


def problem(text: str) -> str:
    return f'<p class="error" role="alert">{html.escape(text)}</p>'


class Page:
    """The page's components and what they do."""

    def __init__(self, line: Line) -> None:
        self.line, self.facts = line, line.facts

    def estimate(self, video: str | None) -> Iterator[tuple[Any, ...]]:
        """Of an uploaded video: its pose's name, the skeletons, what was found, the progress."""
        if video is None:
            yield "", gr.Video(value=None, visible=False), "", ""
            return
        yield "", gr.Video(value=None, visible=False), "", bar("waiting for its turn")
        for answer in self.line.ask({"do": "pose", "video": video}):
            if "done" in answer:
                done = answer["done"]
                yield done["pose"], gr.Video(value=done["skeletons"], visible=True), done["note"], ""
            elif "error" in answer:
                yield "", gr.Video(value=None, visible=False), "", problem(answer["error"])
            else:
                yield gr.skip(), gr.skip(), gr.skip(), bar(answer["what"], *answer["progress"])

    def draw(
        self, prompt: str, pose: str, video: Any, seed: float | None, steps: float, guidance: float
    ) -> Iterator[tuple[Any, ...]]:
        """The clip, what is said of it, the command that draws it again, the progress."""
        if video and not pose:
            yield gr.skip(), gr.skip(), gr.skip(), problem("The poses of the video are not estimated yet.")
            return
        hidden = gr.Textbox(value="", visible=False)
        yield None, "", hidden, bar("waiting for its turn")
        request = {"prompt": prompt, "pose": pose, "seed": seed, "steps": steps, "guidance": guidance}
        for answer in self.line.ask({"do": "draw", **request}):
            if "done" in answer:
                done = answer["done"]
                said = "\n\n".join([done["note"], *done["notes"]])
                yield done["clip"], said, gr.Textbox(value=done["command"], visible=True), ""
            elif "error" in answer:
                yield gr.skip(), gr.skip(), gr.skip(), problem(answer["error"])
            else:
                yield gr.skip(), gr.skip(), gr.skip(), bar(answer["what"], *answer["progress"])

    def build(self) -> gr.Blocks:
        facts = self.facts
        with gr.Blocks(title="lposekit demo", analytics_enabled=False, delete_cache=(60, DELETE_AFTER_S)) as blocks:
            gr.HTML(
                f"<h1>lposekit demo</h1><p>Clips that follow a prompt and a pose, drawn by the run "
                f"<b>{html.escape(facts['run'])}</b> at {facts['side']} x {facts['side']} pixels.</p>",
                elem_id="head",
            )
            pose = gr.State("")
            with gr.Row():
                with gr.Column():
                    prompt = gr.Textbox(
                        label="Prompt",
                        placeholder="an astronaut dances on the moon",
                        lines=2,
                        max_length=facts["max_prompt"],
                        elem_id="prompt",
                    )
                    video, skeletons, found = self.pose_fields()
                    settings = self.setting_fields()
                    with gr.Row():
                        start = gr.Button("Draw", variant="primary", elem_id="draw")
                        stop = gr.Button("Stop", elem_id="stop")
                    progress = gr.HTML(elem_id="progress")
                with gr.Column():
                    results = self.result_fields()
            own = {"api_visibility": "private", "show_progress": "hidden", "concurrency_id": "models"}
            posing = video.change(self.estimate, [video], [pose, skeletons, found, progress], **own)
            drawing = start.click(self.draw, [prompt, pose, video, *settings], [*results, progress], **own)
            clear = {"api_visibility": "private", "show_progress": "hidden", "queue": False}
            stopped = stop.click(lambda: "", None, [progress], cancels=[posing, drawing], **clear)
            stopped.then(lambda: "", None, [progress], **clear)  # once more: a step may have been under way
        blocks.queue(max_size=facts["max_waiting"], default_concurrency_limit=1)
        return blocks

    def pose_fields(self) -> tuple[gr.File, gr.Video, gr.Markdown]:
        """The video whose pose is followed, its skeletons, what was found."""
        facts = self.facts
        most = f"at most {megabytes(facts['max_upload_bytes'])}, {facts['max_video_frames']} frames"
        with gr.Column(visible=facts["follows_poses"]):
            video = gr.File(
                label=f"Video of a person, for the pose: {most}",
                file_types=facts["extensions"],
                height=150,
                elem_id="video",
            )
            skeletons = gr.Video(
                label="Pose", visible=False, interactive=False, loop=True, height=260, elem_id="skeletons"
            )
            return video, skeletons, gr.Markdown(elem_id="found")

    def setting_fields(self) -> tuple[gr.Number, gr.Slider, gr.Slider]:
        """Seed, steps, guidance."""
        facts = self.facts
        with gr.Accordion("Settings", open=False):
            seed = gr.Number(label="Seed", value=33, precision=0, minimum=0, elem_id="seed")
            steps = gr.Slider(1, facts["max_steps"], value=facts["steps"], step=1, label="Steps", elem_id="steps")
            return seed, steps, gr.Slider(0, 50, value=facts["guidance"], step=0.5, label="Guidance")

    def result_fields(self) -> tuple[gr.Video, gr.Markdown, gr.Textbox]:
        """The clip, what is said of it, the command that draws it again."""
        clip = gr.Video(label="Clip", interactive=False, loop=True, autoplay=True, height=420, elem_id="clip")
        said = gr.Markdown(elem_id="result")
        command = gr.Textbox(
            label="The same clip again",
            visible=False,
            interactive=False,
            lines=3,
            buttons=["copy"],
            elem_id="command",
        )
        return clip, said, command


def application(line: Line) -> FastAPI:
    """The page behind its guard."""
    app = FastAPI(openapi_url=None)
    fonts = {"font": ["system-ui", "sans-serif"], "font_mono": ["ui-monospace", "monospace"]}  # no web fonts
    gr.mount_gradio_app(
        app,
        Page(line).build(),
        path="/",
        allowed_paths=[line.facts["shown"]],
        max_file_size=line.facts["max_upload_bytes"],
        footer_links=[],
        run_history=False,
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
        theme=gr.themes.Default(**fonts),
        css=CSS,
    )
    app.add_middleware(Guard, facts=line.facts)
    return app


def main(line_number: int, server_number: int) -> None:
    line = Line(line_number)
    if gr.__version__ != line.facts["gradio"]:
        sys.stderr.write(f"gradio {gr.__version__}: the page is tested with {line.facts['gradio']}\n")
    processing_utils.async_ssrf_protected_download = no_download
    app = application(line)
    threading.Thread(target=line.listen, name="line", daemon=True).start()
    server = socket.socket(fileno=server_number)
    line.send({"started": gr.__version__})
    uvicorn.Server(uvicorn.Config(app, log_level="warning", server_header=False)).run(sockets=[server])


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
