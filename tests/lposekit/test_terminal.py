"""Contract: no control character of a stranger reaches the terminal; no JSON of ours holds what JSON has not."""

from __future__ import annotations

import json
import logging
import math
from pathlib import Path
from typing import NoReturn

import numpy as np
import pyarrow.parquet as pq
import pytest

from lposekit.cli import main
from lposekit.json_values import strict_json
from lposekit.recipe import ShardReport
from lposekit.records import ImageRow
from lposekit.shards.card import update_card
from lposekit.shards.dataset import open_dataset
from lposekit.shards.files import write_json
from lposekit.shards.layout import DatasetLayout
from lposekit.shards.writer import ShardWriter
from lposekit.terminal import printable
from pipelines.image.refilter import run as refilter
from pipelines.image.rows import posed_row
from pipelines.job.progress import BuildProgress
from tests.support.dataset_folder import RULES, make_dataset, person, solid_image, write_shard

HOSTILE = "\x1b[2J\x1b]0;owned\x07\x9b31m\u202egpj\x7f\r"
"""Clears the screen, names the window, colours, turns the line round, goes back to its start."""


def _bare(text: str) -> list[str]:
    return [char for char in text if char in HOSTILE and not char.isprintable()]


# Mutations tried: `printable` out of the log's handler, out of `write_result` -> red each.
@pytest.mark.case(77)
@pytest.mark.parametrize("flags", [[], ["--debug"], ["--json"]])
def test_names_of_files_and_messages_do_not_steer_the_terminal(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], flags: list[str]
) -> None:
    layout = make_dataset(tmp_path / f"d{HOSTILE}", 1)
    (layout.root / f"{HOSTILE}.tar").write_bytes(b"")
    assert main(["verify", str(layout.root), *flags]) == 1
    layout.card.write_text(f'{{"kind": "{json.dumps(HOSTILE)[1:-1]}"}}')
    assert main(["view", str(layout.root), *flags]) == 1
    assert main(["view", str(tmp_path / HOSTILE), *flags]) == 2
    told = capfd.readouterr()
    assert "owned" in told.out
    assert "owned" in told.err
    assert _bare(told.out) == []
    assert _bare(told.err) == []


@pytest.mark.case(77)
def test_warnings_of_any_part_are_printable(capfd: pytest.CaptureFixture[str]) -> None:
    main(["--version"])
    logging.getLogger("pipelines.test").warning("the server says: %s", HOSTILE)
    err = capfd.readouterr().err
    assert "\\x1b[2J\\x1b]0;owned\\x07\\x9b31m\\u202egpj\\x7f\\r" in err
    assert _bare(err) == []


def test_what_is_no_control_character_stays() -> None:
    text = "line\n\ttab, é 中 \U0001f600 \\ 'x'"
    assert printable(text) == text


def _refuse(constant: str) -> NoReturn:
    raise AssertionError(f"{constant} is not JSON")


def _strict(data: str | bytes) -> object:
    return json.loads(data, parse_constant=_refuse)


NUMBERS = {"nan": math.nan, "inf": -math.inf, "numpy": np.float64("nan"), "deep": [{"x": (math.nan, 1.5)}], "one": 1}


@pytest.mark.case(77)
def test_numbers_that_json_has_not_become_null(tmp_path: Path) -> None:
    # Mutation tried: `json.dumps` as it is, in `strict_json`, `write_json` and the log -> red each.
    null = {"nan": None, "inf": None, "numpy": None, "deep": [{"x": [None, 1.5]}], "one": 1}
    assert _strict(strict_json(NUMBERS)) == null
    write_json(tmp_path / "a.json", NUMBERS)  # pyright: ignore[reportArgumentType]
    assert _strict((tmp_path / "a.json").read_bytes()) == null
    progress = BuildProgress(tmp_path / "log.jsonl", None, {})
    progress.add(ShardReport(0, 1, 0, {"dns": 1}, timings_s={"fetch": math.nan}, committed=False))
    assert _strict((tmp_path / "log.jsonl").read_bytes())


@pytest.mark.case(77)
def test_a_sample_whose_list_holds_nan_has_strict_json_after_a_build_and_a_refilter(tmp_path: Path) -> None:
    # Mutations tried: `json.dumps` in `pipelines.image.rows`, in `_updated_json` -> red each.
    layout = make_dataset(tmp_path / "d", 0)
    row = ImageRow("000000000", "http://a.example/0.jpg", "c", {"similarity": math.nan})
    result = posed_row(row, solid_image(0), "0" * 64, [person(12)], RULES)
    write_shard(layout, 0, [result])
    [(key, members)] = result.samples
    assert _strict(members["json"])
    update_card(layout)
    # as an older version wrote it
    old = DatasetLayout(make_dataset(tmp_path / "old", 0).root)
    writer = ShardWriter(old, 0, "test")
    writer.add(key, {**members, "json": members["json"].replace(b'"similarity": null', b'"similarity": NaN')})
    writer.commit(pq.read_table(layout.parquet(0)), layout.read_stats(0))
    update_card(old)
    assert b"NaN" in open_dataset(old.root)[0].members["json"]
    refilter(old.root, tmp_path / "new", {"min_detected": 0.1})
    assert _strict(open_dataset(tmp_path / "new")[0].members["json"])
