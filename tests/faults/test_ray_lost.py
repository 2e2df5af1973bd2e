"""Contract: whatever of Ray dies or stands still, a build ends or goes on, never waits for ever; the same command, run
again, ends with the bytes of an undisturbed run.

- A worker's node of the cluster is lost: its shard is built elsewhere, exit code 0.
- The node or the head that the driver hangs on is lost: exit code 1 with the reason.
- A worker stands still: exit code 1 after `--stall-minutes`, with the shard in the last lines.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.support.bad_server import BadServer
from tests.support.build_process import Build, actor_processes, content_digest, wait_until
from tests.support.pages import Page
from tests.support.ray_cluster import ray_cluster
from tests.support.stub_images import stub_image

ROWS = 40
pytestmark = [pytest.mark.more, pytest.mark.timeout(800)]


@pytest.fixture(scope="module")
def list_path(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Images that the stub takes half a second for, so that there is time to kill."""
    pages = {f"/{row}.jpg": Page(stub_image(row, behaviour="sleep" if row % 5 == 4 else "well")) for row in range(ROWS)}
    with BadServer(pages=pages) as server:
        path = tmp_path_factory.mktemp("list") / "list.jsonl"
        rows = ({"url": f"{server.url}/{row}.jpg", "caption": f"row {row}"} for row in range(ROWS))
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        yield path


@pytest.fixture(scope="module")
def undisturbed(list_path: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    build = Build(list_path, tmp_path_factory.mktemp("undisturbed") / "d")
    assert build.finish_here().exit_code == 0
    return content_digest(build.layout)


def _processes(pid: int, name: str) -> list[psutil.Process]:
    found = []
    for process in psutil.Process(pid).children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if process.name() == name:
                found.append(process)
    return sorted(found, key=lambda process: process.create_time())


def _wait_for_a_commit(build: Build, process: subprocess.Popen[str]) -> None:
    wait_until(lambda: bool(build.layout.committed_shards()) or process.poll() is not None, "a commit", 150)
    assert process.poll() is None, build.log_path.read_text()


def _assert_resumed(build: Build, undisturbed: dict[str, str]) -> None:
    assert build.finish_here().exit_code == 0
    assert content_digest(build.layout) == undisturbed


@pytest.mark.case(79)
def test_a_local_node_that_dies_ends_the_build_with_the_reason(
    list_path: Path, undisturbed: dict[str, str], tmp_path: Path
) -> None:
    # Mutation tried: `liveness.check` not called -> the build waits for `--stall-minutes`.
    build = Build(list_path, tmp_path / "d")
    with build.started() as process:
        _wait_for_a_commit(build, process)
        [raylet] = _processes(process.pid, "raylet")
        raylet.kill()
        assert process.wait(150) == 1, build.log_path.read_text()
    told = build.log_path.read_text().splitlines()[-1]
    assert told.startswith("lposekit: the Ray node")
    assert "run the same command again to resume" in told
    _assert_resumed(build, undisturbed)


def _stop_in_a_shard(build: Build, workers: list[psutil.Process]) -> None:
    """Between two shards a worker has nothing to tell."""

    def stopped() -> bool:
        for worker in workers:
            worker.suspend()
        if any(f'"pid": {worker.pid}' in _activities(build) for worker in workers):
            return True
        for worker in workers:
            worker.resume()
        return False

    wait_until(stopped, "a worker in a shard")


def _activities(build: Build) -> str:
    return "".join(path.read_text() for path in build.layout.work.glob("*/activity-*.json"))


@pytest.mark.case(79)
def test_a_worker_that_stands_still_ends_the_build_and_is_named_in_the_last_lines(
    list_path: Path, undisturbed: dict[str, str], tmp_path: Path
) -> None:
    # Mutation tried: `watchdog.look` not called -> the build waits for ever.
    build = Build(list_path, tmp_path / "d", extra=("--stall-minutes", "0.3"))
    with build.started() as process:
        _wait_for_a_commit(build, process)
        workers = actor_processes(process, "ShardWorker")
        _stop_in_a_shard(build, workers)
        assert process.wait(150) == 1, build.log_path.read_text()
        for worker in workers:
            assert not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE, "it holds no lock any more"
    told = build.log_path.read_text()
    assert "nothing was fetched, decoded, judged or committed for 18 s" in told
    waited_for = told.partition("What was waited for:")[2]  # one of them may have been stopped before it told anything
    assert any(f"process {worker.pid} on " in waited_for for worker in workers)
    _assert_resumed(build, undisturbed)


@pytest.mark.case(85)
@pytest.mark.parametrize("victim", ["raylet", "gcs_server"])
def test_a_cluster_that_loses_a_node_goes_on_and_one_that_loses_its_head_ends_unless_all_is_done_before(
    victim: str, list_path: Path, undisturbed: dict[str, str], tmp_path: Path
) -> None:
    # Mutation tried: `liveness.check` not called -> Ray ends the process that lost its head without a word of ours.
    with ray_cluster(2) as (address, token):
        build = Build(list_path, tmp_path / "d", extra=("--ray-address", address), environment=token)
        with build.started() as process:
            _wait_for_a_commit(build, process)
            _processes(os.getpid(), victim)[-1].kill()  # of two nodes, the one that was added to the head
            code = process.wait(250)
        assert code in ((0, 1) if victim == "gcs_server" else (0,)), build.log_path.read_text()
        if code:
            assert "the head of the Ray cluster" in build.log_path.read_text().splitlines()[-1]
    _assert_resumed(build, undisturbed)
