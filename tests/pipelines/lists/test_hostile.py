"""Contract of lists from strangers: what no list should hold costs its row, or is refused in seconds and in one line.

It never ends a run with an error of a library, and never costs memory out of proportion to the file.
"""

from __future__ import annotations

import csv
import gzip
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lposekit.errors import LposekitError, UsageError
from pipelines.image.plan import iter_shards
from pipelines.image.settings import BuildImagesSettings
from pipelines.lists.text import MAX_CELL_CHARS, MAX_COLUMNS, MAX_LINE_CHARS
from pipelines.video.plan import iter_plans
from pipelines.video.settings import BuildVideoSettings

pytestmark = pytest.mark.timeout(240)
DEEP = "[" * 100_000


def image_rows(path: Path) -> list[Any]:
    return [planned.row for plan in iter_shards(BuildImagesSettings(input=(str(path),))) for planned in plan.rows]


def video_urls(path: Path) -> list[str | None]:
    return [row.url for plan in iter_plans(BuildVideoSettings(input=(str(path),))) for row in plan.rows]


def image_urls(path: Path) -> list[str | None]:
    return [row.url for row in image_rows(path)]


def line(url: str) -> str:
    return json.dumps({"url": url, "caption": "c"})


# Mutations: `except ValueError` alone in `_object`, and in `_is_json` (for the last line).
@pytest.mark.case(68)
@pytest.mark.parametrize("deep", [DEEP, '{"url": ' + "[" * 100_000 + "]" * 100_000 + "}", '{"a":' * 50_000])
@pytest.mark.parametrize("read", [image_urls, video_urls])
def test_a_line_of_brackets_costs_its_row(tmp_path: Path, read: Any, deep: str) -> None:
    path = tmp_path / "a.jsonl"
    for lines in ([line("u"), deep, line("v")], [line("u"), line("v"), deep]):
        path.write_text("\n".join(lines) + "\n")
        assert [url for url in read(path) if url] == ["u", "v"]
        assert len(read(path)) == 3


# Mutations: `except ValueError` alone in `_next_value`; brackets within texts counted (no second form in `_BRACKETS`).
@pytest.mark.case(68)
@pytest.mark.parametrize("deep", ["[" * 100_000 + '"]]\\"]"' + "]" * 100_000, '{"a":' * 50_000 + "1" + "}" * 50_000])
def test_a_value_of_brackets_in_an_array_costs_its_row(tmp_path: Path, deep: str) -> None:
    (tmp_path / "a.json").write_text(f"[{line('u')}, {deep}, {line('v')}]")
    assert image_urls(tmp_path / "a.json") == ["u", None, "v"]


@pytest.mark.case(68)
def test_an_array_that_never_ends_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(f"[{line('u')}, " + "[" * 100_000)
    with pytest.raises(LposekitError, match=r"input .*a\.json cannot be read"):
        image_urls(tmp_path / "a.json")


# Mutation: `stream` in place of `_lines(stream)`: the line is a row, and in memory.
@pytest.mark.case(69)
def test_a_line_longer_than_any_row_costs_its_row_and_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.gz"
    with gzip.open(path, "wt", compresslevel=1) as stream:
        stream.writelines(f"{line('u')}\n" for _ in range(2000))
        stream.write('{"url": "')
        for _ in range(3):
            stream.write("x" * MAX_LINE_CHARS)
        stream.write(f'"}}\n{line("v")}\n')
    assert image_urls(path)[-3:] == ["u", None, "v"]
    assert len(video_urls(path)) == 2002


# Mutation: no fallback in `column_values` (`ValueError: year 60000 is out of range`).
@pytest.mark.case(69)
@pytest.mark.parametrize("kind", [pa.timestamp("ms"), pa.timestamp("us"), pa.date32(), pa.date64(), pa.time64("us")])
def test_a_time_that_python_has_no_form_for_costs_its_cell(tmp_path: Path, kind: pa.DataType) -> None:
    numbers = pa.array([0, 2**31 - 1 if kind == pa.date32() else 2**62]).cast(
        pa.int32() if kind == pa.date32() else "i8"
    )
    columns = {"url": ["u", "v"], "caption": ["c", "c"], "taken": numbers.view(kind)}
    pq.write_table(pa.table(columns), tmp_path / "a.parquet", store_schema=False, coerce_timestamps=None)
    rows = image_rows(tmp_path / "a.parquet")
    assert [row.url for row in rows] == ["u", "v"] == video_urls(tmp_path / "a.parquet")
    assert rows[0].extra["taken"] is not None
    pq.write_table(pa.table({"url": ["w"], "caption": ["c"], "taken": ["noon"]}), tmp_path / "b.parquet")
    both = iter_shards(BuildImagesSettings(input=(str(tmp_path),)))
    assert [planned.row.url for plan in both for planned in plan.rows] == ["u", "v", "w"]


# Mutation: no `_check_columns` (pyarrow's KeyError, or minutes).
@pytest.mark.case(69)
@pytest.mark.parametrize("read", [image_urls, video_urls])
def test_columns_that_come_twice_or_without_end_are_a_usage_error_in_seconds(tmp_path: Path, read: Any) -> None:
    started_at = time.monotonic()
    twice = pa.Table.from_arrays([pa.array(["u"])] * 3, names=["url", "caption", "url"])
    pq.write_table(twice, tmp_path / "a.parquet")
    with pytest.raises(UsageError, match=r"a\.parquet: 1 columns come twice \('url'\)"):
        read(tmp_path / "a.parquet")
    names = ["url", "caption", *(f"c{number}" for number in range(100_000))]
    with (tmp_path / "a.csv").open("w") as stream:
        csv.writer(stream).writerows([names, ["u"] * len(names)])
    (tmp_path / "a.jsonl").write_text(
        "".join(json.dumps({"url": "u", name: 1, f"{name}b": 1}) + "\n" for name in names[:MAX_COLUMNS])
    )
    for name in ("a.csv", "a.jsonl"):
        with pytest.raises(UsageError, match=rf"{name}: .* columns \(limit {MAX_COLUMNS}\)"):
            read(tmp_path / name)
    assert time.monotonic() - started_at < 20


@pytest.mark.case(69)
def test_an_object_of_too_many_columns_costs_its_row(tmp_path: Path) -> None:
    wide = json.dumps({"url": "u"} | {f"c{number}": 1 for number in range(MAX_COLUMNS)})
    (tmp_path / "a.jsonl").write_text("\n".join([*[line("u")] * 1001, wide, line("v")]) + "\n")
    assert image_urls(tmp_path / "a.jsonl")[-3:] == ["u", None, "v"]


MEMORY_PROBE = """
import re, resource, sys
from pathlib import Path
from pipelines.image.plan import iter_shards
from pipelines.image.settings import BuildImagesSettings
from pipelines.video.plan import iter_plans
from pipelines.video.settings import BuildVideoSettings
settings = {"image": BuildImagesSettings, "video": BuildVideoSettings}[sys.argv[2]](input=(sys.argv[1],))
plans = (iter_shards if sys.argv[2] == "image" else iter_plans)(settings)
rows = sum(len(plan.rows) for plan in plans)
print(rows, re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
"""


# Mutations: batches of 2,048 rows, or texts not cut (+900 MiB and more).
@pytest.mark.case(69)
@pytest.mark.parametrize("kind", ["image", "video"])
def test_a_kilobyte_that_says_two_thousand_times_a_megabyte_is_planned_in_seconds(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "bomb.parquet"
    caption = pa.DictionaryArray.from_arrays(pa.array([0] * 2000, pa.int16()), ["x" * 2**20])
    how: dict[str, Any] = {"compression": "zstd", "store_schema": False, "write_statistics": False}
    pq.write_table(pa.table({"url": ["u"] * 2000, "caption": caption}), path, dictionary_pagesize_limit=2**22, **how)
    assert path.stat().st_size < 4096
    started_at = time.monotonic()
    command = [sys.executable, "-c", MEMORY_PROBE, str(path), kind]
    rows, peak_kib = map(int, subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())
    assert rows == 2000
    assert peak_kib < 900 * 1024
    assert time.monotonic() - started_at < 25


# Mutation: `_cut` that returns its value.
@pytest.mark.case(69)
@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.parquet"])
def test_a_cell_longer_than_any_text_of_a_list_is_cut(tmp_path: Path, name: str) -> None:
    row = {"url": "u", "caption": "c", "licence": "x" * (5 * MAX_CELL_CHARS)}
    if name == "a.parquet":
        pq.write_table(pa.Table.from_pylist([row]), tmp_path / name)
    else:
        with (tmp_path / name).open("w") as stream:
            stream.write(
                f"{json.dumps(row)}\n" if name == "a.jsonl" else f"url,caption,licence\nu,c,{row['licence']}\n"
            )
    (read,) = image_rows(tmp_path / name)
    assert len(read.extra["licence"]) == MAX_CELL_CHARS
