"""Contract of what a build shows while it runs: a shard's figures and the total apart, one rate everywhere, what is
waited for, and nothing that says nothing."""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path

import pytest

from lposekit.recipe import ShardReport
from lposekit.words import counted, per_second, seconds_in_words
from pipelines.job.build_report import BuildReport
from pipelines.job.progress import BuildProgress

pytestmark = pytest.mark.case(91)
REPORTS = (
    ShardReport(0, 10, 4, {"kept": 4, "dns": 5, "timeout": 1}, {"total": 2.0}),
    ShardReport(1, 1, 1, {"kept": 1}),
)


def _lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "pipelines.job.progress"]


def _built(path: Path, total_rows: int | None, done: dict[str, int]) -> BuildProgress:
    progress = BuildProgress(path / "log.jsonl", total_rows, done)
    with progress:
        progress.ready()
        for report in REPORTS:
            progress.add(report)
    return progress


def test_a_shard_and_the_total_are_told_apart(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    # Mutations: the total's outcomes in the shard's place; `new_rows` of all rows; `()` for none dropped.
    with caplog.at_level(logging.INFO):
        _built(tmp_path, 1000, {"kept": 100})
    first, second = _lines(caplog)
    assert first.startswith(
        "shard 00000: 10 rows, 4 kept (dns 5, timeout 1), 2 s; total: 110 of 1,000 rows, 104 kept (dns"
    )
    assert second.startswith("shard 00001: 1 row, 1 kept; total: 111 of 1,000 rows, 105 kept (dns 5, timeout 1), ")
    assert second.endswith(" left")
    assert "()" not in first + second


def test_an_unknown_total_is_not_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    # Mutation: `of {self._total_rows}` in any case.
    with caplog.at_level(logging.INFO):
        _built(tmp_path, None, {})
    line = _lines(caplog)[-1]
    assert "total: 11 rows, 5 kept" in line
    assert "?" not in line
    assert "None" not in line
    assert "left" not in line


def test_line_summary_and_json_state_the_same_rate(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    # Mutation: the summary divides by the seconds of the whole run.
    progress = BuildProgress(tmp_path / "log.jsonl", None, {"kept": 7})
    with caplog.at_level(logging.INFO), progress:
        time.sleep(0.3)
        progress.ready()
        time.sleep(0.1)
        progress.add(REPORTS[0])
    report = BuildReport(
        tmp_path, {"kept": 11}, 11, new_rows=progress.new_rows, work_s=progress.work_s, seconds=progress.seconds
    )
    rate = per_second(progress.rate, "rows")
    assert 0.09 < progress.work_s < 0.3
    assert rate in _lines(caplog)[-1]
    assert any(rate in line and line.startswith("10 rows in ") for line in report.summary_lines())
    assert report.as_json()["rows_per_s"] == round(progress.rate, 3)


def test_a_quiet_run_says_what_it_waits_for(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    # Mutation: no thread: silence.
    with caplog.at_level(logging.INFO), BuildProgress(tmp_path / "log.jsonl", 20, {}, quiet_s=0.05) as progress:
        progress.waiting_for("the models to load")
        time.sleep(0.3)
        progress.in_work([3, 1])
        time.sleep(0.3)
    lines = _lines(caplog)
    assert any(line.startswith("0 of 20 rows; waiting for the models to load, ") for line in lines)
    assert any(line.startswith("0 of 20 rows; waiting for shards 00001, 00003, ") for line in lines)


def test_the_log_file_keeps_every_shard(tmp_path: Path) -> None:
    _built(tmp_path, None, {})
    events = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [event["event"] for event in events] == ["ready", "shard", "shard"]


@pytest.mark.parametrize(
    ("number", "words"), [(0, "0 images"), (1, "1 image"), (2, "2 images"), (12345, "12,345 images")]
)
def test_numbers_have_the_form_that_fits(number: int, words: str) -> None:
    # Mutation: always the plural.
    assert counted(number, "image") == words
    assert counted(number, "row passes", "rows pass").startswith(
        f"{number:,} row{' passes' if number == 1 else 's pass'}"
    )


def test_a_slow_rate_is_not_shown_as_none() -> None:
    # Mutation: one decimal in any case: "0.0 rows/s".
    assert [per_second(rate, "rows") for rate in (1234.56, 1.0, 0.0432)] == [
        "1,234.6 rows/s",
        "1.0 rows/s",
        "0.043 rows/s",
    ]


def test_times_are_short() -> None:
    seconds = (3, 99, 100, 5900, 6000, 172_000, 200_000)
    assert [seconds_in_words(each) for each in seconds] == [
        *("3 s", "99 s", "2 min", "98 min", "1 h 40 min", "47 h 47 min", "2 d 7 h"),
    ]
