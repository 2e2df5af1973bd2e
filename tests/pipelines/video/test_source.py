"""Contract of a video's source: what keeps a file from being read, and every rule that turns it down, costs its row
alone, and says why; files on their way lie in the dataset's own work folder, which is empty afterwards.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import lposekit
from lposekit.errors import LposekitError, Outcome, Rejected, UsageError
from lposekit.shards.layout import DatasetLayout
from pipelines.fetch.policy import Blocklist
from pipelines.fetch.settings import TransportSettings
from pipelines.job.lock import owned_folder, work_folder
from pipelines.recipes import build_videos as run
from pipelines.video.clips.records import VideoRow
from pipelines.video.clips.settings import EncodeSettings
from pipelines.video.source import VideoSource
from tests.support.bad_server import BadServer
from tests.support.execute_here import execute_here
from tests.support.pages import Page
from tests.support.raw_server import raw_server
from tests.support.video_build import listed
from tests.support.videos import moving, write_video

pytestmark = pytest.mark.timeout(240)
YT_DLP = "import pathlib, shutil; pathlib.Path({calls!r}).touch(); shutil.copy({video!r}, 'video.mp4')"


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A good video of two seconds."""
    return write_video(tmp_path_factory.mktemp("video") / "a.mp4", [moving(i) for i in range(50)])


def digest(path: Path, algorithm: str = "sha256") -> str:
    return hashlib.new(algorithm, path.read_bytes()).hexdigest()


def fetched_by(settings: Mapping[str, Any], blocked: tuple[str, ...], folder: Path) -> TransportSettings:
    blocklist = folder / "blocklist.txt"
    blocklist.write_text("".join(f"{line}\n" for line in blocked))
    return TransportSettings(robots=False, retries=0, blocklist=(blocklist,), **settings)


def outcomes(folder: Path) -> list[str]:
    return lposekit.open_dataset(folder / "d").rows()["outcome"].to_pylist()


def messages(folder: Path) -> list[str | None]:
    return lposekit.open_dataset(folder / "d").rows()["error_message"].to_pylist()


# mutation tried: no `except OSError` in VideoSource.sha256 raises out of the shard: red
def test_file_that_cannot_be_read_costs_its_row_alone(video: Path, tmp_path: Path) -> None:
    paths = ["/proc/self/mem", f"{'x' * 300}.mp4", "gone.mp4", str(video)]  # the first opens, and fails on reading
    report = run(listed(tmp_path, [{"path": path} for path in paths]), execute=execute_here)
    assert report.exit_code == 0
    assert outcomes(tmp_path) == ["short_read", "bad_url", "bad_url", "kept"]
    assert "Input/output error" in str(messages(tmp_path)[0])


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_file_without_permission_costs_its_row_alone(video: Path, tmp_path: Path) -> None:
    (tmp_path / "closed.mp4").write_bytes(video.read_bytes())
    (tmp_path / "closed.mp4").chmod(0)
    run(listed(tmp_path, [{"path": "closed.mp4"}, {"path": str(video)}]), execute=execute_here)
    assert outcomes(tmp_path) == ["bad_url", "kept"]


# mutation tried: no `check_sha256` keeps all: red
def test_blocked_bytes_are_turned_down_wherever_they_come_from(video: Path, tmp_path: Path) -> None:
    other = write_video(tmp_path / "other.mp4", [moving(i, shot=1) for i in range(50)])
    with BadServer(pages={"/a.mp4": Page(video.read_bytes(), "video/mp4")}) as server:
        rows = [{"path": str(video)}, {"url": f"{server.url}/a.mp4"}, {"path": str(other)}]
        settings = listed(tmp_path, rows, fetch=fetched_by({}, (digest(video),), tmp_path))
        run(replace(settings, allow_private_addresses=True), execute=execute_here)
        assert len(server.hits) == 1
    assert outcomes(tmp_path) == ["blocked", "blocked", "kept"]
    assert messages(tmp_path)[0] == "blocked: sha256 is on the blocklist"


# mutations tried: no `check_url` before yt-dlp, no `_check_origin`: red each
def test_blocked_addresses_are_turned_down_platforms_and_local_copies_too(
    video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = tmp_path / "calls"
    package = tmp_path / "site" / "yt_dlp"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "__main__.py").write_text(YT_DLP.format(calls=str(calls), video=str(video)))
    monkeypatch.syspath_prepend(package.parent)
    monkeypatch.setenv("PYTHONPATH", str(package.parent))
    rows = [
        {"url": "https://www.youtube.com/watch?v=blocked"},
        {"url": "https://vimeo.com/1"},
        {"path": str(video), "url": "https://example.org/removed.mp4"},
    ]
    blocked = ("https://www.youtube.com/watch?v=blocked", "vimeo.com", "https://example.org/removed.mp4")
    run(listed(tmp_path, rows, fetch=fetched_by({}, blocked, tmp_path)), execute=execute_here)
    assert outcomes(tmp_path) == ["blocked", "blocked", "blocked"]
    assert not calls.exists()
    rest = listed(tmp_path, rows[1:2], fetch=fetched_by({}, (), tmp_path))
    run(replace(rest, output=tmp_path / "free" / "d"), execute=execute_here)
    assert outcomes(tmp_path / "free") == ["kept"]
    assert calls.exists()


# mutation tried: blocklist read by the workers only: red
def test_blocklist_that_nobody_understands_stops_the_build_before_it_begins(video: Path, tmp_path: Path) -> None:
    settings = listed(tmp_path, [{"path": str(video)}], fetch=fetched_by({}, ("no domain!",), tmp_path))
    with pytest.raises(UsageError, match=r"blocklist.txt line 1"):
        run(settings, execute=execute_here)
    assert not (tmp_path / "d").exists()


# mutation tried: no `require_encoder` in `preflight`: the build begins: red
def test_an_ffmpeg_without_x264_stops_the_build_before_it_begins(
    video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A codec that no FFmpeg has stands for x264, which ours has."""
    monkeypatch.setattr("pipelines.video.clips.writer._ENCODER", "libx999")
    settings = listed(tmp_path, [{"path": str(video)}])
    with pytest.raises(UsageError, match=r"no encoder libx999.*--encode.format frames"):
        run(settings, execute=execute_here)
    assert not (tmp_path / "d").exists()
    run(replace(settings, encode=EncodeSettings(format="frames")), execute=execute_here)
    assert outcomes(tmp_path) == ["kept"]


# mutation tried: `check_hash` not called keeps all: red
@pytest.mark.parametrize("verify", [True, False])
def test_listed_hash_has_to_fit(video: Path, tmp_path: Path, verify: bool) -> None:
    rows = [
        {"path": str(video), "md5": digest(video, "md5")},
        {"path": str(video), "md5": "0" * 32},
        {"path": str(video), "sha256": "0" * 64},
    ]
    run(listed(tmp_path, rows, fetch=fetched_by({"verify_hash": verify}, (), tmp_path)), execute=execute_here)
    assert outcomes(tmp_path) == (["kept", "hash_mismatch", "hash_mismatch"] if verify else ["kept"] * 3)


def source(fetch: Any) -> VideoSource:
    return VideoSource(fetch, Blocklist(), verify_hash=True)


# mutation tried: `worker_crash` for a full disk too: red
def test_full_disk_raises(tmp_path: Path) -> None:
    def fetch(url: str, path: Path) -> None:
        path.symlink_to("/dev/full")
        path.write_bytes(b"video" * 10_000)

    with pytest.raises(LposekitError, match="the disk is full"):
        source(fetch).file(VideoRow("a", url="https://example.org/a.mp4"), tmp_path)


def test_file_that_cannot_be_kept_for_another_reason_is_the_rows(tmp_path: Path) -> None:
    def fetch(url: str, path: Path) -> None:
        (path / "a").write_bytes(b"")

    with pytest.raises(Rejected) as caught:
        source(fetch).file(VideoRow("a", url="https://example.org/a.mp4"), tmp_path)
    assert caught.value.outcome is Outcome.WORKER_CRASH


# mutation tried: no `except Exception` in VideoSource._fetched: the error leaves the shard: red
@pytest.mark.case(59)
def test_an_error_that_nobody_thought_of_costs_its_row_alone(video: Path, tmp_path: Path) -> None:
    def fetch(url: str, path: Path) -> None:
        raise ValueError("negative count")

    with pytest.raises(Rejected, match="unexpected ValueError: negative count") as caught:
        source(fetch).file(VideoRow("a", url="https://example.org/a.mp4"), tmp_path)
    assert caught.value.outcome is Outcome.WORKER_CRASH


# mutation tried: http.client's own reading of chunks, and no `except Exception`: the shard is never committed: red
@pytest.mark.case(59)
def test_a_chunk_size_below_zero_costs_its_video_alone(video: Path, tmp_path: Path) -> None:
    answer = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-2\r\nab\r\n0\r\n\r\n"
    with raw_server(answer) as url:
        rows = [{"url": f"{url}/a.mp4"}, {"path": str(video)}]
        settings = listed(tmp_path, rows, fetch=fetched_by({}, (), tmp_path))
        assert run(replace(settings, allow_private_addresses=True), execute=execute_here).exit_code == 0
    assert outcomes(tmp_path) == ["short_read", "kept"]


# mutations tried: `watched` left out for platforms: five calls; `timed_out` that returns at once: five hits: red each
@pytest.mark.case(61)
def test_rows_of_a_host_that_only_times_out_end_at_once_files_and_platforms_alike(
    video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "site" / "yt_dlp"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    calls = tmp_path / "calls"
    (package / "__main__.py").write_text(f"import time; open({str(calls)!r}, 'a').write('x'); time.sleep(60)")
    monkeypatch.syspath_prepend(package.parent)
    times = {"total_timeout_s": 1.0, "idle_timeout_s": 0.3, "connect_timeout_s": 0.3}
    with BadServer() as server:
        rows = [{"url": f"{server.url}/mute?{number}"} for number in range(5)]
        rows += [{"url": f"https://vimeo.com/{number}"} for number in range(5)]
        settings = listed(tmp_path, [*rows, {"path": str(video)}], fetch=fetched_by(times, (), tmp_path))
        run(replace(settings, allow_private_addresses=True), execute=execute_here)
        assert len(server.hits) == 3
    assert outcomes(tmp_path) == [*["timeout"] * 10, "kept"]
    assert calls.read_text() == "xxx"


# mutation tried: the system's temporary folder in place of `work_folder`: red
def test_files_on_their_way_lie_in_the_dataset_and_not_in_memory(
    video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "tmp"
    elsewhere.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(elsewhere))
    made = []
    mkdtemp = tempfile.mkdtemp
    monkeypatch.setattr(tempfile, "mkdtemp", lambda **where: made.append(where["dir"]) or mkdtemp(**where))
    with BadServer(pages={"/a.mp4": Page(video.read_bytes(), "video/mp4")}) as server:
        rows = [{"url": f"{server.url}/a.mp4"}, {"path": str(video)}]
        settings = listed(tmp_path, rows, fetch=fetched_by({}, (), tmp_path))
        run(replace(settings, allow_private_addresses=True), execute=execute_here)
    layout = DatasetLayout(tmp_path / "d")
    assert outcomes(tmp_path) == ["kept", "kept"]
    assert {folder.parent.parent for folder in made} == {layout.work}
    assert not layout.work.exists()
    assert list(elsewhere.iterdir()) == []


# mutations tried: leftovers not removed by `work_folder`, not removed by `owned_folder`: red each
def test_what_a_killed_worker_left_is_removed_by_the_next_try_and_the_next_run(tmp_path: Path) -> None:
    layout = DatasetLayout(tmp_path / "d")
    with owned_folder(layout) as run_id:
        left = layout.work / run_id / "worker-killed" / "000000003-killed"
        other = layout.work / run_id / "worker-alive" / "000000004-alive"
        left.mkdir(parents=True)
        other.mkdir(parents=True)
        with work_folder(layout, run_id, "000000003") as folder:
            assert folder.parent.parent == left.parent.parent
            assert list(folder.iterdir()) == []
            assert not left.exists()
            assert other.exists()
    assert not layout.work.exists()
    (layout.work / "older" / "000000001-killed").mkdir(parents=True)
    with owned_folder(layout):
        assert not layout.work.exists()
