"""Contract of captions that are given apart: joined by key to videos and to spans, whatever else is in the file; what
has no new caption keeps the one it has.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import fsspec
import pytest

from lposekit.errors import UsageError
from pipelines.video.captions import check_keys, read_captions, with_captions
from pipelines.video.clips.records import Span, TimedCaption, VideoRow
from tests.support.video_inputs import write_csv

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


@pytest.mark.parametrize("record", [{"key": "1"}, {"score": "1", "caption": "x"}])
def test_captions_file_without_its_columns_is_refused(tmp_path: Path, record: dict[str, str]) -> None:
    with pytest.raises(UsageError, match="column"):
        read_captions(write_csv(tmp_path / "new.csv", [record]))


def panda(*captions: str) -> VideoRow:
    spans = tuple(Span(float(i), i + 1.0, caption, f"x_{i}") for i, caption in enumerate(captions))
    return VideoRow("x", caption=captions[0], spans=spans)


def test_captions_of_spans_are_joined_by_their_names_and_the_others_stay(tmp_path: Path) -> None:
    # Mutation tried: captions of other spans dropped -> [None, "new"]. No look at spans -> UsageError.
    path = write_csv(tmp_path / "new.csv", [{"video_id": "x", "clip_id": "x_1", "caption": "new"}])
    captions = read_captions(path)
    check_keys([panda("a", "b")], captions)
    (row,) = with_captions([panda("a", "b")], captions)
    assert [span.caption for span in row.spans] == ["a", "new"]
    assert row.caption == "a"


def test_spans_may_be_named_without_their_suffix(tmp_path: Path) -> None:
    row = VideoRow("Q", spans=(Span(0, 1, None, "Q.0.mp4"), Span(1, 2, None, "Q.1.mp4")))
    captions = read_captions(write_csv(tmp_path / "new.csv", [{"clip_id": "Q.1", "caption": "new"}]))
    assert [span.caption for span in next(with_captions([row], captions)).spans] == [None, "new"]


def test_a_video_caption_leaves_those_of_its_spans(tmp_path: Path) -> None:
    captions = read_captions(write_csv(tmp_path / "new.csv", [{"key": "x", "caption": "new"}]))
    (row,) = with_captions([panda("a", "b")], captions)
    assert row == replace(panda("a", "b"), caption="new")


def test_lines_without_a_key_are_passed_over(tmp_path: Path) -> None:
    # Mutation tried: lines without a key taken -> a key "".
    path = tmp_path / "new.jsonl"
    path.write_text('{"key": null, "caption": "x"}\nbroken\n{"key": "3", "caption": "new \\ud83d"}\n')
    assert list(read_captions(str(path))) == ["3"]
    assert [row.caption for row in with_captions(VIDEOS, read_captions(str(path)))] == ["old 1", "old 2", "new \ufffd"]


def test_captions_are_read_where_fsspec_finds_them() -> None:
    with fsspec.open("memory://captions/new.csv", "wb") as stream:
        stream.write(b"key,caption\n3,new\n")  # type: ignore[union-attr]
    assert read_captions("memory://captions/new.csv")["3"].text == "new"
