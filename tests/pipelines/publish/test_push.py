"""Contract: `push` sends the same files to the hub (through its own client) and to an S3-compatible server as to a
folder; nothing is seen on the hub before all is there; a push that failed goes on; a message says what is wrong.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.recipes import build_images
from tests.support import s3_server
from tests.support.execute_here import execute_here
from tests.support.hub_server import Hub, hub_server
from tests.support.stub_build import served, stub_pages, stub_settings


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("push")
    with served(stub_pages(5, num_persons={1: 0}), folder) as (_, path):
        build_images(stub_settings(path, folder / "d"), execute=execute_here)
    return folder / "d"


def push(dataset: Path, to: str, environment: dict[str, str], *flags: str) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own: clients read their address when they are imported."""
    command = [sys.executable, "-m", "lposekit.cli", "push", str(dataset), "--to", to, "--allow-private-addresses"]
    command += flags
    return subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, timeout=300)


@pytest.fixture
def local(dataset: Path, tmp_path: Path) -> dict[str, bytes]:
    """What a push to a folder writes."""
    assert push(dataset, str(tmp_path / "local"), {}).returncode == 0
    root = tmp_path / "local"
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def files_on(hub: Hub, repository: str) -> dict[str, bytes]:
    return {name: data for name, data in hub.repositories[repository].items() if name != ".gitattributes"}


def test_the_hub_gets_what_a_folder_gets_and_a_failed_push_goes_on(dataset: Path, local: dict[str, bytes]) -> None:
    # Mutations tried: a commit for each file -> seen half; what was sent is sent again -> 3 uploads; no removal.
    with hub_server() as hub:
        hub.fail_uploads = 1
        failed = push(dataset, "hub:me/index", hub.environment())
        assert failed.returncode == 1
        assert "hub:me/index" in failed.stderr
        assert "Traceback" not in failed.stderr
        assert files_on(hub, "datasets/me/index") == {}, "half a push is seen"
        done = push(dataset, "hub:me/index", hub.environment())
        assert done.returncode == 0, done.stderr
        assert hub.commits == 1
        assert files_on(hub, "datasets/me/index") == local
        hub.repositories["datasets/me/index"] |= {"00009.parquet": b"of before", "NOTES.md": b"mine"}
        uploads = hub.uploads
        assert push(dataset, "hub:me/index", hub.environment()).returncode == 0
        assert hub.uploads == uploads, "what was there was sent again"
        assert files_on(hub, "datasets/me/index") == {**local, "NOTES.md": b"mine"}


def test_a_repository_of_others_is_left_alone(dataset: Path) -> None:
    # Mutations tried: no look at what lies there -> overwritten; `--private` ignored for a public repository -> red.
    with hub_server() as hub:
        hub.repositories["datasets/me/theirs"] = {"00000.tar": b"theirs", "README.md": b"theirs"}
        done = push(dataset, "hub:me/theirs", hub.environment())
        assert done.returncode == 2
        assert "no push put there" in done.stderr
        assert hub.commits == 0
        hub.repositories["datasets/me/card"] = {".gitattributes": b"", "README.md": b"mine"}
        refused = push(dataset, "hub:me/card", hub.environment(), "--private")
        assert (refused.returncode, hub.commits) == (2, 0)
        assert push(dataset, "hub:me/card", hub.environment()).returncode == 0
        assert hub.repositories["datasets/me/card"]["README.md"] == b"mine"
        assert "00000.parquet" in hub.repositories["datasets/me/card"]


def test_without_a_token_the_hub_says_what_to_do(dataset: Path, tmp_path: Path) -> None:
    # Mutation tried: the client's errors let through -> a traceback.
    with hub_server() as hub:
        environment = hub.environment() | {"HF_TOKEN": "wrong", "HF_HOME": str(tmp_path)}
        failed = push(dataset, "hub:me/index", environment)
    assert failed.returncode == 1
    assert "HF_TOKEN" in failed.stderr
    assert "Traceback" not in failed.stderr


def test_a_hub_that_cannot_be_reached_is_one_error(dataset: Path, tmp_path: Path) -> None:
    # Mutation tried: OSError, ValueError, RuntimeError and KeyError alone caught -> "unexpected ConnectError".
    environment = {"HF_ENDPOINT": "http://127.0.0.1:1", "HF_TOKEN": "x", "HF_HOME": str(tmp_path)}
    failed = push(dataset, "hub:me/index", environment)
    assert failed.returncode == 1
    assert "cannot open hub:me/index: " in failed.stderr
    assert "Traceback" not in failed.stderr


@pytest.mark.skipif(bool(s3_server.missing()), reason="moto and s3fs are not installed")
def test_an_object_store_gets_what_a_folder_gets(dataset: Path, local: dict[str, bytes], tmp_path: Path) -> None:
    # Mutation tried: the prefix left out -> other names.
    with s3_server.s3_server() as server:
        server.put_file(tmp_path / "local" / "README.md", "theirs/00009.parquet")
        assert push(dataset, "s3://bucket/theirs", server.environment()).returncode == 2
        done = push(dataset, "s3://bucket/mine/index", server.environment())
        assert done.returncode == 0, done.stderr
        assert server.files("mine/index") == local
        server.put_file(tmp_path / "local" / "README.md", "mine/index/00009.parquet")
        assert push(dataset, "s3://bucket/mine/index", server.environment()).returncode == 0
        assert server.files("mine/index") == local


@pytest.mark.parametrize("to", ["hub:nobody", "hub:a/b/c", "ftp://host/x"])
def test_a_place_that_is_none_is_refused(dataset: Path, to: str) -> None:
    done = push(dataset, to, {})
    assert done.returncode == 2
    assert "hub:USER/NAME" in done.stderr
