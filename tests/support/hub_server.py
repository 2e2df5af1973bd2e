"""A server that speaks the upload protocol of the Hugging Face hub, as far as its own client needs it to push files.

Sources: the client's requests (huggingface_hub 2.4) and the Git LFS batch API. Large files go to `/lfs/OID`, small ones
with the commit; nothing is visible before a commit.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import yaml

TOKEN = "hf_test"
_LFS_SUFFIXES = (".parquet", ".tar", ".safetensors")


@dataclass(slots=True)
class Hub:
    """repositories: files by repository (`datasets/me/name`) and path. uploads: number of large files sent, in all.

    fail_uploads: how many more of them are answered with an error.
    """

    url: str = ""
    repositories: dict[str, dict[str, bytes]] = field(default_factory=dict)
    private: dict[str, bool] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)
    uploads: int = 0
    commits: int = 0
    fail_uploads: int = 0

    def environment(self) -> dict[str, str]:
        """Variables with which the client goes here."""
        return {"HF_ENDPOINT": self.url, "HF_TOKEN": TOKEN, "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}

    def answer(self, method: str, path: str, body: bytes, token: str) -> tuple[int, Any]:
        """Status and JSON of one request."""
        if method == "PUT" and (match := re.fullmatch(r"/lfs/([0-9a-f]{64})", path)):
            return self._take_object(match[1], body)
        if token != f"Bearer {TOKEN}":
            return 401, {"error": "Invalid username or password."}
        if path == "/api/validate-yaml":
            return 200, {
                "errors": [] if _is_card(json.loads(body)["content"]) else [{"message": "no YAML"}],
                "warnings": [],
            }
        if path == "/api/repos/create":
            return self._create(json.loads(body))
        if match := re.fullmatch(r"/(datasets/)?([\w./-]+)\.git/info/lfs/objects/batch", path):
            return 200, self._batch(json.loads(body))
        if match := re.fullmatch(r"/api/(models|datasets)/([\w.-]+/[\w.-]+)", path):
            private = self.private.get(f"{match[1]}/{match[2]}", False)
            return 200, {"id": match[2], "private": private, "siblings": [], "tags": [], "downloads": 0, "likes": 0}
        match = re.fullmatch(r"/api/(models|datasets)/([\w.-]+/[\w.-]+)/(preupload|commit|tree)/main", path)
        repository = f"{match[1]}/{match[2]}" if match else ""
        if match is None or repository not in self.repositories:
            return 404, {"error": "Repository not found"}
        if match[3] == "preupload":
            return 200, {"files": [_mode(file) for file in json.loads(body)["files"]], "commitOid": "0" * 40}
        if match[3] == "commit":
            return self._commit(repository, body)
        files = self.repositories[repository]
        return 200, [{"type": "file", "path": name, "oid": "0" * 40, "size": len(files[name])} for name in files]

    def file(self, path: str) -> bytes | None:
        """A file that is asked for by its address; None for all other requests."""
        match = re.fullmatch(r"/(datasets/)?([\w.-]+/[\w.-]+)/resolve/main/(.+)", path)
        return None if match is None else self.repositories[f"{(match[1] or 'models/')}{match[2]}"].get(match[3])

    def _create(self, wanted: dict[str, Any]) -> tuple[int, Any]:
        kind, owner = wanted.get("type") or "model", wanted.get("organization") or "me"
        repository = f"{kind}s/{owner}/{wanted['name']}"
        if repository in self.repositories:
            return 409, {"error": "You already created this repo", "url": f"{self.url}/{repository}"}
        self.repositories[repository] = {".gitattributes": b"*.tar filter=lfs"}
        self.private[repository] = bool(wanted.get("private"))
        return 200, {"url": f"{self.url}/{repository}"}

    def _batch(self, wanted: dict[str, Any]) -> Any:
        objects = [
            {key: item[key] for key in ("oid", "size")}
            | (
                {}
                if item["oid"] in self.objects
                else {"actions": {"upload": {"href": f"{self.url}/lfs/{item['oid']}"}}}
            )
            for item in wanted["objects"]
        ]
        return {"transfer": "basic", "objects": objects}

    def _take_object(self, oid: str, body: bytes) -> tuple[int, Any]:
        if self.fail_uploads:
            self.fail_uploads -= 1
            return 403, {"error": "over the limit"}
        if hashlib.sha256(body).hexdigest() != oid:
            return 400, {"error": "other bytes"}
        self.uploads += 1
        self.objects[oid] = body
        return 200, {}

    def _commit(self, repository: str, body: bytes) -> tuple[int, Any]:
        files = dict(self.repositories[repository])
        for line in body.splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                if value["oid"] not in self.objects:
                    return 400, {"error": f"no object {value['oid']}"}
                files[value["path"]] = self.objects[value["oid"]]
            elif entry["key"] == "deletedFile":
                del files[value["path"]]
        self.repositories[repository] = files
        self.commits += 1
        return 200, {"success": True, "commitOid": "1" * 40, "commitUrl": f"{self.url}/{repository}/commit/{'1' * 40}"}


def _is_card(text: str) -> bool:
    _, header, _ = text.split("---\n", 2)
    return "license" in yaml.safe_load(header)


def _mode(file: dict[str, Any]) -> dict[str, Any]:
    large = file["path"].endswith(_LFS_SUFFIXES) or file["size"] > 10 * 2**20
    return {"path": file["path"], "uploadMode": "lfs" if large else "regular", "shouldIgnore": False}


@contextlib.contextmanager
def hub_server() -> Iterator[Hub]:
    """A running hub without repositories."""
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _serve(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            path = self.path.partition("?")[0]
            if (found := hub.file(path)) is not None:
                self._send(200, found, {"ETag": '"0"', "X-Repo-Commit": "1" * 40})
                return
            status, value = hub.answer(self.command, path, body, self.headers.get("Authorization", ""))
            self._send(status, json.dumps(value).encode(), {"Content-Type": "application/json"})

        def _send(self, status: int, data: bytes, headers: dict[str, str]) -> None:
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(data))}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)

        do_GET = do_HEAD = do_POST = do_PUT = _serve

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
