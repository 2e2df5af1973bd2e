"""Contract: a decoder that is killed from outside costs nothing, since a fresh one tries again; one that dies of what
it was given is not tried again; a death from outside that repeats ends in an outcome that `retry` takes again.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lposekit.errors import Outcome
from lposekit.sandbox import killed
from lposekit.sandbox.confinement import Places
from lposekit.sandbox.killed import again_if_killed
from lposekit.sandbox.sandbox import Sandbox, SandboxCrashed, SandboxKilled
from pipelines.image.decode import ImageDecoder
from pipelines.image.settings import ImageSettings
from pipelines.pose.poison import find_killers
from tests.support.pages import tiny_jpeg

TARGETS = "tests.lposekit.sandbox.sandbox_targets"
MEMORY = 256 * 2**20
pytestmark = [pytest.mark.case(94), pytest.mark.timeout(180)]


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(killed, "PAUSES_S", (0.0, 0.0))


def _calls(counter: Path, times: int) -> Callable[[Sandbox], Any]:
    payload = {"how": "killed", "counter": str(counter), "times": times}
    return lambda sandbox: again_if_killed(lambda: sandbox.call(payload, timeout_s=30))


def test_a_death_from_outside_is_tried_again_with_a_fresh_child_up_to_three_times(tmp_path: Path) -> None:
    # Mutations tried: `SandboxCrashed` raised for SIGKILL too -> red; `again_if_killed` that tries once -> red.
    places = Places(writes=(str(tmp_path),))
    with Sandbox(f"{TARGETS}:misbehave", memory_limit_bytes=MEMORY, places=places) as sandbox:
        assert _calls(tmp_path / "two", 2)(sandbox) == "done"
        with pytest.raises(SandboxKilled, match="killed by SIGKILL"):
            _calls(tmp_path / "ever", 99)(sandbox)
    assert (tmp_path / "ever").read_text() == "xxx"


@pytest.mark.parametrize("how", ["segfault", "exit"])
def test_a_death_of_its_own_is_not_tried_again(how: str) -> None:
    # Mutation tried: every death by a signal taken for one from outside -> red for `segfault`.
    attempts = []
    with Sandbox(f"{TARGETS}:misbehave", memory_limit_bytes=MEMORY) as sandbox:

        def attempt() -> Any:
            attempts.append(how)
            return sandbox.call({"how": how}, timeout_s=30)

        with pytest.raises(SandboxCrashed):
            again_if_killed(attempt)
    assert attempts == [how]


def test_an_image_whose_decoder_is_killed_from_outside_is_decoded_by_the_next_one() -> None:
    # Mutation tried: `ImageDecoder.decode` without `again_if_killed` -> worker_crash.
    with ImageDecoder(ImageSettings()) as decoder:
        decoder.start()
        (sandbox,) = decoder._sandboxes
        pid = sandbox.pid
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)  # it is asked, and does not get to answer
        threading.Timer(0.5, os.kill, [pid, signal.SIGKILL]).start()
        assert decoder.decode(tiny_jpeg()).width == 96
        assert sandbox.pid != pid


def test_who_isolates_images_that_kill_a_model_blames_none_for_a_death_from_outside(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Mutation tried: `find_killers` without `again_if_killed` -> image 0 is blamed.
    from tests.pipelines.image.test_pose_spec import pose_spec
    from tests.support.stub_build import stub_settings

    deaths: list[int] = []

    def call(self: Sandbox, payload: Any, **_: Any) -> int:
        deaths.append(1)
        if len(deaths) < 3:
            raise SandboxKilled("killed by SIGKILL")
        return len(payload["images"])

    monkeypatch.setattr(Sandbox, "call", call)
    spec = pose_spec(stub_settings(Path("list"), Path("d")))
    assert find_killers(spec, [None]) == {}  # pyright: ignore[reportArgumentType]


def test_a_video_whose_decoder_is_killed_each_time_is_for_retry_and_not_lost_for_ever(tmp_path: Path) -> None:
    # Mutation tried: no `except SandboxKilled` in `build_in_child` -> corrupt, which `retry` leaves alone.
    from pipelines.video.clips.child import build_in_child
    from pipelines.video.clips.records import VideoRow
    from pipelines.video.clips.settings import BuildClipsSettings

    (tmp_path / "killed.mp4").write_bytes(b"a video")
    (tmp_path / "out").mkdir()
    target = "tests.pipelines.video.clips.video_targets:build_or_misbehave"
    with Sandbox(target, memory_limit_bytes=2**30) as sandbox:
        result = build_in_child(
            sandbox,
            tmp_path / "killed.mp4",
            VideoRow("a"),
            BuildClipsSettings(),
            tmp_path / "out",
            timeout_s=60,
            heartbeat_timeout_s=20,
        )
    assert result.outcome is Outcome.WORKER_CRASH
    assert result.outcome.facts.retryable
    assert "killed by SIGKILL" in result.detail
    assert list((tmp_path / "out").iterdir()) == []


def test_signs_of_life_reach_whoever_asks() -> None:
    # Mutation tried: `on_beat` not called in `_receive` -> red.
    beats: list[float] = []
    with Sandbox(f"{TARGETS}:misbehave", memory_limit_bytes=MEMORY) as sandbox:
        payload = {"how": "beat_then_answer", "beats": 4}
        sandbox.call(payload, timeout_s=30, on_beat=lambda: beats.append(time.monotonic()))
    assert len(beats) == 4
