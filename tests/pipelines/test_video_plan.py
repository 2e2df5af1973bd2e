"""Contract of video inputs: each format that people have becomes the same rows, detected from its columns; captions are
joined by key; what cannot be understood in one cell never stops a run, and a file without videos says what it found.
"""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lposekit.errors import LposekitError, UsageError
from pipelines.decode.video_records import Span, TimedCaption, VideoRow
from pipelines.settings import BuildVideoSettings
from pipelines.video_captions import read_captions, with_captions
from pipelines.video_cells import seconds
from pipelines.video_inputs import open_inputs, read_rows
from pipelines.video_lists import detect_format
from pipelines.video_plan import input_fingerprint, iter_plans


def write_csv(path: Path, records: list[dict[str, Any]]) -> str:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(records[0]))
        writer.writeheader()
        writer.writerows(records)
    return str(path)


def write_jsonl(path: Path, records: list[Any]) -> str:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return str(path)


def rows(*inputs: object, **options: Any) -> list[VideoRow]:
    return list(read_rows(open_inputs([str(each) for each in inputs], **options)))


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"video")


def test_folder_of_videos_with_captions_beside_them(tmp_path: Path) -> None:
    touch(
        tmp_path / "b.mp4", tmp_path / "deep" / "a.MOV", tmp_path / "c.mkv", tmp_path / "d.webm", tmp_path / "notes.md"
    )
    (tmp_path / "b.txt").write_text("a cat walks\n")
    (tmp_path / "deep" / "a.json").write_text(
        json.dumps(
            {"caption": "a dog", "captions": [[1.5, "it sits"], {"frame": 64, "text": "it runs"}], "start": 1, "end": 9}
        )
    )
    (tmp_path / "c.json").write_text('"just a text"')
    (tmp_path / "d.json").write_text("{broken")
    found = rows(tmp_path)
    assert [row.name for row in found] == ["b.mp4", "c.mkv", "d.webm", "deep/a.MOV"]
    assert [row.caption for row in found] == ["a cat walks", "just a text", "", "a dog"]
    assert found[3].captions == (TimedCaption("it sits", time_s=1.5), TimedCaption("it runs", frame=64))
    assert found[3].spans == (Span(1.0, 9.0),)
    assert found[3].path == str(tmp_path / "deep" / "a.MOV")


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


VIDEOS = [VideoRow("part_0/video_clips/1.mp4", caption="old 1"), VideoRow("deep/2.mp4", caption="old 2"), VideoRow("3")]


def test_new_captions_are_joined_by_key_and_others_stay(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "new.csv", [{"key": "2", "caption": "new 2"}, {"key": "unknown", "caption": "x"}])
    joined = list(with_captions(VIDEOS, read_captions(path)))
    assert [row.caption for row in joined] == ["old 1", "new 2", ""]


def test_new_timed_captions_replace_those_of_the_list(tmp_path: Path) -> None:
    lines = [{"part_id": 0, "clip_id": "1.mp4", "frame_id": frame, "caption": f"at {frame}"} for frame in (0, 64)]
    path = write_csv(tmp_path / "caption.csv", lines)
    joined = list(with_captions(VIDEOS, read_captions(path)))
    assert joined[0].captions == (TimedCaption("at 0", frame=0), TimedCaption("at 64", frame=64))
    assert [row.caption for row in joined] == ["at 0", "old 2", ""]


def test_captions_of_another_list_are_refused_before_any_work(tmp_path: Path) -> None:
    touch(tmp_path / "videos" / "a.mp4")
    path = write_csv(tmp_path / "new.csv", [{"key": "of another list", "caption": "x"}])
    with pytest.raises(UsageError, match=r"none of the 1 keys .*a\.mp4"):
        iter_plans(BuildVideoSettings(input=(str(tmp_path / "videos"),), captions=path))


@pytest.mark.parametrize("record", [{"key": "1"}, {"score": "1", "caption": "x"}])
def test_captions_file_without_its_columns_is_refused(tmp_path: Path, record: dict[str, str]) -> None:
    with pytest.raises(UsageError, match="column"):
        read_captions(write_csv(tmp_path / "new.csv", [record]))


def test_shards_hold_the_same_rows_whatever_is_skipped(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "list.csv", [{"path": f"{number}.mp4", "caption": "c"} for number in range(10)])
    settings = BuildVideoSettings(input=(path,), rows_per_shard=4)
    plans = list(iter_plans(settings))
    assert [(plan.shard, len(plan.rows)) for plan in plans] == [(0, 4), (1, 4), (2, 2)]
    assert list(iter_plans(settings, skip={0, 2})) == [plans[1]]


@pytest.mark.parametrize(
    "wrong", [{"rows_per_shard": 0}, {"rows_per_shard": 20_000}, {"format": "webvid"}, {"input": ()}]
)
def test_wrong_settings_are_refused_before_any_work(tmp_path: Path, wrong: dict[str, Any]) -> None:
    path = write_csv(tmp_path / "list.csv", [{"path": "a.mp4", "caption": "c"}])
    with pytest.raises(UsageError):
        iter_plans(BuildVideoSettings(**{"input": (path,), **wrong}))


def test_fingerprint_follows_the_videos_of_a_folder_and_what_is_said_about_them(tmp_path: Path) -> None:
    folder = tmp_path / "videos"
    touch(folder / "a.mp4")
    settings = BuildVideoSettings(input=(str(folder),))
    prints = [input_fingerprint(settings)]
    (folder / "a.txt").write_text("a caption")
    prints.append(input_fingerprint(settings))
    touch(folder / "b.mp4")
    prints.append(input_fingerprint(settings))
    folder.rename(tmp_path / "moved")
    prints.append(input_fingerprint(BuildVideoSettings(input=(str(tmp_path / "moved"),))))
    assert len(set(prints[:3])) == 3
    assert prints[2] == prints[3]


def test_fingerprint_follows_the_content_of_lists_and_captions(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "list.csv", [{"path": "a.mp4", "caption": "c"}])
    captions = write_csv(tmp_path / "new.csv", [{"key": "a.mp4", "caption": "d"}])
    plain = input_fingerprint(BuildVideoSettings(input=(path,)))
    joined = input_fingerprint(BuildVideoSettings(input=(path,), captions=captions))
    write_csv(tmp_path / "new.csv", [{"key": "a.mp4", "caption": "e"}])
    other = input_fingerprint(BuildVideoSettings(input=(path,), captions=captions))
    assert len({plain, joined, other}) == 3
