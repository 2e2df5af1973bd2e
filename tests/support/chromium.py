"""A headless Chromium under a test's control, through its debugging protocol: what a person at a page does and sees.

Without Chromium the calling test skips; with LPOSEKIT_REQUIRE_BROWSER=1, which CI sets, it fails.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--remote-debugging-port=0",
    "--window-size=1200,1000",
]
START_TIMEOUT_S = 60
WAIT_S = 60.0


def chromium_path() -> str:
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None:
        reason = "no Chromium here: apt-get install -y --no-install-recommends chromium"
        if os.environ.get("LPOSEKIT_REQUIRE_BROWSER") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    return path


@dataclass(slots=True)
class Tab:
    """One tab. requested: every address that was asked for so far."""

    loop: asyncio.AbstractEventLoop
    socket: aiohttp.ClientWebSocketResponse
    requested: list[str] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    _last: int = 0

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a command of the protocol; its result."""
        return self.loop.run_until_complete(self._call(method, parameters))

    async def _call(self, method: str, parameters: dict[str, Any]) -> dict[str, Any]:
        self._last += 1
        await self.socket.send_json({"id": self._last, "method": method, "params": parameters})
        while True:
            message = await self.socket.receive_json(timeout=WAIT_S)
            if message.get("method") == "Network.requestWillBeSent":
                self.requested.append(message["params"]["request"]["url"])
            if message.get("method") == "Log.entryAdded":
                self.said.append(message["params"]["entry"]["text"])
            if message.get("id") == self._last:
                assert "error" not in message, message
                return message["result"]

    def open(self, address: str) -> None:
        for domain in ("Network", "Page", "DOM", "Runtime", "Log"):
            self.call(f"{domain}.enable")
        self.call("Page.navigate", url=address)

    def value(self, script: str) -> Any:
        """What a script's expression is in the page."""
        result = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def until(self, script: str, timeout_s: float = WAIT_S) -> Any:
        """Wait for an expression to be true; its value."""
        end = time.monotonic() + timeout_s
        while not (found := self.value(script)):
            assert time.monotonic() < end, f"never true: {script}\n{self.value('document.body.innerText')}"
            time.sleep(0.05)
        return found

    def write(self, selector: str, text: str) -> None:
        """Type into a field."""
        self.value(f"document.querySelector({json.dumps(selector)}).focus()")
        self.call("Input.insertText", text=text)

    def click(self, selector: str) -> None:
        self.value(f"document.querySelector({json.dumps(selector)}).click()")

    def choose_file(self, selector: str, path: Path) -> None:
        """Choose a file in a field for files, as in the dialog."""
        root = self.call("DOM.getDocument")["root"]["nodeId"]
        node = self.call("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.call("DOM.setFileInputFiles", nodeId=node, files=[str(path)])

    def screenshot(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot")["data"]))


@contextlib.contextmanager
def browsing(profile: Path) -> Iterator[Tab]:
    """A fresh browser with one tab, ended at the end."""
    command = [chromium_path(), *FLAGS, f"--user-data-dir={profile}", "about:blank"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    loop = asyncio.new_event_loop()
    session = None
    try:
        session = loop.run_until_complete(_session())
        yield Tab(loop, loop.run_until_complete(_connect(session, profile / "DevToolsActivePort")))
    finally:
        if session is not None:
            loop.run_until_complete(session.close())
        loop.close()
        process.terminate()
        process.wait(30)


async def _session() -> aiohttp.ClientSession:
    return aiohttp.ClientSession()


async def _connect(session: aiohttp.ClientSession, written: Path) -> aiohttp.ClientWebSocketResponse:
    end = time.monotonic() + START_TIMEOUT_S
    while not (written.is_file() and written.read_text().strip()):
        assert time.monotonic() < end, "the browser did not start"
        await asyncio.sleep(0.05)
    port = written.read_text().split()[0]
    async with session.get(f"http://127.0.0.1:{port}/json/list") as answer:
        [page] = [each for each in await answer.json() if each["type"] == "page"]
    return await session.ws_connect(page["webSocketDebuggerUrl"], max_msg_size=2**26)
