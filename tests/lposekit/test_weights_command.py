"""Contract of `lposekit weights`: every model with where its weights are, missing or damaged; exit code 1 where a build
here would lack some; `--fetch` brings what is served, and says what is not."""

from __future__ import annotations

import functools
import http.server
import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lposekit.cli import main
from lposekit.doctor import check_weights
from lposekit.pose import zoo
from lposekit.pose.weights import cache_folder
from tests.support.fixtures import fixture_path

HERE = {"rtmdet-nano-rebuilt", "tinypose"}


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("LPOSEKIT_WEIGHTS", "")
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The pair at hand as a publisher serves it."""
    files = fixture_path("weights") / "pth"

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=files)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        for models, name in ((zoo.DETECTORS, "rtmdet-nano-rebuilt"), (zoo.POSE_MODELS, "tinypose")):
            entry: Any = models[name]
            url = f"http://127.0.0.1:{server.server_port}/{entry.weights.file}"
            monkeypatch.setitem(models, name, replace(entry, weights=replace(entry.weights, url=url)))  # type: ignore[arg-type]
        yield files
        server.shutdown()


def states(capsys: pytest.CaptureFixture[str], *flags: str) -> tuple[int, dict[str, dict[str, Any]]]:
    capsys.readouterr()
    code = main(["weights", "--json", *flags])
    return code, {each["model"]: each for each in json.loads(capsys.readouterr().out)}


def test_each_model_is_listed_with_its_state_and_doctor_agrees(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Mutation tried: `model_state` that does not read the file -> damaged ones are here.
    code, found = states(capsys, "--weights-dir", str(fixture_path("weights")))
    assert found.keys() == {*zoo.DETECTORS, *zoo.POSE_MODELS}
    assert {name for name, each in found.items() if each["state"] == "here"} == HERE
    assert {name for name, each in found.items() if each["needed"]} == {"rtmdet-m", "hrnet-w48"}
    assert code == 1, "what is needed is missing"
    doctor = {check.name.removeprefix("weights "): check for check in check_weights(fixture_path("weights"))}
    assert {name for name, check in doctor.items() if check.state == "ok"} == HERE
    (tmp_path / "lposekit.toml").write_text(
        '[build-laion-pose]\ndetector = "rtmdet-nano-rebuilt"\npose_model = "tinypose"\n'
        '[pose]\ndetector = "rtmdet-nano-rebuilt"\npose_model = "tinypose"\n'
    )
    (tmp_path / "weights").symlink_to(fixture_path("weights"))
    assert main(["weights", "--weights-dir", "weights"]) == 0
    out = capsys.readouterr().out
    assert "* tinypose" in out
    assert "missing  https://" in out
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / zoo.POSE_MODELS["tinypose"].weights.file).write_bytes(b"half a file")
    code, found = states(capsys, "--weights-dir", "own")
    assert (code, found["tinypose"]["state"]) == (1, "damaged")


def test_fetch_brings_what_is_needed_into_the_cache_and_replaces_what_is_damaged_there(
    served: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Mutation tried: a damaged file of the cache left alone -> it stays damaged.
    (tmp_path / "lposekit.toml").write_text(
        '[build-laion-pose]\ndetector = "rtmdet-nano-rebuilt"\npose_model = "tinypose"\n'
        '[pose]\ndetector = "rtmdet-nano-rebuilt"\npose_model = "tinypose"\n'
    )
    cache_folder().mkdir(parents=True)
    (cache_folder() / zoo.POSE_MODELS["tinypose"].weights.file).write_bytes(b"half a file")
    code, found = states(capsys, "--fetch", "all-needed")
    assert code == 0
    assert {name for name, each in found.items() if each["state"] == "here"} == HERE
    assert found["tinypose"]["path"] == str(cache_folder() / zoo.POSE_MODELS["tinypose"].weights.file)


def test_what_cannot_be_fetched_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["weights", "--fetch", "tinypoze"]) == 2
    assert "Did you mean tinypose?" in capsys.readouterr().err
    assert main(["weights", "--fetch", "tinypose"]) == 1
    assert "tinypose: the weights tinypose_litehrnet" in capsys.readouterr().out
