"""Contract of the plan: lists in any supported form become the same shards, every input row exactly once and in order;
captions are storable whatever they hold; filters count what they drop; a bad list is refused before any work."""

from __future__ import annotations

import gzip
import json
import re
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from lposekit.errors import LposekitError, Outcome, UsageError
from pipelines.image.plan import count_rows, iter_shards, list_warnings
from pipelines.image.plan_rows import PlannedRow, clean_caption
from pipelines.image.recipe import ImageRecipe
from pipelines.image.settings import BuildImagesSettings, FilterSettings
from pipelines.lists.columns import NO_SAFETY_COLUMN
from pipelines.lists.files import find_lists
from pipelines.lists.fingerprint import lists_fingerprint
from pipelines.recipes import build_images


def build(*inputs: Path | str, **changes: object) -> BuildImagesSettings:
    return replace(BuildImagesSettings(input=tuple(map(str, inputs)), rows_per_shard=3), **changes)


def rows_of(settings: BuildImagesSettings, skip: frozenset[int] = frozenset()) -> list[PlannedRow]:
    return [row for shard in iter_shards(settings, skip) for row in shard.rows]


def urls_of(settings: BuildImagesSettings) -> list[str | None]:
    return [planned.row.url for planned in rows_of(settings)]


ROWS = [{"url": f"http://h/{i}.jpg", "caption": f'caption, "{i}"', "punsafe": i / 10} for i in range(8)]


def write(path: Path, rows: list[dict[str, object]] = ROWS) -> Path:
    """The rows in the format that the name asks for."""
    opened = gzip.open if path.suffix == ".gz" else open
    kind = path.name.removesuffix(".gz").rpartition(".")[2]
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=2)
        return path
    with opened(path, "wt", encoding="utf-8") as stream:
        if kind == "jsonl":
            stream.writelines(json.dumps(row) + "\n" for row in rows)
        elif kind == "json":
            json.dump(rows, stream)
        elif kind == "txt":
            stream.writelines(f"{row['url']}\n" for row in rows)
        else:
            import csv

            writer = csv.DictWriter(stream, list(rows[0]), delimiter="\t" if kind == "tsv" else ",")
            writer.writeheader()
            writer.writerows(rows)
    return path


@pytest.mark.parametrize("name", ["a.parquet", "a.csv", "a.tsv", "a.csv.gz", "a.jsonl", "a.jsonl.gz", "a.json"])
def test_every_format_gives_the_same_rows(tmp_path: Path, name: str) -> None:
    planned = rows_of(build(write(tmp_path / name)))
    assert [p.row.url for p in planned] == [row["url"] for row in ROWS]
    assert [p.row.caption for p in planned] == [row["caption"] for row in ROWS]
    assert [p.row.extra for p in planned] == [{"punsafe": row["punsafe"]} for row in ROWS]
    assert [p.row.key for p in planned] == [f"{i // 3:05d}{i % 3:04d}" for i in range(8)]


def test_txt_gives_addresses_with_empty_captions(tmp_path: Path) -> None:
    planned = rows_of(build(write(tmp_path / "a.txt")))
    assert [(p.row.url, p.row.caption) for p in planned] == [(row["url"], "") for row in ROWS]


def test_folder_stands_for_its_lists_sorted_and_shards_run_on_across_files(tmp_path: Path) -> None:
    write(tmp_path / "b.parquet", ROWS[4:])
    write(tmp_path / "a.csv", ROWS[:4])
    (tmp_path / "README.md").write_text("not a list")
    shards = list(iter_shards(build(tmp_path)))
    assert [len(shard.rows) for shard in shards] == [3, 3, 2]
    assert [p.row.url for shard in shards for p in shard.rows] == [row["url"] for row in ROWS]
    assert urls_of(build(tmp_path / "*.csv")) == [row["url"] for row in ROWS[:4]]


def test_fsspec_url_is_read(tmp_path: Path) -> None:
    import fsspec

    folder = f"memory://{tmp_path.name}"  # of its own: all tests of a process share that memory
    with fsspec.open(f"{folder}/a.jsonl", "wt") as stream:
        stream.write(json.dumps(ROWS[0]) + "\n")
    assert urls_of(build(f"{folder}/a.jsonl")) == [ROWS[0]["url"]]
    assert urls_of(build(folder)) == [ROWS[0]["url"]]


@pytest.mark.parametrize("seed", [None, 7])
@pytest.mark.parametrize("name", ["a.parquet", "a.csv"])
def test_skipped_shards_are_left_out_and_the_others_do_not_change(tmp_path: Path, name: str, seed: int | None) -> None:
    # Mutation tried: counting shards by what was yielded (enumerate) instead of by position turns this red.
    settings = build(write(tmp_path / name), shuffle_seed=seed)
    whole = {shard.shard: shard for shard in iter_shards(settings)}
    assert sorted(whole) == [0, 1, 2]
    for skip in ({0}, {1}, {0, 2}, {0, 1, 2}):
        rest = {shard.shard: shard for shard in iter_shards(settings, skip)}
        assert rest == {number: shard for number, shard in whole.items() if number not in skip}


def test_shuffle_is_a_permutation_that_depends_on_the_seed_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipelines.image.plan.SHUFFLE_BLOCK_ROWS", 60)
    rows = [{"url": f"http://h/{i}", "caption": ""} for i in range(150)]
    path = write(tmp_path / "a.parquet", rows)
    first, again = (urls_of(build(path, shuffle_seed=1)) for _ in range(2))
    other = urls_of(build(path, shuffle_seed=2))
    plain = [row["url"] for row in rows]
    assert first == again != other
    assert first != plain
    assert sorted(first) == sorted(other) == sorted(plain)
    assert sorted(first[:60]) == sorted(plain[:60]), "a block holds its own rows: memory is bounded"


@pytest.mark.parametrize(
    ("columns", "url", "caption"),
    [
        (["URL", "TEXT"], "URL", "TEXT"),
        (["url", "alt"], "url", "alt"),
        (["Url", "text", "caption"], "Url", "caption"),
    ],
)
def test_laion_names_are_found(tmp_path: Path, columns: list[str], url: str, caption: str) -> None:
    path = write(tmp_path / "a.parquet", [{name: f"value of {name}" for name in columns}])
    [planned] = rows_of(build(path))
    assert (planned.row.url, planned.row.caption) == (f"value of {url}", f"value of {caption}")


def test_named_columns_win_and_a_displaced_one_keeps_its_values(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", [{"url": "u", "caption": "machine", "note": "human"}])
    [planned] = rows_of(build(path, caption_column="note"))
    assert (planned.row.caption, planned.row.extra) == ("human", {"list_caption": "machine"})


@pytest.mark.parametrize("name", ["a.parquet", "a.csv", "a.jsonl"])
@pytest.mark.case(21)
def test_missing_column_is_refused_before_work_and_names_the_columns_found(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, [{"link": "u", "caption": "c"}])
    with pytest.raises(UsageError, match=r"no column is called url.*link, caption.*--url-column"):
        iter_shards(build(path))
    with pytest.raises(UsageError, match=r"--caption-column captoin: no such column. Did you mean caption\?"):
        iter_shards(build(path, url_column="link", caption_column="captoin"))


@pytest.mark.parametrize("name", ["a.parquet", "a.csv.gz", "a.jsonl.gz", "a.jsonl", "a.json"])
@pytest.mark.case(21)
def test_truncated_list_is_refused_before_work(tmp_path: Path, name: str) -> None:
    # Mutation tried: without check_tail the .gz and .jsonl cases only fail (or pass) while iterating.
    path = write(tmp_path / name, ROWS * 200)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    with pytest.raises(LposekitError, match=rf"{name} cannot be read"):
        iter_shards(build(path))


def test_parquet_damaged_in_the_middle_names_the_file(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", [{"url": f"u{i}", "caption": "c" * 50} for i in range(2000)])
    data = bytearray(path.read_bytes())
    data[1000:3000] = b"\xff" * 2000
    path.write_bytes(data)
    with pytest.raises(LposekitError, match=r"a.parquet cannot be read"):
        rows_of(build(path))


@pytest.mark.parametrize(
    ("name", "message"),
    [("missing.csv", "no such file"), ("a.pdf", "unsupported kind"), ("folder", "holds no list")],
)
def test_unusable_input_is_a_usage_error(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "a.pdf").write_bytes(b"%PDF")
    (tmp_path / "folder").mkdir()
    with pytest.raises(UsageError, match=message):
        iter_shards(build(tmp_path / name))


def test_unknown_protocol_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="Protocol not known: nowhere"):
        iter_shards(build("nowhere://lists/a.csv"))


def test_no_input_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="--input"):
        iter_shards(build())


@pytest.mark.parametrize("rows_per_shard", [0, 10_001])
def test_shards_that_keys_cannot_number_are_refused(tmp_path: Path, rows_per_shard: int) -> None:
    settings = build(write(tmp_path / "a.csv"), rows_per_shard=rows_per_shard, output=tmp_path / "data")
    with pytest.raises(UsageError, match=r"--rows-per-shard .*Allowed: whole number >= 1 and <= 10000"):
        build_images(settings)


@pytest.mark.case(21)
def test_null_and_empty_addresses_stay_rows_and_duplicates_keep_their_own_keys(tmp_path: Path) -> None:
    rows = [{"url": url, "caption": "c"} for url in ("u", None, "", "u")]
    planned = rows_of(build(write(tmp_path / "a.parquet", rows)))
    assert [p.row.url for p in planned] == ["u", None, "", "u"]
    assert len({p.row.key for p in planned}) == 4
    assert {p.outcome for p in planned} == {None}


def test_broken_json_line_is_a_row_without_an_address(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"url": "u1", "caption": "c"}\nnot json\n[1]\n\n{"url": "u2", "caption": "c"}\n')
    assert urls_of(build(path)) == ["u1", None, None, "u2"]


def test_csv_keeps_line_breaks_quotes_and_a_megabyte_of_caption(tmp_path: Path) -> None:
    captions = ['two\nlines, "quoted"', "x" * 2**20, "\u05d0\u05d1\u05d2 \u202ertl"]
    path = write(tmp_path / "a.csv", [{"url": "u", "caption": caption} for caption in captions])
    settings = build(path, filter=FilterSettings(max_caption_chars=2**21))
    assert [p.row.caption for p in rows_of(settings)] == captions


def test_parquet_text_that_is_not_utf8_is_repaired(tmp_path: Path) -> None:
    bad = pa.Array.from_buffers(pa.string(), 1, pa.array([b"caf\xe9"]).buffers())
    table = pa.table({"url": pa.array(["u"]), "caption": bad, "licence": bad})
    pq.write_table(table, tmp_path / "a.parquet")
    [planned] = rows_of(build(tmp_path / "a.parquet"))
    assert planned.row.caption == "caf\ufffd" == planned.row.extra["licence"]


@pytest.mark.parametrize("kind", ["dictionary", "large_string", "string_view"])
def test_arrow_spellings_of_text_are_read(tmp_path: Path, kind: str) -> None:
    column = pa.array(["a", None, "a"])
    column = column.dictionary_encode() if kind == "dictionary" else column.cast(getattr(pa, kind)())
    pq.write_table(pa.table({"url": column, "caption": column, "licence": column}), tmp_path / "a.parquet")
    planned = rows_of(build(tmp_path / "a.parquet"))
    assert [(p.row.url, p.row.caption, p.row.extra["licence"]) for p in planned] == [
        ("a", "a", "a"), (None, "", None), ("a", "a", "a"),
    ]  # fmt: skip


def test_columns_that_files_type_differently_become_text(tmp_path: Path) -> None:
    a = write(tmp_path / "a.parquet", [{"url": "u", "caption": "c", "id": 1, "only_a": 2.5}])
    b = write(tmp_path / "b.parquet", [{"url": "u", "caption": "c", "id": "x"}])
    assert [p.row.extra for p in rows_of(build(a, b))] == [{"id": "1", "only_a": 2.5}, {"id": "x", "only_a": None}]


# --- captions --------------------------------------------------------------------------------------------------------

# st.text leaves surrogates out, whatever its alphabet; here they are wanted.
NASTY = st.sampled_from("\ud800\udbff\udc00\udfff\0\n\u202e\ufeff")
ANY_TEXT = st.lists(st.characters() | NASTY, max_size=60).map("".join)


@given(ANY_TEXT, st.integers(0, 40))
@pytest.mark.case(20)
def test_any_caption_becomes_storable_and_is_kept_as_far_as_it_can_be(text: str, max_chars: int) -> None:
    # Mutation tried: passing surrogates through makes encode() raise; trimming before counting loses `trimmed`.
    caption, trimmed = clean_caption(text, max_chars)
    assert caption.encode("utf-8").decode("utf-8") == caption
    assert "\0" not in caption
    assert trimmed == (len(text) > max_chars)
    assert len(caption) == min(len(text), max_chars)
    assert all(new == old or (new == "\ufffd" and (old == "\0" or 0xD800 <= ord(old) <= 0xDFFF))
               for new, old in zip(caption, text, strict=False))  # fmt: skip


@hypothesis_settings(max_examples=30, deadline=None)
@given(st.lists(ANY_TEXT, min_size=1, max_size=8))
def test_captions_come_through_json_lines_and_parquet_whatever_they_hold(
    tmp_path_factory: pytest.TempPathFactory, captions: list[str]
) -> None:
    folder = tmp_path_factory.mktemp("captions")
    # json.dumps of a list of code points keeps lone surrogates apart, as a careless writer does.
    jsonl = write(folder / "a.jsonl", [{"url": "u", "caption": caption} for caption in captions])
    expected = [clean_caption(json.loads(json.dumps(caption)), 10_000)[0] for caption in captions]
    assert [p.row.caption for p in rows_of(build(jsonl))] == expected
    parquet = write(folder / "a.parquet", [{"url": "u", "caption": caption} for caption in expected])
    assert [p.row.caption for p in rows_of(build(parquet))] == expected


@pytest.mark.case(20)
def test_trimmed_captions_are_counted(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", [{"url": "u", "caption": "x" * n} for n in (4, 5, 6)])
    [shard] = iter_shards(build(path, filter=FilterSettings(max_caption_chars=5)))
    assert shard.captions_trimmed == 1
    assert [len(p.row.caption) for p in shard.rows] == [4, 5, 5]


# --- filters and warnings --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limits", "detail"),
    [
        ({"max_punsafe": 0.5}, "punsafe 0.9 > 0.5"),
        ({"max_pwatermark": 0.5}, "pwatermark 0.8 > 0.5"),
        ({"min_similarity": 0.3}, "similarity 0.1 < 0.3"),
        ({"min_aesthetic": 5.0}, "AESTHETIC_SCORE 4 < 5"),
        ({"min_width": 200}, "WIDTH 100 < 200"),
        ({"min_height": 200}, "HEIGHT 100 < 200"),
        ({"caption_pattern": "^good"}, "caption does not contain '^good'"),
    ],
)
@pytest.mark.parametrize("name", ["a.parquet", "a.csv"])
def test_filter_turns_down_with_its_column_and_the_row_stays(
    tmp_path: Path, name: str, limits: dict[str, object], detail: str
) -> None:
    columns = ["punsafe", "pwatermark", "similarity", "AESTHETIC_SCORE", "WIDTH", "HEIGHT"]
    rows = [
        {"url": "1", "caption": "a bad one", **dict(zip(columns, (0.9, 0.8, 0.1, 4.0, 100, 100), strict=True))},
        {"url": "2", "caption": "good", **dict(zip(columns, (0.5, 0.5, 0.3, 5.0, 200, 200), strict=True))},
        {"url": "3", "caption": "good: nothing is known", **dict.fromkeys(columns)},
    ]
    planned = rows_of(build(write(tmp_path / name, rows), filter=FilterSettings(**limits)))  # type: ignore[arg-type]
    assert [(p.outcome, p.detail) for p in planned] == [(Outcome.METADATA_FILTER, detail), (None, ""), (None, "")]


def test_pattern_that_is_no_regular_expression_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not a regular expression"):
        iter_shards(build(write(tmp_path / "a.csv"), filter=FilterSettings(caption_pattern="(")))


def test_list_without_safety_column_is_warned_about(tmp_path: Path) -> None:
    without = write(tmp_path / "a.csv", [{"url": "u", "caption": "c"}])
    assert list_warnings(build(without)) == [NO_SAFETY_COLUMN]
    assert "Re-LAION" in NO_SAFETY_COLUMN
    assert list_warnings(build(write(tmp_path / "b.csv"))) == []
    assert list_warnings(build(write(tmp_path / "c.csv", [{"url": "u", "caption": "c", "NSFW": "UNLIKELY"}]))) == []


@pytest.mark.case(70)
@pytest.mark.parametrize(
    ("name", "columns", "sign"),
    [
        (
            "part-00000.parquet",
            ["URL", "TEXT", "WIDTH", "HEIGHT", "similarity", "punsafe"],
            "columns.* WIDTH, HEIGHT, sim",
        ),
        ("laion2B-en-aesthetic.parquet", ["url", "caption", "punsafe"], "has 'laion2B' in its name"),
        ("relaion2B-en-research-safe.parquet", ["URL", "TEXT", "WIDTH", "HEIGHT", "similarity", "punsafe"], None),
        ("mine.parquet", ["url", "caption", "punsafe", "width", "height"], None),
        ("mine.parquet", ["URL", "TEXT", "punsafe"], None),
    ],
)
def test_the_withdrawn_list_is_recognised(tmp_path: Path, name: str, columns: list[str], sign: str | None) -> None:
    # Mutations tried: no `_laion5b_signs`; the sign of another reason; three own columns are enough.
    path = write(tmp_path / name, [dict.fromkeys(columns, "1")])
    warnings = list_warnings(build(path))
    assert len(warnings) == (sign is not None)
    if sign is not None:
        assert re.match(rf"{path.name} has .*{sign}|{path.name} {sign}", warnings[0])
        assert "withdrawn in December 2023" in warnings[0]
        assert str(tmp_path) not in warnings[0]


@pytest.mark.case(70)
def test_what_many_lists_look_like_is_said_once_and_the_user_may_say_what_they_are(tmp_path: Path) -> None:
    # Mutations tried: a warning for each list; `source` not looked at.
    paths = [
        write(tmp_path / f"laion2B-{number}.parquet", [{"url": "u", "caption": "c", "nsfw": ""}]) for number in range(5)
    ]
    [warning] = list_warnings(build(*paths))
    assert warning.startswith("laion2B-0.parquet has 'laion2B' in its name or that of its folder (so do 4 more lists).")
    assert list_warnings(build(*paths, list_source="laion-5b")) == [warning]
    assert (
        list_warnings(build(*paths, list_source="re-laion-5b"))
        == list_warnings(build(*paths, list_source="other"))
        == []
    )


def test_filter_without_its_column_is_warned_about(tmp_path: Path) -> None:
    settings = build(write(tmp_path / "a.csv"), filter=FilterSettings(min_aesthetic=6.0, max_punsafe=0.5))
    assert list_warnings(settings) == [
        "--filter.min-aesthetic is set, but the list has no column aesthetic: it turns nothing down."
    ]


# --- counts, fingerprint, memory -------------------------------------------------------------------------------------


def test_rows_are_counted_where_that_is_cheap_and_limited_by_max_rows(tmp_path: Path) -> None:
    parquet, text = write(tmp_path / "a.parquet"), write(tmp_path / "a.csv")
    assert count_rows(build(parquet, parquet)) == 16
    assert count_rows(build(parquet, max_rows=5)) == 5
    assert count_rows(build(parquet, text)) is None
    assert [len(shard.rows) for shard in iter_shards(build(parquet, text, max_rows=10))] == [3, 3, 3, 1]


def test_lists_are_opened_once_before_the_first_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Mutation tried: `_sources` a plain property -> 5 opens of each list.
    paths = [write(tmp_path / f"{name}.parquet") for name in "abc"]
    opened: Counter[str] = Counter()
    really_open = fsspec.open

    def counting(path: str, *arguments: Any, **options: Any) -> Any:
        opened[path] += 1
        return really_open(path, *arguments, **options)

    monkeypatch.setattr(fsspec, "open", counting)
    recipe = ImageRecipe(build(*paths, detector="stub", pose_model="stub"))
    recipe.preflight()
    recipe.fixed_facts()
    assert recipe.num_rows() == 3 * len(ROWS)
    next(recipe.plans())
    assert opened == {str(paths[0]): 2, str(paths[1]): 1, str(paths[2]): 1}, "the first one again for its rows"


def fingerprint(settings: BuildImagesSettings) -> str:
    return lists_fingerprint(find_lists(settings.input))


def test_fingerprint_follows_content_not_place_or_time(tmp_path: Path) -> None:
    (tmp_path / "moved").mkdir()
    first, moved = write(tmp_path / "a.csv"), write(tmp_path / "moved" / "b.csv")
    changed = write(tmp_path / "c.csv", [*ROWS[:-1], {**ROWS[-1], "caption": "other"}])
    assert fingerprint(build(first)) == fingerprint(build(moved))
    assert fingerprint(build(first)) != fingerprint(build(changed))
    assert fingerprint(build(first)) != fingerprint(build(first, moved))


def test_fingerprint_of_a_large_list_sees_its_head_and_its_tail(tmp_path: Path) -> None:
    path = tmp_path / "large.csv"
    data = bytearray(b"url,caption\n" + b"x" * (9 * 2**20))
    prints = set()
    for position in (None, 20, len(data) - 1):
        path.write_bytes(data if position is None else data[:position] + b"y" + data[position + 1 :])
        prints.add(fingerprint(build(path)))
    assert len(prints) == 3


MEMORY_PROBE = """
import re, sys
from pathlib import Path
from dataclasses import replace
from pipelines.image.plan import iter_shards
from pipelines.image.settings import BuildImagesSettings
settings = replace(BuildImagesSettings(input=(sys.argv[1],)), rows_per_shard=1000, max_rows=int(sys.argv[2]))
assert sum(len(shard.rows) for shard in iter_shards(settings)) == int(sys.argv[2])
# Not ru_maxrss: a child inherits that from the process that started it.
print(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
"""


def test_memory_stays_flat_over_a_long_list(tmp_path: Path) -> None:
    # Mutation tried: collecting the shards in a list adds about 90 MB here.
    num_rows = 120_000
    captions = [f"caption {i} " + "x" * 80 for i in range(num_rows)]
    table = pa.table({"url": [f"http://h/{i}.jpg" for i in range(num_rows)], "caption": captions})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=20_000)

    def peak_kib(rows: int) -> int:
        command = [sys.executable, "-c", MEMORY_PROBE, str(tmp_path / "a.parquet"), str(rows)]
        return int(subprocess.run(command, capture_output=True, text=True, check=True, timeout=100).stdout)

    assert peak_kib(num_rows) - peak_kib(20_000) < 20 * 1024
