"""Contract of video lists: each format that people have becomes the same rows, detected from its columns; what cannot
be understood in one cell never stops a run; every text can be stored; a list without videos says what it found.
"""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lposekit.errors import LposekitError, Outcome, UsageError
from lposekit.shards.rows import rows_table
from pipelines.video.cells import seconds
from pipelines.video.clips.records import Span, TimedCaption, VideoResult
from pipelines.video.formats import detect_format
from pipelines.video.rows import OWN_COLUMNS, video_row
from tests.support.video_inputs import rows, touch, write_csv, write_jsonl

GENERIC = [
    {"path": "a.mp4", "caption": "one", "start": "1.5", "end": "00:00:04.000", "extra": "x"},
    {"path": "sub/b.mp4", "caption": "two", "start": "", "end": "", "extra": "y"},
]


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_generic_list_in_three_kinds_of_file(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"list.{kind}"
    if kind == "csv":
        write_csv(path, GENERIC)
    elif kind == "jsonl":
        write_jsonl(path, GENERIC)
    else:
        pq.write_table(pa.Table.from_pylist(GENERIC), path)
    found = rows(path)
    assert [row.path for row in found] == [str(tmp_path / "a.mp4"), str(tmp_path / "sub/b.mp4")]
    assert [row.caption for row in found] == ["one", "two"]
    assert [row.spans for row in found] == [(Span(1.5, 4.0),), ()]
    assert [row.extra for row in found] == [{"extra": "x"}, {"extra": "y"}]


def test_generic_list_of_urls_with_timed_captions_and_cuts(tmp_path: Path) -> None:
    record = {
        "video_url": "https://h/a.mp4",
        "text": "t",
        "captions": '[[0, "x"], ["0:02", "y"]]',
        "cuts": "[1.0, 2.5]",
    }
    (row,) = rows(write_csv(tmp_path / "list.csv", [record]))
    assert (row.url, row.path, row.name) == ("https://h/a.mp4", None, "https://h/a.mp4")
    assert row.captions == (TimedCaption("x", time_s=0.0), TimedCaption("y", time_s=2.0))
    assert row.cuts_s == (1.0, 2.5)


def test_relative_paths_count_from_the_root_that_is_named(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "list.csv", [{"path": "a.mp4", "caption": "one"}])
    (row,) = rows(path, video_root=Path("/data"))
    assert row.path == "/data/a.mp4"


def test_webvid(tmp_path: Path) -> None:
    touch(tmp_path / "000001_000050" / "21179416.mp4")
    base = {"duration": "PT00H00M11S", "page_dir": "000001_000050", "contentUrl": "https://h/{}.mp4"}
    path = write_csv(
        tmp_path / "results.csv",
        [{"videoid": name, "name": f"caption {name}", **base} for name in ("21179416", "5629184")],
    )
    local, remote = rows(path)
    assert (local.name, local.caption) == ("21179416", "caption 21179416")
    assert local.path == str(tmp_path / "000001_000050" / "21179416.mp4")
    assert (remote.path, remote.url) == (None, "https://h/{}.mp4")
    assert remote.extra["duration"] == "PT00H00M11S"


def test_hdvila_spans(tmp_path: Path) -> None:
    record = {
        "video_id": "QMi8-5Kq1M8",
        "url": "https://www.youtube.com/watch?v=QMi8-5Kq1M8",
        "clip": [
            {"clip_id": "QMi8.0.mp4", "span": ["00:00:17.759", "00:00:23.279"]},
            {"clip_id": "QMi8.1.mp4", "span": ["00:01:00.000", "01:00:10.500"]},
            {"clip_id": "broken", "span": ["soon"]},
        ],
    }
    (row,) = rows(write_jsonl(tmp_path / "hdvila.jsonl", [record]))
    assert row.spans == (
        Span(17.759, 23.279, None, "QMi8.0.mp4"),
        Span(60.0, 3610.5, None, "QMi8.1.mp4"),
    )
    assert (row.name, row.url) == (record["video_id"], record["url"])


def test_captions_of_follow_your_pose(tmp_path: Path) -> None:
    lines = [
        {"part_id": part, "clip_id": clip, "frame_id": frame, "caption": f"{clip} at {frame}"}
        for part, clip in (("0", "1.mp4"), ("0", "2.mp4"), ("10", "1.mp4"))
        for frame in (0, 64, 128)
    ]
    found = rows(write_csv(tmp_path / "caption_train.csv", lines))
    assert [row.name for row in found] == [
        "part_0/video_clips/1.mp4",
        "part_0/video_clips/2.mp4",
        "part_10/video_clips/1.mp4",
    ]
    assert found[1].path == str(tmp_path / "part_0/video_clips/2.mp4")
    assert found[1].captions == tuple(TimedCaption(f"2.mp4 at {frame}", frame=frame) for frame in (0, 64, 128))


def test_panda70m(tmp_path: Path) -> None:
    record = {
        "videoID": "--C66yU3LjM_2",
        "url": "https://www.youtube.com/watch?v=--C66yU3LjM_2",
        "timestamp": "[['0:00:17.720', '0:00:21.280'], ['0:01:00.000', '0:01:06.000']]",
        "caption": '[\'A person, "quoted".\', "It\'s two people."]',
        "matching_score": "[0.43, 0.41]",
        "desirable_filtering": "['desirable', 'desirable']",
        "shot_boundary_detection": "[[['0:00:17.720', '0:00:21.280']], [['0:01:00.000', '0:01:06.000']]]",
    }
    (row,) = rows(write_csv(tmp_path / "panda70m_training_2m.csv", [record]))
    assert row.spans == (
        Span(17.72, 21.28, 'A person, "quoted".', "--C66yU3LjM_2_0"),
        Span(60.0, 66.0, "It's two people.", "--C66yU3LjM_2_1"),
    )
    assert row.extra["matching_score"] == "[0.43, 0.41]"


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        (["videoid", "contentUrl", "duration", "page_dir", "name"], "webvid"),
        (["video_id", "url", "clip"], "hdvila"),
        (["part_id", "clip_id", "frame_id", "caption"], "hdvila_captions"),
        (["videoID", "url", "timestamp", "caption", "matching_score"], "panda70m"),
        (["URL", "caption"], "generic"),
        (["Path"], "generic"),
        (["caption", "score"], None),
    ],
)
def test_format_follows_from_the_columns(columns: list[str], expected: str | None) -> None:
    assert detect_format(columns) == expected


def test_format_can_be_named(tmp_path: Path) -> None:
    path = write_csv(
        tmp_path / "list.csv", [{"videoid": "1", "contentUrl": "https://h/1.mp4", "caption": "c", "path": "p"}]
    )
    assert [rows(path, kind=kind)[0].extra for kind in ("generic", "webvid")] == [
        {"videoid": "1"},
        {"videoid": "1", "path": "p"},
    ]


def test_list_without_videos_says_what_it_found(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "list.csv", [{"text": "a", "score": "1"}])
    with pytest.raises(UsageError, match=r"Found: text, score.*--format"):
        rows(path)
    with pytest.raises(UsageError, match="no such file"):
        rows(tmp_path / "missing.csv")
    with pytest.raises(UsageError, match="--input"):
        rows()


def test_truncated_parquet_is_named(tmp_path: Path) -> None:
    path = tmp_path / "list.parquet"
    pq.write_table(pa.Table.from_pylist(GENERIC * 50), path)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(LposekitError, match=r"list\.parquet"):
        rows(path)


def test_rows_of_garbage_stay_rows(tmp_path: Path) -> None:
    lines = [{"path": None, "caption": None}, {"path": "a.mp4", "start": "soon", "end": "nan", "captions": "[[["}, {}]
    found = rows(write_jsonl(tmp_path / "list.jsonl", lines))
    assert [(row.path, row.spans, row.captions) for row in found] == [
        (None, (), ()),
        (str(tmp_path / "a.mp4"), (), ()),
        (None, (), ()),
    ]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (12.5, 12.5),
        ("12.5", 12.5),
        ("00:00:12.500", 12.5),
        ("1:02", 62),
        ("1:00:00", 3600),
        ("", None),
        (None, None),
        ("-3", None),
        ("inf", None),
        (True, None),
        ("1:2:3:4", None),
    ],
)
def test_times_in_all_spellings(value: object, expected: float | None) -> None:
    assert seconds(value) == expected


FYP = "part_id,clip_id,frame_id,caption\n"


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("path,caption\na.mp4,one,two\nb.mp4,three\n", ["a.mp4", "b.mp4"]),
        (f"{FYP}0,1,nan,x\n0,1,inf,y\n", ["part_0/video_clips/1.mp4"]),
        (f"{FYP}nan,1,0,x\ninf,2,0,y\n", ["part_nan/video_clips/1.mp4", "part_inf/video_clips/2.mp4"]),
        ("path,captions\na.mp4,{[]}\nb.mp4,\"[{'frame': 1e400, 'text': 't'}]\"\n", ["a.mp4", "b.mp4"]),
        (f"path,cuts\na.mp4,{'[' * 5000}\n", ["a.mp4"]),
        (f"videoid,contentUrl,name\n{'x' * 300},https://h/a.mp4,c\n", ["x" * 300]),
        (f"path,url,caption\n{'x' * 300},https://h/a.mp4,c\n", ["x" * 300]),
    ],
    ids=["too many fields", "frame", "part", "literal", "deep", "long name", "long path"],
)
def test_a_cell_that_cannot_be_understood_makes_its_row_keep_less(tmp_path: Path, text: str, names: list[str]) -> None:
    # Mutation tried, one each: no isinstance in find_column, no OverflowError or ValueError in whole_number, no
    # TypeError or RecursionError in literal, Path.is_file in ListPlace.existing -> the case raises.
    path = tmp_path / "list.csv"
    path.write_text(text)
    assert [row.name for row in rows(path)] == names


def test_frames_that_are_no_numbers_count_by_their_place(tmp_path: Path) -> None:
    (row,) = rows(write_csv(tmp_path / "l.csv", [{"part_id": 0, "clip_id": 1, "frame_id": "nan", "caption": "x"}] * 2))
    assert row.captions == (TimedCaption("x", frame=0), TimedCaption("x", frame=64))


LONE = "\ud83d"


def texts_of(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [text for item in value.items() for text in texts_of(item)]
    if isinstance(value, list | tuple):
        return [text for item in value for text in texts_of(item)]
    return [value] if isinstance(value, str) else []


@pytest.mark.parametrize(
    "record",
    [
        {
            "path": LONE,
            "caption": LONE,
            "captions": [[0, LONE], {"time": 1, "text": LONE}],
            LONE: LONE,
            "m": {"a": LONE},
        },
        {"url": LONE, "key": LONE, "caption": [LONE], "list": [LONE]},
        {"video_id": LONE, "url": "u", "clip": [{"clip_id": LONE, "span": [0, 1], "caption": LONE}], "caption": LONE},
        {"videoID": LONE, "url": "u", "timestamp": [[0, 1]], "caption": [LONE], "matching_score": LONE},
        {"videoid": LONE, "contentUrl": LONE, "name": LONE},
        {"part_id": LONE, "clip_id": LONE, "frame_id": 0, "caption": LONE},
    ],
    ids=["generic", "generic url", "hdvila", "panda70m", "webvid", "hdvila_captions"],
)
def test_half_a_character_is_mended_wherever_it_stands(tmp_path: Path, record: dict[str, Any]) -> None:
    # Mutation tried: `str` for `text_or_none` in text_of, and for caption_of in spans -> UnicodeEncodeError.
    (row,) = rows(write_jsonl(tmp_path / "list.jsonl", [record]))
    assert any("\ufffd" in text for text in texts_of(row.to_plain()))
    for text in [*texts_of(row.to_plain()), *texts_of(dict(row.extra)), row.source, row.path, row.url]:
        (text or "").encode()


@pytest.mark.parametrize(
    ("caption", "expected"),
    [("a", "a"), (["a", "b"], "a"), ([], None), (7, "7"), ({"en": "a"}, None), (None, None), (float("nan"), None)],
)
def test_the_caption_of_a_span_is_a_text_or_nothing(tmp_path: Path, caption: Any, expected: str | None) -> None:
    clips = [{"clip_id": 3, "span": [0, 1], "caption": caption}]
    (row,) = rows(write_jsonl(tmp_path / "list.jsonl", [{"video_id": "x", "url": "u", "clip": clips}]))
    assert row.spans == (Span(0.0, 1.0, expected, "3"),)


def test_missing_values_of_pandas_are_no_texts(tmp_path: Path) -> None:
    (row,) = rows(write_jsonl(tmp_path / "list.jsonl", [{"path": float("nan"), "url": "u", "caption": float("nan")}]))
    assert (row.path, row.url, row.caption) == (None, "u", "")


def test_other_columns_are_text_whatever_they_hold(tmp_path: Path) -> None:
    record = {"path": "a.mp4", "caption": "c", "score": 1, "meta": {}, "tags": ["x"], "none": None, "flag": True}
    (row,) = rows(write_jsonl(tmp_path / "list.jsonl", [record]))
    assert row.extra == {"score": "1", "meta": "{}", "tags": '["x"]', "none": None, "flag": "True"}


def test_shards_with_different_values_in_a_column_are_of_one_type(tmp_path: Path) -> None:
    # Mutation tried: the values unchanged -> pyarrow refuses {} as a column.
    tables = []
    for score in (1, "n/a"):
        (row,) = rows(write_jsonl(tmp_path / "l.jsonl", [{"path": "a", "caption": "c", "score": score, "meta": {}}]))
        tables.append(rows_table([video_row("0", row, VideoResult(Outcome.BAD_URL), None).columns], OWN_COLUMNS))
        pq.write_table(tables[-1], tmp_path / "shard.parquet")
    assert pa.concat_tables(tables, promote_options="permissive")["score"].to_pylist() == ["1", "n/a"]


def test_columns_of_our_names_do_not_hide_what_was_chosen(tmp_path: Path) -> None:
    record = {"videoid": "1", "contentUrl": "https://h/1.mp4", "url": "page", "name": "chosen", "caption": "other"}
    (row,) = rows(write_csv(tmp_path / "list.csv", [record]))
    columns = video_row("0", row, VideoResult(Outcome.BAD_URL), None).columns
    assert (columns["caption"], columns["url"]) == ("chosen", "https://h/1.mp4")
    assert (columns["list_caption"], columns["list_url"]) == ("other", "page")


def test_of_a_path_and_an_address_the_file_counts_if_it_is_there(tmp_path: Path) -> None:
    touch(tmp_path / "a.mp4")
    lines = [{"path": name, "url": f"https://h/{name}", "caption": "c"} for name in ("a.mp4", "gone.mp4")]
    here, gone = rows(write_csv(tmp_path / "list.csv", lines))
    assert (here.path, gone.path, gone.url) == (str(tmp_path / "a.mp4"), None, "https://h/gone.mp4")
    assert [here.source, gone.source] == ["https://h/a.mp4", "https://h/gone.mp4"]


@pytest.mark.parametrize("column", ["video", "filename", "path"])
def test_an_address_in_a_column_of_paths_is_an_address(tmp_path: Path, column: str) -> None:
    (row,) = rows(write_csv(tmp_path / "list.csv", [{column: "HTTPS://h/a.mp4", "caption": "c"}]))
    assert (row.path, row.url, row.name, row.source) == (None, "HTTPS://h/a.mp4", *["HTTPS://h/a.mp4"] * 2)


def test_what_is_stored_is_what_the_list_says(tmp_path: Path) -> None:
    touch(tmp_path / "d" / "1.mp4")
    webvid = {"videoid": "1", "contentUrl": "", "page_dir": "d", "name": "c"}
    (found,) = rows(write_csv(tmp_path / "webvid.csv", [webvid]))
    (generic,) = rows(write_csv(tmp_path / "list.csv", [{"id": "7", "path": "d/1.mp4", "caption": "c"}]))
    assert [row.source for row in (found, generic)] == ["d/1.mp4", "d/1.mp4"]
    assert [row.path for row in (found, generic)] == [str(tmp_path / "d" / "1.mp4")] * 2


def test_the_column_of_captions_can_be_named(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "list.csv", [{"path": "a.mp4", "caption": "short", "Long": "long"}])
    (row,) = rows(path, caption_column="Long")
    assert (row.caption, row.extra) == ("long", {"list_caption": "short"})
    with pytest.raises(UsageError, match=r"--caption-column Lang: no such column.*path, caption, Long"):
        rows(path, caption_column="Lang")


def invalid_text(values: list[bytes]) -> pa.Array:
    binary = pa.array(values, pa.binary())
    return pa.Array.from_buffers(pa.string(), len(values), binary.buffers())


def test_parquet_that_is_not_all_utf8_keeps_every_row(tmp_path: Path) -> None:
    # Mutation tried: batch.to_pylist() -> UnicodeDecodeError; no fallback in _values -> the same for the lists.
    tags = pa.ListArray.from_arrays(pa.array([0, 1, 2]), invalid_text([b"good", b"b\xffd"]))
    kinds = pa.DictionaryArray.from_arrays(pa.array([0, 0]), pa.array(["k"]))
    columns = {"path": pa.array(["a", "b"]), "caption": invalid_text([b"c\xff", b"d"]), "tags": tags, "kind": kinds}
    pq.write_table(pa.table(columns), tmp_path / "list.parquet")
    found = rows(tmp_path / "list.parquet")
    assert [row.caption for row in found] == ["c\ufffd", "d"]
    assert [row.extra for row in found] == [{"tags": '["good"]', "kind": "k"}, {"tags": None, "kind": "k"}]


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_lists_are_read_where_fsspec_finds_them(tmp_path: Path, kind: str) -> None:
    table = pa.Table.from_pylist([{"url": "https://h/a.mp4", "caption": "c"}])
    with fsspec.open(f"memory://lists/list.{kind}", "wb") as stream:
        if kind == "csv":
            stream.write(b"url,caption\nhttps://h/a.mp4,c\n")  # type: ignore[union-attr]
        else:
            pq.write_table(table, stream)
    assert [row.url for row in rows(f"memory://lists/list.{kind}")] == ["https://h/a.mp4"]


def test_a_damaged_compressed_list_is_named(tmp_path: Path) -> None:
    # Mutation tried: damage_named without zlib.error -> it escapes.
    path = tmp_path / "list.jsonl.gz"
    lines = "".join(json.dumps({"path": f"{i * 7919 % 10007}.mp4", "caption": str(i**5)}) + "\n" for i in range(20_000))
    packed = bytearray(gzip.compress(lines.encode()))
    packed[len(packed) // 2 :] = packed[: len(packed) // 2]
    path.write_bytes(packed)
    with pytest.raises(LposekitError, match=r"list\.jsonl\.gz"):
        rows(path)
