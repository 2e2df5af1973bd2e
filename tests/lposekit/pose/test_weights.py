"""Contract of lposekit.pose.weights and lposekit.pose.checkpoint.

Weights are found in the folder given, LPOSEKIT_WEIGHTS and the cache, or downloaded from their publisher (here: a
server on this machine that serves random checkpoints in OpenMMLab's layout); nothing with another sha256 is used;
nothing that a .pth file asks to run is run; every error says where to put which file.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import http.server
import os
import pickle
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch

import lposekit.pose.download
from lposekit.errors import UsageError
from lposekit.pose.at_hand import pair_at_hand, require_weights
from lposekit.pose.checkpoint import load_into, load_weights, read_checkpoint, read_converted
from lposekit.pose.download import download, unreachable
from lposekit.pose.models import build_pose_model
from lposekit.pose.openmmlab import ensure_openmmlab
from lposekit.pose.weights import BESIDE, WeightsError, cache_folder, find_weights, how_checked
from lposekit.pose.zoo import DETECTORS, POSE_MODELS, WeightsFile
from tests.support.fixtures import REPOSITORY, fixture_path

pytestmark = pytest.mark.timeout(180)
RTMPOSE = POSE_MODELS["rtmpose-t"]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("LPOSEKIT_WEIGHTS", raising=False)
    monkeypatch.chdir(tmp_path)  # away from weights beside the repository


@pytest.fixture
def publisher(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder and the address under which a server of its own serves it."""
    folder = tmp_path / "publisher"
    folder.mkdir()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args: object) -> None:
            pass

        def copyfile(self, source, outputfile) -> None:
            content = source.read()
            outputfile.write(content[: len(content) // 2] if "?half" in self.path else content)

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=folder)) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield folder, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def openmmlab_checkpoint(path: Path, state: dict[str, torch.Tensor]) -> str:
    """A checkpoint as mmengine writes it, message history and all; returns its sha256."""
    ensure_openmmlab()
    from mmengine.logging import HistoryBuffer, MessageHub

    hub = MessageHub("test")
    hub.update_scalar("train/loss", 0.5)
    hub.update_info("epoch", np.int64(3))
    buffer = HistoryBuffer([1.0, 2.0], [1, 1])
    buffer._statistics_methods = dict(HistoryBuffer._statistics_methods)  # as old versions pickled it: bound methods
    content = {
        "meta": {"epoch": 3, "dataset_meta": {"sigmas": np.array([0.1, 0.2]), "CLASSES": ("person",)}, "cfg": "x = 1"},
        "state_dict": state,
        "ema_state_dict": {f"module.{key}": torch.zeros_like(value) for key, value in state.items()},
        "message_hub": {**hub.state_dict(), "old": buffer, "loss": np.float64(0.25)},
        "optimizer": {"state": {0: {"step": torch.tensor(1.0)}}, "param_groups": [{"lr": 0.1}]},
    }
    torch.save(content, path)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def served_checkpoint(folder: Path, url: str) -> tuple[WeightsFile, dict[str, torch.Tensor]]:
    """Full-width random weights of RTMPose-t at the publisher, named and checked as OpenMMLab's are."""
    torch.manual_seed(0)
    state = build_pose_model(RTMPOSE).module.state_dict()
    digest = openmmlab_checkpoint(folder / "new.pth", state)
    name = f"rtmpose-t_random-{digest[:8]}_20261120.pth"
    (folder / "new.pth").rename(folder / name)
    return WeightsFile(name, f"{url}/{name}", (digest[:8],), "Apache-2.0", "a test"), state


# Mutation: drop "builtins.getattr" or the HistoryBuffer from _INERT_NAMES (the load is refused); drop
# `_keep_converted`.
def test_a_publishers_checkpoint_is_downloaded_checked_converted_and_loaded(publisher: tuple[Path, str]) -> None:
    weights, state = served_checkpoint(*publisher)
    loaded = load_weights(weights)
    assert loaded.path == cache_folder() / weights.file
    assert loaded.sha256.startswith(weights.sha256[0])
    module = build_pose_model(RTMPOSE).module
    load_into(module, loaded.state, "rtmpose-t")
    assert all(torch.equal(value, state[key]) for key, value in module.state_dict().items())
    [converted] = cache_folder().glob("*.safetensors")
    again = read_converted(converted, loaded.sha256)
    assert again is not None
    assert again.keys() == loaded.state.keys()
    assert not list(cache_folder().glob("*.partial"))


def test_a_second_load_asks_no_publisher_and_unpickles_nothing(
    publisher: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    weights, _ = served_checkpoint(*publisher)
    first = load_weights(weights)
    (publisher[0] / weights.file).unlink()
    # the border: torch.load is what must not be reached
    monkeypatch.setattr(torch, "load", lambda *args, **kwargs: pytest.fail("unpickled although converted"))
    second = load_weights(weights)
    assert all(torch.equal(value, second.state[key]) for key, value in first.state.items())


# Mutation: skip _check_download.
def test_a_tampered_download_is_refused_and_not_kept(publisher: tuple[Path, str]) -> None:
    weights, _ = served_checkpoint(*publisher)
    served = publisher[0] / weights.file
    served.write_bytes(served.read_bytes()[:-1] + b"!")
    with pytest.raises(WeightsError, match=r"served a file with the sha256 .* is expected: not kept"):
        load_weights(weights)
    assert find_weights(weights) is None
    assert {path.suffix for path in cache_folder().iterdir()} == {".lock"}


# Mutations: return the digest unchecked in checked_sha256; look for the note beside the file.
@pytest.mark.case(76)
def test_a_tampered_file_in_a_folder_is_refused_unless_the_user_vouches_for_it(
    publisher: tuple[Path, str], tmp_path: Path
) -> None:
    weights, state = served_checkpoint(*publisher)
    own = tmp_path / "own"
    own.mkdir()
    digest = openmmlab_checkpoint(own / weights.file, {key: value * 2 for key, value in state.items()})
    with pytest.raises(WeightsError, match=f"sha256 {digest}, but {weights.sha256[0]}"):
        load_weights(weights, own)
    note = f"{digest}  {weights.file}\n"
    (own / f"{weights.file}.sha256").write_text(note)  # it may have come with the file
    with pytest.raises(WeightsError, match=rf"write its sha256 into {cache_folder()}/"):
        load_weights(weights, own)
    cache_folder().mkdir(parents=True, exist_ok=True)
    (cache_folder() / f"{weights.file}.sha256").write_text(note)
    assert load_weights(weights, own).sha256 == digest
    assert how_checked(weights, digest) == "note"


# Mutation: a prefix that counts where the whole hash is known.
@pytest.mark.case(76)
def test_a_prefix_is_enough_only_where_no_whole_hash_is_known() -> None:
    whole, of_prefix = "0123abcd" + "5" * 56, "0123abcd" + "7" * 56
    by_prefix = WeightsFile("a.pth", None, ("0123abcd",), "", "")
    assert how_checked(by_prefix, whole) == "sha256 prefix"
    by_hash = WeightsFile("a.pth", None, (whole,), "", "")
    assert [how_checked(by_hash, digest) for digest in (whole, of_prefix)] == ["sha256", "note"]
    for entry in (*DETECTORS.values(), *POSE_MODELS.values()):
        assert len({len(digest) for digest in entry.weights.sha256}) == 1, entry.name


# Mutations: a file opened by its path in `checked_sha256`, in `read_checkpoint` -> red.
@pytest.mark.case(71, 73)
@pytest.mark.parametrize("place", ["", "pth"])
@pytest.mark.timeout(180)
def test_weights_that_are_a_link_or_a_pipe_are_named_and_not_read(tmp_path: Path, place: str) -> None:
    weights = WeightsFile("a.pth", None, ("00000000",), "", "")
    (tmp_path / "w" / place).mkdir(parents=True)
    path = tmp_path / "w" / place / "a.pth"
    for make, why in ((os.mkfifo, "no regular file"), (lambda link: link.symlink_to("/dev/zero"), "a link")):
        make(path)
        for read in (lambda: load_weights(weights, tmp_path / "w"), lambda: read_checkpoint(path)):
            with pytest.raises(WeightsError, match=why):
                read()
        path.unlink()


def test_a_folder_of_weights_may_itself_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "a.pth").touch()
    (tmp_path / "named").symlink_to(tmp_path / "real")
    weights = WeightsFile("a.pth", None, ("00000000",), "", "")
    assert find_weights(weights, tmp_path / "named") == tmp_path / "named" / "a.pth"


class _Canary:
    """What an attacker pickles: loading it would create a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return open, (str(self.path), "w")


class _SystemCanary(_Canary):
    def __reduce__(self) -> tuple[object, tuple[str, ...]]:  # type: ignore[override]
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("kind", [_Canary, _SystemCanary])
@pytest.mark.parametrize("place", ["message_hub", "state_dict"])
# Mutation: weights_only=False in read_checkpoint.
@pytest.mark.case(52)
def test_a_malicious_checkpoint_runs_nothing(tmp_path: Path, kind: type[_Canary], place: str) -> None:
    canary, evil = tmp_path / "canary", tmp_path / "evil.pth"
    torch.save({"state_dict": {"weight": torch.zeros(1)}} | {place: {"a": kind(canary)}}, evil)
    with pytest.raises(WeightsError, match="asks for more than tensors"):
        read_checkpoint(evil)
    assert not canary.exists()


def test_getattr_in_a_checkpoint_reaches_nothing(tmp_path: Path) -> None:
    """Old message histories hold ``getattr``; it is let in, and must lead nowhere."""

    class Chain:
        def __reduce__(self) -> tuple[object, tuple[object, str]]:
            return getattr, (np.dtype, "newbyteorder")

    path = tmp_path / "chain.pth"
    torch.save({"state_dict": {"weight": torch.zeros(1)}, "message_hub": Chain()}, path)
    assert list(read_checkpoint(path)) == ["weight"]
    (tmp_path / "raw.pth").write_bytes(pickle.dumps({"state_dict": Chain()}))
    with pytest.raises(WeightsError):
        read_checkpoint(tmp_path / "raw.pth")


@pytest.mark.parametrize("content", [b"", b"no pickle", b"PK\x03\x04 half a zip", pickle.dumps([1, 2])])
def test_a_file_that_is_no_checkpoint_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "broken.pth"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=r"broken\.pth"):
        read_checkpoint(path)


def test_weights_of_another_model_do_not_fit(publisher: tuple[Path, str]) -> None:
    weights, _ = served_checkpoint(*publisher)
    module = build_pose_model(POSE_MODELS["rtmpose-s"]).module
    with pytest.raises(WeightsError, match="do not fit the model rtmpose-s"):
        load_into(module, load_weights(weights).state, "rtmpose-s")


# Mutation: leave `pth/` out of find_weights.
def test_folders_are_searched_in_order_and_in_pth_below_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = WeightsFile("a.pth", None, ("00000000",), "", "")
    given, named = tmp_path / "given", tmp_path / "named"
    monkeypatch.setenv("LPOSEKIT_WEIGHTS", str(named))
    for folder in (cache_folder(), named / "pth", given / "pth", given):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "a.pth").touch()
        assert find_weights(weights, given) == folder / "a.pth"


def test_missing_weights_without_a_publisher_name_the_folders(tmp_path: Path) -> None:
    entry = POSE_MODELS["tinypose"]
    with pytest.raises(WeightsError) as caught:
        load_weights(entry.weights, tmp_path)
    message = str(caught.value)
    assert entry.weights.file in message
    assert str(tmp_path / "pth") in message
    assert "--weights-dir or LPOSEKIT_WEIGHTS" in message


@pytest.mark.parametrize("fault", ["absent", "refused"])
def test_a_failed_download_gives_the_command(publisher: tuple[Path, str], fault: str) -> None:
    weights, _ = served_checkpoint(*publisher)
    url = f"{weights.url}.gone" if fault == "absent" else f"http://127.0.0.1:9/{weights.file}"
    with pytest.raises(WeightsError, match=rf"cannot download .*\n  curl -L .* {url}"):
        load_weights(replace(weights, url=url))


# Mutation: drop the comparison with `declared` (the sha256 then refuses it, but names the wrong cause).
def test_a_download_that_ends_early_is_not_kept(publisher: tuple[Path, str]) -> None:
    weights, _ = served_checkpoint(*publisher)
    with pytest.raises(WeightsError, match=r"the connection ended after \d+ of \d+ bytes"):
        load_weights(replace(weights, url=f"{weights.url}?half"))
    assert {path.suffix for path in cache_folder().iterdir()} == {".lock", ".part"}
    assert find_weights(weights) is None


class _Resumes(http.server.BaseHTTPRequestHandler):
    """Serves a file, from the place that is asked for, and breaks off after so many bytes, once."""

    content, break_after = b"", 0
    asked: ClassVar[list[str | None]] = []

    def do_GET(self) -> None:
        self.asked.append(self.headers["Range"])
        begin = int((self.headers["Range"] or "bytes=0-")[6:-1])
        rest = self.content[begin:]
        self.send_response(206 if begin else 200)
        self.send_header("Content-Length", str(len(rest)))
        if begin:
            self.send_header("Content-Range", f"bytes {begin}-{len(self.content) - 1}/{len(self.content)}")
        self.end_headers()
        self.wfile.write(rest[: type(self).break_after or None])
        type(self).break_after = 0

    def log_message(self, *args: object) -> None:
        pass


# Mutations: `begun` always 0 in `_fetch` (the whole file is asked for again); no second try in `_download`.
@pytest.mark.parametrize("same", [True, False])
def test_a_download_that_broke_off_goes_on_and_one_of_another_file_begins_anew(same: bool) -> None:
    content = b"weights" * 1000
    handler = type("Handler", (_Resumes,), {"content": content, "break_after": 3000, "asked": []})
    seen: list[tuple[int, int | None]] = []
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        digest = hashlib.sha256(content).hexdigest()
        weights = WeightsFile("a.pth", f"http://127.0.0.1:{server.server_port}/a.pth", (digest,), "", "")
        with pytest.raises(WeightsError, match="the connection ended after 3000 of 7000 bytes"):
            download(weights)
        if not same:
            (cache_folder() / "a.pth.part").write_bytes(b"x" * 3000)
        path = download(weights, progress=lambda done, whole: seen.append((done, whole)))
        server.shutdown()
    assert path.read_bytes() == content
    assert handler.asked == [None, "bytes=3000-", *([] if same else [None])]
    assert seen[-1] == (7000, 7000)
    assert not list(cache_folder().glob("*.part"))


def test_a_damaged_conversion_is_made_again(publisher: tuple[Path, str]) -> None:
    weights, state = served_checkpoint(*publisher)
    load_weights(weights)
    [converted] = cache_folder().glob("*.safetensors")
    converted.write_bytes(converted.read_bytes()[:1000])
    assert load_weights(weights).state.keys() == state.keys()
    assert converted.stat().st_size > 1000


def test_the_pair_at_hand_loads_by_its_sha256() -> None:
    entry = POSE_MODELS["tinypose"]
    loaded = load_weights(entry.weights, fixture_path("weights"))
    assert loaded.sha256 == entry.weights.sha256[0]
    load_into(build_pose_model(entry).module, loaded.state, entry.name)


def test_all_missing_weights_are_named_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Mutation tried: the first problem raised -> red.
    monkeypatch.delenv("LPOSEKIT_WEIGHTS", raising=False)
    wanted = [DETECTORS["rtmdet-nano-rebuilt"].weights, POSE_MODELS["tinypose"].weights]
    with pytest.raises(UsageError) as raised:
        require_weights(wanted, tmp_path)
    for weights in wanted:
        assert weights.file in str(raised.value)
    require_weights(wanted, fixture_path("weights"))


# Mutation: each model tried, and waited for, by itself.
@pytest.mark.case(88)
def test_without_a_network_one_message_names_all_models_and_commands_and_a_pair_that_is_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lposekit.pose.download, "PROBE_S", 0.3)
    proxy, asked = socket.create_server(("127.0.0.1", 0)), list[socket.socket]()

    def swallow() -> None:
        with contextlib.suppress(OSError):
            while True:
                asked.append(proxy.accept()[0])

    threading.Thread(target=swallow, daemon=True).start()
    monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{proxy.getsockname()[1]}")
    wanted = [DETECTORS["rtmdet-m"].weights, POSE_MODELS["hrnet-w48"].weights, POSE_MODELS["hrnet-w32"].weights]
    with pytest.raises(UsageError) as raised:
        require_weights(wanted)
    assert len(asked) == 1, "each of the models was waited for"
    message = str(raised.value)
    assert "the weights of 3 models are missing" in message
    for weights, name in zip(wanted, ("rtmdet-m", "hrnet-w48", "hrnet-w32"), strict=True):
        assert f"  {name}: {weights.file}" in message
        assert f"curl -L --create-dirs -o {cache_folder() / weights.file} {weights.url}" in message
    assert message.count("Searched:") == 1
    assert "are here" not in message
    monkeypatch.setenv("LPOSEKIT_WEIGHTS", str(fixture_path("weights")))
    with pytest.raises(UsageError, match="--detector rtmdet-nano-rebuilt --pose-model tinypose"):
        require_weights(wanted)
    assert pair_at_hand() == ("rtmdet-nano-rebuilt", "tinypose")
    for each in (proxy, *asked):
        each.close()


@pytest.mark.more
def test_a_publisher_is_out_of_reach_at_once_where_nobody_listens_and_not_because_it_is_slow() -> None:
    # Mutation tried: 4 s for `PROBE_S` -> red at the slow one.
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}/weights"

        def answer() -> None:
            client = server.accept()[0]
            time.sleep(4.5)
            client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
            client.close()

        threading.Thread(target=answer, daemon=True).start()
        assert unreachable(url) is None
    begun = time.monotonic()
    assert "refused" in (unreachable(url) or "")
    assert time.monotonic() - begun < 1


# Mutation: `named_folder` that knows the variable alone.
def test_without_the_variable_weights_beside_the_working_folder_are_found_as_make_finds_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = WeightsFile("a.pth", None, ("00000000",), "", "")
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    for folder in ("../shared/weights", "weights"):  # the second comes before the first
        Path(folder).mkdir(parents=True)
        (Path(folder) / "a.pth").touch()
        assert find_weights(weights) == Path(folder) / "a.pth"
    monkeypatch.setenv("LPOSEKIT_WEIGHTS", "")
    assert find_weights(weights) is None
    text = (REPOSITORY / "Makefile").read_text()
    assert f"$(wildcard {' '.join(BESIDE)})" in text
