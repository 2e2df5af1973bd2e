"""Contract of paths in lists and folders: a row, whatever it or a link says, gets no file from outside the folder that
its paths count from, unless the user's own flag permits it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

import lposekit
from pipelines.recipes import build_videos as run
from pipelines.video.inputs import open_inputs, read_rows
from pipelines.video.settings import BuildVideoSettings
from tests.support.execute_here import execute_here
from tests.support.videos import moving, write_video

pytestmark = pytest.mark.timeout(240)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder for lists with a good video, beside a folder with a private one."""
    (tmp_path / "private" / "x").mkdir(parents=True)
    video = write_video(tmp_path / "private" / "x.mp4", [moving(i) for i in range(30)])
    (tmp_path / "private" / "x.txt").write_text("a secret")
    (tmp_path / "private" / "x.json").write_text('"another secret"')
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / "good.mp4").write_bytes(video.read_bytes())
    return tmp_path / "lists"


def build(place: Path, rows: list[dict[str, object]] | None, **changes: object) -> list[tuple[str, str]]:
    """Source and outcome of each row of a build over a list, or over the folder itself."""
    source = place
    if rows is not None:
        source = place / "list.jsonl"
        source.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    settings = BuildVideoSettings(input=(str(source),), output=place.parent / "d", workers=1)
    run(replace(settings, **changes), execute=execute_here)  # type: ignore[arg-type]
    table = lposekit.open_dataset(place.parent / "d").rows()
    return list(zip(table["url"].to_pylist(), table["outcome"].to_pylist(), strict=True))


# Mutation: no look at `lies_within` in `VideoSource.file`: the private file is kept.
@pytest.mark.case(67)
def test_a_generic_row_gets_no_file_from_outside(place: Path) -> None:
    (place / "link.mp4").symlink_to("../private/x.mp4")
    (place / "linked").symlink_to("../private")
    paths = ["good.mp4", "../private/x.mp4", str(place.parent / "private" / "x.mp4"), "link.mp4", "linked/x.mp4"]
    paths.append("linked/../lists/../private/x.mp4")
    built = build(place, [{"path": path, "caption": "c"} for path in paths])
    assert built == [(paths[0], "kept"), *((path, "bad_url") for path in paths[1:])]


# Mutation: `ListPlace.existing` without `lies_within`, and `VideoSource.file` too. (Either alone holds.)
@pytest.mark.case(67)
@pytest.mark.parametrize(
    "row",
    [
        {"video_id": "../private/x", "clip": [], "caption": "c"},
        {"videoid": "x", "page_dir": "../private", "contentUrl": "ftp://nobody/x.mp4", "name": "c"},
        {"part_id": "0", "clip_id": "../../../private/x", "frame_id": 0, "caption": "c"},
        {"videoID": "../private/x", "url": "ftp://x", "timestamp": [], "caption": [], "matching_score": []},
        {"path": "../private/x.mp4", "url": "ftp://nobody/x.mp4", "caption": "c"},
    ],
    ids=["hdvila", "webvid", "hdvila_captions", "panda70m", "generic"],
)
def test_no_format_gets_a_file_from_outside(place: Path, row: dict[str, object]) -> None:
    (place / "part_0" / "video_clips").mkdir(parents=True)
    assert [outcome for _, outcome in build(place, [row])] == ["bad_url"]


# Mutations: `Path.is_file` for `place.holds` (the secret is a caption); `root` left out of `folder_row` (it is kept).
@pytest.mark.case(67)
def test_links_in_a_folder_lead_nowhere_outside(place: Path) -> None:
    (place / "good.txt").symlink_to("../private/x.txt")
    (place / "good.json").symlink_to("../private/x.json")
    (place / "link.mp4").symlink_to("../private/x.mp4")
    assert [row.caption for row in read_rows(open_inputs([str(place)]))] == ["", ""]
    assert build(place, None) == [("good.mp4", "kept"), ("link.mp4", "bad_url")]


# Mutation: `confined` left out of `open_inputs`.
@pytest.mark.case(67)
@pytest.mark.parametrize(
    ("changes", "ends_as"),
    [({}, "bad_url"), ({"allow_outside_paths": True}, "kept"), ({"video_root": ".."}, "kept")],
    ids=["neither", "the flag", "another root"],
)
def test_the_flag_or_another_root_permits_them(place: Path, changes: dict[str, object], ends_as: str) -> None:
    if "video_root" in changes:
        changes = {"video_root": place / ".."}
    path = place.parent / "private" / "x.mp4"
    assert build(place, [{"path": str(path), "caption": "c"}], **changes) == [(str(path), ends_as)]
