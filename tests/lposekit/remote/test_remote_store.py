"""Contract of what is read from an object store: it is what is read from the disk, also from a server that fails now
and then; what was read stays in a cache whose size is bounded."""

from __future__ import annotations

import hashlib
import importlib
import multiprocessing
import os
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

import lposekit
from lposekit.cli import main
from lposekit.errors import LposekitError, UsageError
from lposekit.remote import retries
from lposekit.remote.blocks import BlockCache
from lposekit.remote.places import UrlPath, is_remote, place_of
from lposekit.remote.store import RemoteStore
from lposekit.report.html import write_report
from lposekit.shards.layout import DatasetLayout
from lposekit.shards.verify import verify_dataset
from lposekit.shards.whole_index import read_index
from lposekit.store import LocalStore, RefusedFile
from lposekit.store_reads import local_path, read_whole, sha256_of, walk
from tests.support.dataset_folder import make_dataset
from tests.support.s3_server import S3Server, missing, s3_server

pytestmark = pytest.mark.skipif(bool(missing()), reason=f"not installed: {', '.join(missing())}")


@pytest.fixture(scope="module")
def running() -> Iterator[S3Server]:
    with s3_server() as server:
        yield server


@pytest.fixture
def server(running: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[S3Server]:
    for name, value in running.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(retries, "FIRST_WAIT_S", 0.001)
    running.requests()
    yield running
    running.fail(0)


@pytest.fixture
def dataset(tmp_path: Path) -> DatasetLayout:
    return make_dataset(tmp_path / "d")


def samples(root: str | Path) -> list[tuple[str, dict[str, bytes]]]:
    return [(sample.key, sample.members) for sample in lposekit.open_dataset(root)]


def test_an_address_goes_through_paths_unharmed() -> None:
    # Mutation tried: `__str__` of Path -> one slash is lost
    for given in ("s3://bucket/a/b", Path("s3://bucket/a/b"), UrlPath("s3://bucket/a") / "b"):
        place = place_of(given)
        assert str(place) == f"{place}" == os.fspath(place) == "s3://bucket/a/b"
        assert (str(place / "c"), place.name, str(place.parent)) == ("s3://bucket/a/b/c", "b", "s3://bucket/a")
        assert (place / "c").relative_to(place).as_posix() == "c"
        assert is_remote(given)
    assert not any(map(is_remote, ("/s3:/a", "a", "./s3://b", "s3x://b", "s3:", "s3:///a")))


def test_it_reads_as_a_local_folder_does(server: S3Server, dataset: DatasetLayout, tmp_path: Path) -> None:
    # Mutations tried: `_fetch` from 0; names of a listing with their folder; a folder opened as a file -> red
    url = server.put(dataset.root, "alike")
    local, remote = LocalStore(dataset.root), RemoteStore(url)
    assert sorted(walk(remote)) == sorted(walk(local))
    for name, kind in walk(local):
        assert remote.stat(name) == local.stat(name) or kind == "folder"
        if kind == "file":
            assert sha256_of(remote, name) == sha256_of(local, name)
            assert read_whole(remote, name, 2**24) == read_whole(local, name, 2**24)
            with local_path(remote, name) as path:
                assert path.read_bytes() == read_whole(local, name, 2**24)
    file, size = remote.open("00000.tar"), local.stat("00000.tar").size
    assert file.read(size - 3, 100) == local.open("00000.tar").read(size - 3, 100)
    assert file.read(size, 1) == b""
    for name in ("no", "_dataset/no"):
        for call in (remote.stat, remote.open):
            with pytest.raises(FileNotFoundError):
                call(name)
    for name in ("../alike/00000.tar", "a//b", "", "_dataset"):
        with pytest.raises(RefusedFile):
            remote.open(name)


def test_a_dataset_opens_by_its_address(server: S3Server, dataset: DatasetLayout) -> None:
    url = server.put(dataset.root, "opened")
    for root in (url, Path(url)):
        assert samples(root) == samples(dataset.root)
    opened = lposekit.open_dataset(url)
    assert opened.rows().equals(lposekit.open_dataset(dataset.root).rows())
    assert [shard.tar_sha256 for shard in opened.shards] == [shard.tar_sha256 for shard in read_index(dataset.root)]
    assert verify_dataset(Path(url)) == []
    with pytest.raises(LposekitError, match="s3://bucket/nothing: no committed shard"):
        lposekit.open_dataset("s3://bucket/nothing")


def test_nothing_is_written_there_and_no_folder_of_its_name_appears(
    server: S3Server, dataset: DatasetLayout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Mutation tried: no `refuse_address` in the report -> a folder `s3:`
    monkeypatch.chdir(tmp_path)
    url = server.put(dataset.root, "written")
    assert main(["verify", url]) == 0
    assert main(["view", url]) == 2
    with pytest.raises(UsageError, match="s3://bucket/written: datasets in object stores are read, never written to"):
        write_report(Path(url))
    assert main(["refilter", str(dataset.root), "--output", url]) == 2
    assert not (tmp_path / "s3:").exists()
    assert {request.split()[0] for request in server.requests()} <= {"GET", "HEAD", "PUT"}


def test_the_index_that_lies_with_a_dataset_is_used_and_a_changed_shard_is_seen(
    server: S3Server, dataset: DatasetLayout, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # Mutations tried: index not fetched -> own indexes read; ETag not compared -> the old shard
    monkeypatch.setattr("lposekit.shards.whole_index.KEPT_FROM", 1)
    read_index(dataset.root)
    url = server.put(dataset.root, "indexed")
    server.requests()
    assert [shard.keys.tolist() for shard in read_index(url)] == [
        shard.keys.tolist() for shard in read_index(dataset.root)
    ]
    asked = server.requests()
    assert not [request for request in asked if "_stats.json" in request or "/index/" in request]
    other = make_dataset(tmp_path / "other", rows_per_shard=4)
    for path in (other.tar(0), other.parquet(0), other.index(0), other.stats(0)):
        server.put_file(path, f"indexed/{other.relative(path)}")
    assert read_index(url)[0].tar_sha256 == other.read_stats(0).files["00000.tar"].sha256


def test_a_server_that_fails_now_and_then_changes_nothing(server: S3Server, dataset: DatasetLayout) -> None:
    url = server.put(dataset.root, "failing")
    server.fail(0.25)
    assert samples(url) == samples(dataset.root)
    assert any(request.startswith("failed") for request in server.requests())


class Flaky:
    """fsspec's file system as far as it is needed, whose answers are listed: bytes, or errors."""

    def __init__(self, *answers: bytes | Exception) -> None:
        self.answers = list(answers)

    def cat_file(self, path: str, start: int, end: int) -> bytes:
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


def test_what_failed_is_asked_for_again_and_a_short_answer_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    # Mutations tried: `with_retries` that calls once -> OSError; no ShortAnswer -> "ab"; lasting errors tried again ->
    # the list is empty
    monkeypatch.setattr(retries, "FIRST_WAIT_S", 0.001)
    flaky = Flaky(OSError("reset"), RuntimeError("503"), b"ab", b"abcd", FileNotFoundError("gone"))
    monkeypatch.setattr(RemoteStore, "_system", lambda store: flaky)
    assert RemoteStore("s3://bucket/d").fetch("a", 0, 4) == b"abcd"
    with pytest.raises(FileNotFoundError, match="gone"):
        RemoteStore("s3://bucket/d").fetch("a", 0, 4)


class NoCredentialsError(Exception):
    """As botocore's: known by its name, since it need not be installed."""


@pytest.mark.parametrize("refusal", [NoCredentialsError("Unable to locate credentials"), PermissionError("Forbidden")])
def test_missing_credentials_are_named_at_once(monkeypatch: pytest.MonkeyPatch, refusal: Exception) -> None:
    # Mutation tried: no branch for them in `with_retries` -> tried again: the list is empty.
    monkeypatch.setattr(retries, "FIRST_WAIT_S", 0.001)
    flaky = Flaky(refusal)
    monkeypatch.setattr(RemoteStore, "_system", lambda store: flaky)
    with pytest.raises(UsageError, match=rf"read s3://bucket/d/a: .*{refusal}\. Give credentials.*AWS_ACCESS_KEY_ID"):
        RemoteStore("s3://bucket/d").fetch("a", 0, 4)


def test_a_dataset_without_credentials_is_not_called_damaged(
    server: S3Server, dataset: DatasetLayout, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    url = server.put(dataset.root, "closed")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setattr("lposekit.remote.store._systems", {})  # clients that know the credentials of other tests
    importlib.import_module("s3fs").S3FileSystem.clear_instance_cache()
    with pytest.raises(UsageError, match=r"s3://bucket/closed.*Give credentials"):
        lposekit.open_dataset(url)


@pytest.mark.more
def test_a_server_that_goes_on_failing_is_named(
    server: S3Server, dataset: DatasetLayout, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = server.put(dataset.root, "gone")
    opened = lposekit.open_dataset(url)
    monkeypatch.setattr(retries, "ATTEMPTS", 2)
    monkeypatch.setattr("s3fs.S3FileSystem.retries", 1)  # it has waits of its own
    server.fail(1)
    with pytest.raises(LposekitError, match=r"s3://bucket/gone.*sample 000000000 cannot be read.*failed 2 times"):
        _ = opened[0]


def test_a_missing_driver_is_named_with_the_way_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match=r"gs://bucket/a: the driver of gs:// is not installed .*pip install gcsfs"):
        lposekit.open_dataset("gs://bucket/a")


# The cache.


class Source:
    """Bytes that are fetched, counted by range."""

    def __init__(self, size: int) -> None:
        self.data = bytes(i * 7 % 251 for i in range(size))
        self.fetched: Counter[tuple[int, int]] = Counter()

    def fetch(self, start: int, stop: int) -> bytes:
        self.fetched[start, stop] += 1
        return self.data[start:stop]


def name_of(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def test_any_part_is_read_right_and_each_block_is_fetched_once(tmp_path: Path) -> None:
    # Mutations tried: last block as long as the others; `low` from the wrong start -> red
    source, cache = Source(1000), BlockCache(tmp_path / "c", 10**6, block_bytes=64)
    for offset, size in [(0, 1), (63, 2), (0, 1000), (999, 1), (100, 500), (64, 64)]:
        assert cache.read(name_of("a"), offset, size, 1000, source.fetch) == source.data[offset : offset + size]
    assert set(source.fetched.values()) == {1}
    assert len(source.fetched) == 16


def test_the_cache_stays_below_its_cap_and_forgets_what_was_used_longest_ago(tmp_path: Path) -> None:
    # Mutations tried: nothing removed; the newest removed first -> red
    source, cache = Source(64_000), BlockCache(tmp_path / "c", 6_400, block_bytes=64)
    for start in range(0, 64_000, 64):
        cache.read(name_of("a"), start, 64, 64_000, source.fetch)
        for path in (tmp_path / "c").rglob(f"*-{start // 64}"):
            os.utime(path, (start, start + 10))
    left = [path for path in (tmp_path / "c").rglob("*-*") if "lock" not in path.name]
    assert sum(path.stat().st_size for path in left) <= 6_400 + 64
    assert min(int(path.name.rpartition("-")[2]) for path in left) >= 880


def test_a_block_that_was_cut_is_fetched_again_and_a_cache_that_cannot_be_written_does_without(tmp_path: Path) -> None:
    # Mutation tried: no comparison of a block's length, nor of what was read of it -> cut bytes
    source, cache = Source(300), BlockCache(tmp_path / "c", 10**6, block_bytes=100)
    cache.read(name_of("a"), 0, 300, 300, source.fetch)
    for path in (tmp_path / "c").rglob("*-1"):
        path.write_bytes(b"")
    assert cache.read(name_of("a"), 90, 200, 300, source.fetch) == source.data[90:290]
    (tmp_path / "file").write_bytes(b"")
    assert BlockCache(tmp_path / "file", 10**6, 100).read(name_of("a"), 5, 200, 300, source.fetch) == source.data[5:205]


def _read_all(folder: Path, log: Path) -> None:
    source, cache = Source(6400), BlockCache(folder, 10**6, block_bytes=64)
    for start in range(0, 6400, 50):
        assert cache.read(name_of("a"), start, 50, 6400, source.fetch) == source.data[start : start + 50]
    log.write_text(str(sum(source.fetched.values())))


def test_processes_share_what_one_of_them_fetched(tmp_path: Path) -> None:
    # Mutation tried: no look at the disk after the lock is taken -> more than 100 fetches
    context = multiprocessing.get_context("fork")
    logs = [tmp_path / f"{number}" for number in range(4)]
    processes = [context.Process(target=_read_all, args=(tmp_path / "c", log)) for log in logs]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert sum(int(log.read_text()) for log in logs) == 100
    shutil.rmtree(tmp_path / "c")
