"""Contract of the watchdog: a build in which nothing moves ends with exit code 1, and its last lines say what each
worker waited for; what moves, however slowly, goes on; no clock that jumps and no pause of the driver looks like a
standstill.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import lposekit
from lposekit.errors import LposekitError
from lposekit.shards.layout import DatasetLayout
from lposekit.stage_times import StageTimes
from pipelines.fetch.settings import FetchSettings
from pipelines.job import activity, liveness
from pipelines.job.activity import Activity, read_activities, told
from pipelines.job.attempt import Attempt
from pipelines.job.liveness import Liveness, RayLost
from pipelines.job.watchdog import Stalled, Watchdog
from pipelines.recipes import build_images as run
from tests.support.bad_server import BadServer
from tests.support.execute_here import execute_here
from tests.support.stub_build import stub_pages, stub_settings, write_rows

WAITS = (("fetch 000030004 a.example", 20.0), ("decode 000030001", 0.5))


class Clock:
    """A clock that is moved by hand, and what the workers tell at each moment."""

    def __init__(self, stall_s: float = 60.0) -> None:
        self.now_s = 1000.0
        self.told: dict[int, Activity] = {}
        self.dog = Watchdog(stall_s, lambda: self.told, lambda: self.now_s)

    def passes(self, seconds: float, moves: int | None = None, *, step_s: float = 2.0) -> None:
        for _ in range(round(seconds / step_s)):
            self.now_s += step_s
            if moves is not None:
                self.told = {3: Activity("run-a", "here", 77, moves, 4, WAITS, 2)}
            self.dog.look({3: 1, 5: 2})


def test_a_standstill_is_told_shard_by_shard_with_what_was_waited_for_and_for_how_long() -> None:
    # Mutations tried: the time since the last sign not added to the waits; shards without a sign left out.
    clock = Clock()
    clock.passes(10, moves=1)
    with pytest.raises(Stalled) as caught:
        clock.passes(100, moves=1)
    head, *lines = str(caught.value).split("\n  ")
    assert "nothing was fetched, decoded, judged or committed for 1 min" in head
    assert "--stall-minutes" in head
    waits = "fetch 000030004 a.example for 1 min 20 s, decode 000030001 for 1 min, and 2 more"
    assert lines == [
        f"shard 00003, 4 rows done, process 77 on here: {waits}",
        "shard 00005 (try 2): its worker, which has told nothing",
    ]
    assert caught.value.exit_code == 1


def test_whatever_moves_once_in_the_time_goes_on() -> None:
    # Mutation tried: moves of a worker not counted as progress -> red.
    clock = Clock()
    for moves in range(1, 20):
        clock.passes(50, moves)
    for _ in range(20):
        clock.passes(50, 20)
        clock.dog.moved()  # a report


def test_an_attempt_that_only_begins_is_no_progress() -> None:
    # Mutation tried: each new attempt taken for progress -> workers that die at once, one by one, are never given up.
    clock = Clock()

    def begin_again_and_again() -> None:
        for number in range(100):
            clock.told = {3: Activity(f"run-{number}", "here", number, 0, 0, (), 0)}
            clock.passes(10)

    with pytest.raises(Stalled):
        begin_again_and_again()


@pytest.mark.case(85)
def test_a_driver_or_machine_that_stood_still_itself_counts_as_no_standstill(monkeypatch: pytest.MonkeyPatch) -> None:
    # Mutation tried: the whole time between two looks counted -> the first look after the pause ends the build.
    clock = Clock()
    clock.passes(10, moves=1)
    for _ in range(5):
        clock.passes(3600, step_s=3600.0)
    monkeypatch.setattr(time, "time", lambda: 0.0)
    clock.passes(20)
    with pytest.raises(Stalled):
        clock.passes(60)


def test_a_worker_tells_what_it_is_at_while_it_is_at_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Mutation tried: stages told only when they have ended -> nothing is waited for.
    monkeypatch.setattr(activity, "EVERY_S", 0.02)
    layout, times = DatasetLayout(tmp_path), StageTimes()
    attempt, rows = Attempt(layout, "run", 3, "run-a", False), []
    (layout.work / "run").mkdir(parents=True)
    with told(attempt, times, rows):
        with times.stage("fetch", "000030001 a.example"):
            before = _told_by(layout, lambda activity: bool(activity.waits))
        rows.append("row")
        after = _told_by(layout, lambda activity: activity.rows == 1)
    assert [what for what, _ in before.waits] == ["fetch 000030001 a.example"]
    assert (before.attempt, before.moves, after.moves, after.waits) == ("run-a", 0, 1, ())
    assert read_activities(layout, "run") == {}, "a shard that is done waits for nothing"


def _told_by(layout: DatasetLayout, condition: Callable[[Activity], bool]) -> Activity:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        found = read_activities(layout, "run").get(3)
        if found is not None and condition(found):
            return found
        time.sleep(0.01)
    raise AssertionError("nothing was told")


@pytest.mark.parametrize("text", ["", "[1]", "{}", '{"attempt": 1}', "\x00"])
def test_an_activity_that_cannot_be_read_tells_nothing(tmp_path: Path, text: str) -> None:
    layout = DatasetLayout(tmp_path)
    (layout.work / "run").mkdir(parents=True)
    (layout.work / "run" / "activity-00003.json").write_text(text)
    assert read_activities(layout, "run") == {}


@pytest.mark.more  # `test_runner.py` has the runner look at it
@pytest.mark.usefixtures("ray_local")
@pytest.mark.timeout(360)
def test_a_build_whose_server_never_answers_ends_and_says_so_and_is_resumed(tmp_path: Path) -> None:
    # Mutation tried: `look` not called by the runner -> the build waits for the fetch's own time, ten minutes.
    patient = FetchSettings(
        robots=False, threads=4, retries=0, total_timeout_s=600.0, idle_timeout_s=600.0, connect_timeout_s=600.0
    )
    with BadServer(pages=stub_pages(8)) as server:
        urls = [f"{server.url}/{row}.jpg" for row in range(8)]
        urls[5] = f"{server.url}/slow/500"
        path = write_rows(tmp_path / "list.jsonl", [{"url": url, "caption": ""} for url in urls])
        settings = stub_settings(path, tmp_path / "d", workers=1, stall_minutes=0.2, fetch=patient)
        with pytest.raises(LposekitError) as caught:
            run(settings)
        line = str(caught.value).splitlines()[-1]
        assert "shard 00001, 0 rows done, process " in line
        assert "fetch 000010001 127.0.0.1 for " in line
        assert caught.value.exit_code == 1
        log = [json.loads(each) for each in (tmp_path / "d/_dataset/log.jsonl").read_text().splitlines()]
        assert (log[-1]["event"], line.strip() in log[-1]["why"]) == ("stalled", True)
        dataset = lposekit.open_dataset(tmp_path / "d")
        assert dataset.card.totals is not None
        assert (len(dataset), dataset.card.totals.rows) == (4, 4), "the card counts what was committed"
        server.pages["/slow/500"] = server.pages["/5.jpg"]
        assert run(settings, execute=execute_here).outcomes == {"kept": 8}


@pytest.mark.case(79)
def test_a_dead_node_and_a_head_that_does_not_answer_end_the_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    # Mutations tried: `own_node_lives` not looked at; a question without an answer waited for.
    monkeypatch.setattr(liveness, "ASK_EVERY_S", 0.01)
    monkeypatch.setattr(liveness, "SILENT_S", 0.2)
    assert _verdict(lambda: False) == "the Ray node (raylet) of this machine has died"
    assert _verdict(lambda: time.sleep(3) or True) == "the head of the Ray cluster has not answered"
    healthy = Liveness(lambda: True)
    with healthy.asked():
        for _ in range(30):
            healthy.check()
            time.sleep(0.01)


def _verdict(own_node_lives: liveness.Question) -> str:
    asked = Liveness(own_node_lives)
    deadline = time.monotonic() + 20
    with asked.asked():
        while time.monotonic() < deadline:
            try:
                asked.check()
            except RayLost as lost:
                return str(lost).partition(",")[0].partition(" for ")[0]
            time.sleep(0.01)
    raise AssertionError("nobody noticed")
