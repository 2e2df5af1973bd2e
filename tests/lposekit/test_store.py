"""Contract: a store gives out regular files below its root, follows no links, and waits for nothing; what stands above
its three calls works alike for every form."""

from __future__ import annotations

import hashlib
import os
import sys
from pathlib import Path

import pytest

from lposekit.store import Facts, LocalStore, RefusedFile, Store
from lposekit.store_reads import MAX_DEPTH, local_path, read_whole, sha256_of, stream_of, walk
from tests.support.memory_store import MemoryStore


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder with one file, and everything that must not be followed out of it or waited for."""
    (tmp_path / "private").mkdir()
    (tmp_path / "private" / "secret").write_text("secret")
    root = tmp_path / "root"
    (root / "in").mkdir(parents=True)
    (root / "in" / "plain").write_text("plain")
    (root / "linked file").symlink_to(tmp_path / "private" / "secret")
    (root / "linked folder").symlink_to(tmp_path / "private")
    (root / "loop").symlink_to(root / "loop")
    (root / "link to own").symlink_to(root / "in" / "plain")
    (root / "endless").symlink_to("/dev/zero")
    os.mkfifo(root / "pipe")
    return root


# Mutations tried: without O_NOFOLLOW for the last name and its look before, without O_NOFOLLOW for folders, without the
# check of parts, without the check of the kind (the pipe; the test's time limit) -> red each.
@pytest.mark.case(71)
@pytest.mark.case(73)
@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("linked file", "a link"),
        ("linked folder", "a link"),
        ("linked folder/secret", "a link"),
        ("loop", "a link"),
        ("link to own", "a link"),
        ("endless", "a link"),
        ("pipe", "no regular file"),
        ("in", "a folder, not a file"),
        ("in/plain/more", "a file, not a folder"),
        ("../private/secret", "outside the folder"),
        ("in/../../private/secret", "outside the folder"),
        ("./in/plain", "outside the folder"),
        ("in//plain", "outside the folder"),
        ("", "outside the folder"),
        ("in/plain\0", "outside the folder"),
    ],
)
@pytest.mark.timeout(180)
def test_only_a_regular_file_below_the_root_is_opened(root: Path, name: str, why: str) -> None:
    with pytest.raises(RefusedFile, match=why):
        LocalStore(root).open(name)


@pytest.mark.case(71)
def test_a_path_from_the_root_is_refused(root: Path) -> None:
    with pytest.raises(RefusedFile, match="outside the folder"):
        LocalStore(root).open(str(root.parent / "private" / "secret"))


def test_what_is_not_there_is_said_to_be_missing(root: Path) -> None:
    for name in ("none", "none/none"):
        for call in (LocalStore(root).open, LocalStore(root).stat):
            with pytest.raises(FileNotFoundError):
                call(name)


@pytest.mark.case(71)
def test_links_are_told_and_not_followed(root: Path) -> None:
    # Mutations tried: `is_symlink` asked last; stat that follows; a walk that enters links (it does not end) -> red.
    store = LocalStore(root)
    links = dict.fromkeys(["endless", "link to own", "linked file", "linked folder", "loop"], "link")
    assert store.list() == {"in": "folder", **links, "pipe": "other"}
    assert [store.stat(name).kind for name in ("in", "loop", "pipe")] == ["folder", "link", "other"]
    assert dict(walk(store)) == {**store.list(), "in/plain": "file"}
    with pytest.raises(RefusedFile, match="a link"):
        store.list("linked folder")


def test_the_root_itself_may_be_a_link(root: Path) -> None:
    # Mutation tried: the root opened with O_NOFOLLOW -> red.
    (root.parent / "named").symlink_to(root)
    assert read_whole(LocalStore(root.parent / "named"), "in/plain", 10) == b"plain"


@pytest.mark.case(73)
def test_a_file_in_too_many_folders_is_not_looked_for(tmp_path: Path) -> None:
    # Mutation tried: without the cap -> red.
    deep = tmp_path.joinpath(*"x" * 100)
    deep.mkdir(parents=True)
    assert len(list(walk(LocalStore(tmp_path)))) == MAX_DEPTH + 1


def _stores(folder: Path) -> list[Store]:
    files = {"a": b"0123456789", "b/c": b"x" * 10_000_000}
    (folder / "b").mkdir()
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return [LocalStore(folder), MemoryStore(files)]


def test_every_form_reads_alike(tmp_path: Path) -> None:
    # Mutations tried: a stream that seeks from the wrong end, a hash without its last piece, a spooled file that is
    # not flushed -> red each.
    for store in _stores(tmp_path):
        assert store.list() == {"a": "file", "b": "folder"}
        assert store.stat("a") == Facts("file", 10)
        assert sorted(walk(store)) == [("a", "file"), ("b", "folder"), ("b/c", "file")]
        file = store.open("a")
        assert (file.size, file.read(8, 9), file.read(10, 1)) == (10, b"89", b"")
        file.close()
        assert sha256_of(store, "b/c") == hashlib.sha256(b"x" * 10_000_000).hexdigest()
        with stream_of(store, "a") as stream:
            assert (stream.seek(-3, os.SEEK_END), stream.read(), stream.seek(2), stream.read(3)) == (
                7,
                b"789",
                2,
                b"234",
            )
        for name, data in (("a", b"0123456789"), ("b/c", b"x" * 10_000_000)):
            with local_path(store, name) as path:
                assert path.read_bytes() == data
        with pytest.raises(ValueError, match="more than 9 bytes"):
            read_whole(store, "a", 9)
        assert read_whole(store, "a", 10) == b"0123456789"


@pytest.mark.case(71)
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux names what is open")
def test_a_path_goes_on_meaning_the_file_that_was_opened(tmp_path: Path) -> None:
    # Mutation tried: the file's own path -> red.
    (tmp_path / "a").write_text("a")
    (tmp_path / "b").write_text("b")
    with local_path(LocalStore(tmp_path), "a") as path:
        (tmp_path / "a").unlink()
        (tmp_path / "a").symlink_to(tmp_path / "b")
        assert path.read_text() == "a"
