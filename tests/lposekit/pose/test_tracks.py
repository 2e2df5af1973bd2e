"""Contract of poses files: what is written comes back, to 2 decimals of a pixel and 4 of a score; a frame without the
person stays one; a file that is not what it says ends in one message that names the file and the place.
"""

from __future__ import annotations

import json
import os
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lposekit.errors import LposekitError
from lposekit.pose.tracks import PersonTrack, PoseTracks, empty_track, persons_at, read_tracks, write_tracks


def track(person_id: int, frames: range, num_frames: int) -> PersonTrack:
    """A person in some of the frames, each number of it different."""
    person = empty_track(person_id, num_frames, 17)
    for frame in frames:
        person.boxes_F5[frame] = (10.123 + frame, 20, 50, 100, 0.87654)
        person.keypoints_FK3[frame, :, 0] = 10.006 + np.arange(17) + frame
        person.keypoints_FK3[frame, :, 1] = -3.5
        person.keypoints_FK3[frame, :, 2] = 1.23456  # SimCC scores exceed 1
    return person


def tracks() -> PoseTracks:
    persons = (track(1, range(4), 4), track(7, range(1, 3), 4))
    return PoseTracks(Fraction(30000, 1001), 640, 480, 4, "coco17", persons, {"video": "a.mp4"})


def written(tmp_path: Path) -> tuple[Path, dict[str, Any]]:
    path = tmp_path / "a.poses.json"
    write_tracks(path, tracks())
    return path, json.loads(path.read_text())


def test_what_is_written_comes_back(tmp_path: Path) -> None:
    # Mutation tried: scores rounded like pixels -> 1.2346 comes back as 1.23.
    path, _ = written(tmp_path)
    back = read_tracks(path)
    assert (back.fps, back.width, back.height, back.num_frames) == (Fraction(30000, 1001), 640, 480, 4)
    assert (back.keypoint_format, back.info) == ("coco17", {"video": "a.mp4"})
    for before, after in zip(tracks().persons, back.persons, strict=True):
        assert before.id == after.id
        np.testing.assert_allclose(after.keypoints_FK3[..., :2], before.keypoints_FK3[..., :2], atol=0.00501)
        np.testing.assert_allclose(after.keypoints_FK3[..., 2], before.keypoints_FK3[..., 2], atol=0.0000501)
        np.testing.assert_allclose(after.boxes_F5, before.boxes_F5, atol=0.00501)


def test_the_same_poses_give_the_same_bytes_again(tmp_path: Path) -> None:
    path, _ = written(tmp_path)
    first = path.read_bytes()
    write_tracks(path, read_tracks(path))
    assert path.read_bytes() == first


def test_a_frame_without_the_person_stays_one(tmp_path: Path) -> None:
    # Mutation tried: present_F taken from the score of the box -> a box that was rounded to score 0 disappears.
    path, tree = written(tmp_path)
    assert tree["persons"][1]["boxes"][0] is None
    person = read_tracks(path).persons[1]
    assert person.present_F.tolist() == [False, True, True, False]
    assert np.isnan(person.keypoints_FK3[0, :, :2]).all()
    assert (person.keypoints_FK3[0, :, 2] == 0).all()


def test_a_joint_without_a_place_is_null_in_the_file(tmp_path: Path) -> None:
    poses = tracks()
    poses.persons[0].keypoints_FK3[2, 5] = (np.nan, np.inf, 0)
    write_tracks(tmp_path / "a.poses.json", poses)
    back = read_tracks(tmp_path / "a.poses.json").persons[0]
    assert np.isnan(back.keypoints_FK3[2, 5, :2]).all()
    assert back.present_F.all()


def test_persons_at_gives_those_who_are_there() -> None:
    assert [len(persons_at(tracks(), frame)) for frame in range(4)] == [1, 2, 2, 1]
    with pytest.raises(IndexError, match="frame -1 of poses with 4 frames"):
        persons_at(tracks(), -1)


def test_nobody_in_no_frame_is_a_file_too(tmp_path: Path) -> None:
    write_tracks(tmp_path / "a.poses.json", PoseTracks(Fraction(25), 8, 8, 0, "coco17", (), {}))
    assert read_tracks(tmp_path / "a.poses.json").persons == ()


CHANGES = {
    "schema": ({"schema": 2}, "'schema' is 2"),
    "no_format": ({"keypoint_format": ["coco17"]}, "'keypoint_format' is none of"),
    "other_format": ({"keypoint_format": "wholebody133"}, "'keypoints' of frame 0 is no list of 399 numbers"),
    "width_of_text": ({"width": "640"}, "'width' is no whole number"),
    "width_true": ({"width": True}, "'width' is no whole number"),
    "fps_0": ({"fps": "1/0"}, "'fps' is no text like"),
    "fps_huge": ({"fps": "1e999999999"}, "'fps' is no text like"),
    "too_few_frames": ({"num_frames": 3}, "has 4 entries for 3 frames"),
    "a_bomb_of_frames": ({"num_frames": 2**28}, "more than a poses file may hold"),
    "frames_below_0": ({"num_frames": -1}, "'num_frames' is no whole number"),
    "info": ({"info": None}, "'info' is no object"),
    "persons": ({"persons": {}}, "'persons' is no list"),
    "person": ({"persons": [3]}, "persons[0]: 'id' is missing"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_wrong_field_is_named(tmp_path: Path, name: str) -> None:
    # Mutation tried: the bound on frames times persons dropped -> the bomb allocates 64 GiB.
    change, expected = CHANGES[name]
    path, tree = written(tmp_path)
    path.write_text(json.dumps({**tree, **change}))
    with pytest.raises(LposekitError) as caught:
        read_tracks(path)
    assert str(path) in str(caught.value)
    assert expected in str(caught.value)


@pytest.mark.parametrize(
    ("entry", "value"), [("boxes", [1, 2, 3, 4]), ("boxes", None), ("boxes", [1, 2, 3, 4, None]), ("boxes", "12345")]
)
@pytest.mark.parametrize("number", [1e300, True, "1", [1]])
def test_a_wrong_entry_is_refused(tmp_path: Path, entry: str, value: Any, number: Any) -> None:
    path, tree = written(tmp_path)
    tree["persons"][0][entry][1] = value
    path.write_text(json.dumps(tree))
    with pytest.raises(LposekitError, match=r"persons\[0\]"):
        read_tracks(path)
    _, tree = written(tmp_path)
    tree["persons"][0]["keypoints"][2][4] = number
    path.write_text(json.dumps(tree))
    with pytest.raises(LposekitError, match=r"persons\[0\]: 'keypoints' of frame 2"):
        read_tracks(path)


@pytest.mark.parametrize("data", [b"", b"[" * 100_000, b'{"schema": NaN}', b"\xff\xfe\x00", b"3", b"9" * 5000])
def test_what_is_no_poses_file_is_refused(tmp_path: Path, data: bytes) -> None:
    # Mutation tried: RecursionError not caught -> the second ends in a traceback.
    path = tmp_path / "a.poses.json"
    path.write_bytes(data)
    with pytest.raises(LposekitError, match=r"a\.poses\.json"):
        read_tracks(path)


def test_pipes_folders_and_nothing_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name in ("pipe", ".", "missing"):
        with pytest.raises(LposekitError, match=r"regular file|cannot be read"):
            read_tracks(tmp_path / name)
