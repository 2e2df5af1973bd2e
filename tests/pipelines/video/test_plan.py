"""Contract of video inputs: folders and lists become the same shards of rows whatever is skipped; what is wrong with
them is said before any work; a moved copy of an input is the same input, and gives the same rows but for the paths.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lposekit.errors import UsageError
from lposekit.shards.layout import DatasetLayout
from pipelines.job.runner import RunResult
from pipelines.recipes import build_videos as run
from pipelines.video.clips.records import Span, TimedCaption
from pipelines.video.clips.settings import EncodeSettings
from pipelines.video.plan import input_fingerprint, iter_plans
from pipelines.video.settings import BuildVideoSettings
from tests.support.execute_here import execute_here
from tests.support.video_inputs import rows, touch, write_csv, write_jsonl


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


def test_captions_of_another_list_are_refused_before_any_work(tmp_path: Path) -> None:
    touch(tmp_path / "videos" / "a.mp4")
    path = write_csv(tmp_path / "new.csv", [{"key": "of another list", "caption": "x"}])
    with pytest.raises(UsageError, match=r"none of the 1 keys .*a\.mp4"):
        iter_plans(BuildVideoSettings(input=(str(tmp_path / "videos"),), captions=path))


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
        run(BuildVideoSettings(**{"input": (path,), "output": tmp_path / "data", **wrong}))


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


def test_a_relative_folder_is_read_from_anywhere_and_stored_by_the_names_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Mutation tried: the folder as typed -> the path is relative. `source` the path -> it holds the folder's place.
    touch(tmp_path / "videos" / "deep" / "a.mp4")
    monkeypatch.chdir(tmp_path)
    (row,) = rows("videos")
    assert row.path == str(tmp_path / "videos" / "deep" / "a.mp4")
    assert row.source == "deep/a.mp4"


def test_file_names_that_are_no_utf8_are_planned_opened_and_stored(tmp_path: Path) -> None:
    # Mutation tried: `.encode()` in the fingerprint -> UnicodeEncodeError; the raw name as name -> not "\ufffd".
    name = os.fsdecode(b"b\xffd.mp4")
    touch(tmp_path / name, tmp_path / "c.mp4")
    (row, _) = rows(tmp_path)
    assert Path(row.path or "").read_bytes() == b"video"
    assert (row.name, row.source) == ("b\ufffdd.mp4", "b\ufffdd.mp4")
    before = input_fingerprint(BuildVideoSettings(input=(str(tmp_path),)))
    (tmp_path / name).rename(tmp_path / os.fsdecode(b"b\xfed.mp4"))
    assert input_fingerprint(BuildVideoSettings(input=(str(tmp_path),))) != before


def test_a_list_without_captions_is_refused_unless_they_are_given_apart(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "list.csv", [{"path": "a.mp4", "title": "c"}])
    settings = BuildVideoSettings(input=(path,))
    with pytest.raises(UsageError, match=r"Found: path, title.*--caption-column.*--captions"):
        iter_plans(settings)
    captions = write_csv(tmp_path / "new.csv", [{"key": "a.mp4", "caption": "new"}])
    for changes, caption in (({"caption_column": "title"}, "c"), ({"captions": captions}, "new")):
        (plan,) = iter_plans(replace(settings, **changes))
        assert [row.caption for row in plan.rows] == [caption]


@pytest.mark.parametrize("kind", ["folder", "txt", "hdvila", "empty cells"])
def test_an_input_whose_videos_have_no_caption_is_warned_of_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    touch(tmp_path / "v" / "a.mp4", tmp_path / "v" / "b.mp4")
    listed = tmp_path / "list.txt"
    listed.write_text("https://h/a.mp4\nhttps://h/b.mp4\n")
    clips = [{"clip_id": "x", "span": [0, 1]}]
    source = {
        "folder": str(tmp_path / "v"),
        "txt": str(listed),
        "hdvila": write_jsonl(tmp_path / "list.jsonl", [{"video_id": "x", "url": "https://h/x", "clip": clips}]),
        "empty cells": write_csv(tmp_path / "list.csv", [{"path": "a.mp4", "caption": ""}]),
    }[kind]
    list(iter_plans(BuildVideoSettings(input=(source,))))
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "none of its videos has a caption" in caplog.text


def test_one_caption_is_enough_not_to_be_warned(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    # Mutation tried: no look at the captions of spans -> the list is warned of.
    touch(tmp_path / "v" / "a.mp4", tmp_path / "v" / "b.mp4")
    (tmp_path / "v" / "b.txt").write_text("a caption")
    clips = [{"clip_id": "x", "span": [0, 1], "caption": "a caption"}]
    path = write_jsonl(tmp_path / "list.jsonl", [{"video_id": "x", "url": "https://h/x", "clip": clips}])
    list(iter_plans(BuildVideoSettings(input=(str(tmp_path / "v"), path))))
    assert caplog.records == []


def test_every_list_is_looked_at_before_any_work(tmp_path: Path) -> None:
    good = write_csv(tmp_path / "a.csv", [{"path": "a.mp4", "caption": "c"}])
    wrong = write_csv(tmp_path / "b.csv", [{"score": "1", "caption": "c"}])
    with pytest.raises(UsageError, match=r"b\.csv: no column names a video"):
        iter_plans(BuildVideoSettings(input=(good, wrong)))
    with pytest.raises(UsageError, match=r"a\.csv: the format panda70m needs a column videoid or"):
        iter_plans(BuildVideoSettings(input=(good,), format="panda70m"))


PAGE = "https://www.youtube.com/watch?v=QMi8-5Kq1M8"


def missing_yt_dlp(monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "yt_dlp" else found(name, *rest)
    )


def test_a_list_of_platform_pages_is_refused_without_yt_dlp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    missing_yt_dlp(monkeypatch)
    path = write_csv(tmp_path / "list.csv", [{"url": PAGE, "caption": "c"}] * 3)
    with pytest.raises(UsageError, match=r"3 of the first 3 .*pip install 'lposekit\[platforms\]'"):
        iter_plans(BuildVideoSettings(input=(path,)))
    monkeypatch.setattr(importlib.util, "find_spec", lambda *_: object())
    assert len(list(iter_plans(BuildVideoSettings(input=(path,))))) == 1


def test_some_platform_pages_without_yt_dlp_are_warned_of_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    missing_yt_dlp(monkeypatch)
    touch(tmp_path / "here.mp4")
    lines = [{"url": PAGE, "path": "here.mp4"}, {"url": PAGE, "path": "gone.mp4"}, {"url": "https://h/a.mp4"}]
    path = write_jsonl(tmp_path / "list.jsonl", [{**line, "caption": "c"} for line in lines])
    list(iter_plans(BuildVideoSettings(input=(path,))))
    assert [record.getMessage()[:20] for record in caplog.records] == ["1 of the first 3 vid"]


def test_a_run_continues_after_its_list_its_captions_and_its_videos_moved(tmp_path: Path) -> None:
    # Mutation tried: MAY_CHANGE taken from `captions`, then from `video_root` -> "was built with other settings".
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    write_csv(here / "list.csv", [{"path": "a.mp4", "caption": "c"}])
    write_csv(here / "new.csv", [{"key": "a.mp4", "caption": "d"}])
    shutil.copytree(here, there)
    plans = []

    def take_plans(_recipe: Any, _claim: Any, found: Any, *_: Any) -> RunResult:
        plans.extend(found)
        return RunResult()

    for folder in (here, there):
        settings = BuildVideoSettings(
            input=(str(folder / "list.csv"),), captions=str(folder / "new.csv"), video_root=folder / "videos"
        )
        run(replace(settings, output=tmp_path / "d"), execute=take_plans)
    first, second = (plan.rows[0] for plan in plans)
    assert (first.path, second.path) == (str(here / "videos/a.mp4"), str(there / "videos/a.mp4"))
    assert replace(first, path=None, root=None) == replace(second, path=None, root=None)
    assert (first.source, first.caption) == ("a.mp4", "d")


def test_shards_by_size_take_rows_until_their_listed_lengths_fill_them(tmp_path: Path) -> None:
    # mutations tried: the row that does not fit any more put into the full shard; a size that ignores the side;
    # a plan of the rows that are left: `skip` would move them
    def sizes(durations: list[str], **changes: Any) -> list[int]:
        listed = [{"path": f"{n}.mp4", "caption": "c", "duration": text} for n, text in enumerate(durations)]
        settings = BuildVideoSettings(input=(write_csv(tmp_path / "list.csv", listed),), shard_mb=35, **changes)
        plans = list(iter_plans(settings))
        assert list(iter_plans(settings, skip={0})) == plans[1:]
        return [len(plan.rows) for plan in plans]

    assert sizes(["40", "PT00H00M40S", "0:00:40", "60", "300", "1"]) == [2, 2, 1, 1], "100 s of 512 pixels fill 35 MB"
    assert sizes(["40"] * 16, encode=EncodeSettings(size=256)) == [10, 6]
    assert sizes([""] * 70) == [32, 32, 6], "of unknown length"
    assert sizes(["40"] * 5, rows_per_shard=3) == [3, 2]


def test_the_spans_of_a_video_are_its_length(tmp_path: Path) -> None:
    # mutation tried: the last span alone
    clips = [{"clip_id": f"{n}.mp4", "span": ["00:00:10.000", "00:00:40.000"]} for n in range(2)]
    listed = [{"video_id": str(n), "url": f"https://example.org/{n}", "clip": clips} for n in range(4)]
    path = write_jsonl(tmp_path / "list.jsonl", listed)
    settings = BuildVideoSettings(input=(path,), format="hdvila", shard_mb=50)
    assert [len(plan.rows) for plan in iter_plans(settings)] == [2, 2]
    assert len(next(iter_plans(settings)).rows[0].spans) == 2


def test_a_folder_keeps_the_number_or_the_size_that_it_was_begun_with(tmp_path: Path) -> None:
    # mutations tried: without `as_begun`, "rows_per_shard: 2 -> None"; without `shard_bytes`, shards of two sizes
    path = write_csv(tmp_path / "list.csv", [{"path": f"{number}.mp4", "caption": "c"} for number in range(5)])

    def built(name: str, **changes: Any) -> list[int]:
        run(BuildVideoSettings(input=(path,), output=tmp_path / name, **changes), execute=execute_here)
        layout = DatasetLayout(tmp_path / name)
        return [layout.read_stats(shard).count for shard in layout.committed_shards()]

    assert built("by-number", rows_per_shard=2) == [2, 2, 1]
    assert built("by-number") == [2, 2, 1]
    with pytest.raises(UsageError, match="rows_per_shard: 2 -> 3"):
        built("by-number", rows_per_shard=3)
    assert built("by-size") == [5]
    with pytest.raises(UsageError, match="shard_bytes: 512000000 -> 35000000"):
        built("by-size", shard_mb=35)


def test_a_folder_goes_on_only_with_the_sizes_that_its_shards_were_planned_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # mutation tried: no estimate among the facts -> shards of two sizes. Mutation: one for older folders too -> refused
    path = write_csv(tmp_path / "list.csv", [{"path": f"{number}.mp4", "caption": "c"} for number in range(5)])
    settings = BuildVideoSettings(input=(path,), output=tmp_path / "d")
    run(settings, execute=execute_here)
    card = DatasetLayout(tmp_path / "d").card
    values = json.loads(card.read_text())
    estimate = values["fixed"].pop("shard_estimate")
    older = tmp_path / "older"
    shutil.copytree(tmp_path / "d", older)
    DatasetLayout(older).card.write_text(json.dumps(values))
    run(replace(settings, output=older), execute=execute_here)
    monkeypatch.setattr("pipelines.video.shard_sizes.UNKNOWN_ROWS", 2)
    for folder, before in ((tmp_path / "d", estimate["unknown_rows"]), (older, None)):
        with pytest.raises(UsageError, match=rf"shard_estimate.*{before}.* -> .*2"):
            run(replace(settings, output=folder), execute=execute_here)


def test_a_size_that_is_not_used_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    # mutation tried: nothing said
    path = write_csv(tmp_path / "list.csv", [{"path": "a.mp4", "caption": "c"}])
    settings = BuildVideoSettings(input=(path,), output=tmp_path / "d", rows_per_shard=3)
    run(settings, execute=execute_here)
    assert "not used" not in caplog.text
    run(replace(settings, rows_per_shard=None, shard_mb=256), execute=execute_here)
    assert "--shard-mb 256 is not used: a shard holds 3 videos" in caplog.text
