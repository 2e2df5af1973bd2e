"""A real S3-compatible server (moto's) in a process of its own, which can be told to fail requests at random.

python -m tests.support.s3_server      prints its port; ends with its standard input
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import random
import re
import subprocess
import sys
import threading
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

NEEDS = ("moto", "flask", "flask_cors", "s3fs")
BUCKET = "bucket"
CONTROL = "/-/"


def missing() -> list[str]:
    """What has to be installed for it, and is not."""
    return [name for name in NEEDS if importlib.util.find_spec(name) is None]


@dataclass(frozen=True)
class S3Server:
    """A running server with one bucket."""

    url: str

    def environment(self) -> dict[str, str]:
        """Variables with which every S3 client goes there."""
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-east-1",
        }

    def put(self, folder: Path, name: str) -> str:
        """Copy a folder into the bucket; returns its address."""
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                self.put_file(path, f"{name}/{path.relative_to(folder).as_posix()}")
        return f"s3://{BUCKET}/{name}"

    def put_file(self, path: Path, name: str) -> None:
        place = f"{self.url}/{BUCKET}/{urllib.parse.quote(name)}"
        headers = {
            "Content-Type": "application/octet-stream",
            "Authorization": "AWS test:test",
        }  # a form else; not allowed
        request = urllib.request.Request(place, path.read_bytes(), headers, method="PUT")
        urllib.request.urlopen(request, timeout=30).close()

    def files(self, prefix: str) -> dict[str, bytes]:
        """The objects below a prefix, by their names behind it; at most 1,000."""
        with self._get(f"{BUCKET}?list-type=2&prefix={urllib.parse.quote(prefix)}/") as answer:
            names = re.findall(r"<Key>([^<]+)</Key>", answer.read().decode())
        found = {}
        for name in names:
            with self._get(f"{BUCKET}/{urllib.parse.quote(name)}") as answer:
                found[name.removeprefix(f"{prefix}/")] = answer.read()
        return found

    def _get(self, place: str) -> Any:
        request = urllib.request.Request(f"{self.url}/{place}", headers={"Authorization": "AWS test:test"})
        return urllib.request.urlopen(request, timeout=30)

    def fail(self, rate: float) -> None:
        """From now on, fail this share of the requests, in one of several ways."""
        self._control(f"fail?{rate}")

    def requests(self) -> list[str]:
        """Method and path of each request since the last call; those that were failed begin with `failed`."""
        return self._control("requests")

    def _control(self, what: str) -> Any:
        with urllib.request.urlopen(f"{self.url}{CONTROL}{what}") as answer:
            return json.load(answer)


@contextlib.contextmanager
def s3_server() -> Iterator[S3Server]:
    """A server for the time of the block."""
    command = [sys.executable, "-m", "tests.support.s3_server"]
    repository = Path(__file__).resolve().parents[2]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=repository
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        server = S3Server(f"http://127.0.0.1:{int(process.stdout.readline())}")
        urllib.request.urlopen(urllib.request.Request(f"{server.url}/{BUCKET}", method="PUT")).close()
        try:
            yield server
        finally:
            process.stdin.close()


# What runs in the server's process.

Start = Callable[..., Any]


@dataclass
class Failing:
    """A server's application, some of whose requests fail."""

    application: Callable[[dict[str, Any], Start], Iterable[bytes]]
    rate: float = 0.0
    draw: random.Random = field(default_factory=lambda: random.Random(0))
    seen: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def __call__(self, environ: dict[str, Any], start: Start) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        if path.startswith(CONTROL):
            return self._control(path.removeprefix(CONTROL), environ["QUERY_STRING"], start)
        with self.lock:
            way = self.draw.choice(["503", "500", "cut"]) if self.draw.random() < self.rate else ""
            self.seen.append(f"{'failed ' if way else ''}{environ['REQUEST_METHOD']} {path}")
        if way in ("503", "500"):
            start(f"{way} no", [("Content-Type", "application/xml"), ("Content-Length", "0")])
            return [b""]
        body = self.application(environ, start)
        if way == "cut":  # fewer bytes than the header says, then the end of the connection
            data = b"".join(body)
            return [data[: len(data) // 2]]
        return body

    def _control(self, what: str, query: str, start: Start) -> Iterable[bytes]:
        with self.lock:
            answer: Any = True
            if what == "fail":
                self.rate = float(query)
            else:
                answer, self.seen = self.seen, []
        start("200 OK", [("Content-Type", "application/json")])
        return [json.dumps(answer).encode()]


def main() -> None:
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    application = Failing(DomainDispatcherApplication(create_backend_app))  # pyright: ignore
    server = make_server("127.0.0.1", 0, application, threaded=True)
    print(server.server_port, flush=True)  # noqa: T201
    threading.Thread(target=server.serve_forever, daemon=True).start()
    sys.stdin.buffer.read()
    os._exit(0)


if __name__ == "__main__":
    main()
