"""Poses of a video: the persons over its frames, and the file `NAME.poses.json` that holds them.

Arrays: `F` frames, `K` keypoints; `FK3` = (x, y, raw score), `F5` = (x, y, width, height, score); pixels of the
upright video. A frame without the person has score 0 and NaN coordinates.

The file (schema 1) is one JSON object: `schema`, `fps` (text, "30000/1001"), `width`, `height`, `num_frames`,
`keypoint_format`, `info`, and `persons`, each with `id` and two lists of `num_frames` entries: `boxes` ([x, y, w, h,
score]) and `keypoints` ([x, y, score] * K, flat). An entry is null where the person is not there; a coordinate is null
where the model gave none. docs/guide/pose.md shows one. numpy only: `sample` and notebooks read it without torch.
"""

from __future__ import annotations

import json
import math
import re
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from lposekit.errors import LposekitError
from lposekit.keypoints import KEYPOINT_FORMATS
from lposekit.shards.files import write_bytes

SCHEMA = 1
SUFFIX = ".poses.json"
MEMBER = SUFFIX[1:]
"""The same bytes as a member of a sample."""
MAX_FILE_BYTES = 256 * 2**20
"""Seven hours of one person with 17 keypoints at 30 frames a second."""
_MAX_ARRAY_VALUES = 2**28  # 1 GiB of float32: a frame without the person takes 5 bytes of the file, and K * 12 here
_MAX_SIDE_PX = 65_536
_MAX_NUMBER = 1e6
_PIXEL_DECIMALS = 2
_SCORE_DECIMALS = 4
_FPS = re.compile(r"\d{1,9}(/\d{1,9})?", re.ASCII)


class TooManyPosesError(LposekitError):
    """More poses than one file holds."""


@dataclass(frozen=True, eq=False)
class PersonTrack:
    """One person over a video.

    `keypoints_FK3`: float32 [F, K, 3], x and y in pixels of the video, raw score. `boxes_F5`: float32 [F, 5], x, y,
    width, height, score. In a frame without the person, both have score 0 and NaN coordinates.
    """

    id: int
    keypoints_FK3: npt.NDArray[np.float32]
    boxes_F5: npt.NDArray[np.float32]

    @property
    def present_F(self) -> npt.NDArray[np.bool_]:
        """Whether the person is there, by frame."""
        return np.isfinite(self.boxes_F5[:, 0])


@dataclass(frozen=True, eq=False)
class PoseTracks:
    """The persons of a video, all over the same frames.

    `fps`: frames per second, constant. `width`, `height`: of the upright video, in pixels. `keypoint_format`:
    a key of `lposekit.keypoints.KEYPOINT_FORMATS`. `info`: plain JSON facts of the source (name of the video, models,
    `keypoint_score_threshold`, smoothing).
    """

    fps: Fraction
    width: int
    height: int
    num_frames: int
    keypoint_format: str
    persons: tuple[PersonTrack, ...]
    info: Mapping[str, Any]


def empty_track(person_id: int, num_frames: int, num_keypoints: int) -> PersonTrack:
    """A person who is in no frame; its arrays are new, to be filled by who asked."""
    keypoints_FK3 = np.full((num_frames, num_keypoints, 3), np.nan, np.float32)
    boxes_F5 = np.full((num_frames, 5), np.nan, np.float32)
    keypoints_FK3[..., 2] = 0
    boxes_F5[:, 4] = 0
    return PersonTrack(person_id, keypoints_FK3, boxes_F5)


def persons_at(tracks: PoseTracks, frame: int) -> npt.NDArray[np.float32]:
    """Keypoints [P, K, 3] of the persons who are in the frame, in the order of `tracks.persons`.

    Raises:
        IndexError: there is no such frame (negative numbers do not count from the end).
    """
    if not 0 <= frame < tracks.num_frames:
        raise IndexError(f"frame {frame} of poses with {tracks.num_frames} frames")
    present = [person.keypoints_FK3[frame] for person in tracks.persons if person.present_F[frame]]
    return np.array(present, np.float32).reshape(-1, KEYPOINT_FORMATS[tracks.keypoint_format].num_keypoints, 3)


# --- writing ---------------------------------------------------------------------------------------------------------


def write_tracks(path: Path, tracks: PoseTracks) -> None:
    """Write `NAME.poses.json` whole or not at all. Raises as `encode_tracks`; LposekitError: the disk is full, or the
    folder cannot be written."""
    write_bytes(path, encode_tracks(tracks, str(path)))


def encode_tracks(tracks: PoseTracks, name: str) -> bytes:
    """The bytes of `NAME.poses.json`: coordinates to 2 decimals, scores to 4. `name`: for messages.

    Raises:
        TooManyPosesError: there would be more of them than `decode_tracks` takes.
        ValueError: the arrays do not belong together (a bug of the caller).
    """
    num_keypoints = KEYPOINT_FORMATS[tracks.keypoint_format].num_keypoints
    for person in tracks.persons:
        expected = (tracks.num_frames, num_keypoints, 3), (tracks.num_frames, 5)
        if (person.keypoints_FK3.shape, person.boxes_F5.shape) != expected:
            raise ValueError(f"person {person.id}: {person.keypoints_FK3.shape}, {person.boxes_F5.shape}: {expected}")
    tree = {
        "schema": SCHEMA,
        "fps": str(tracks.fps),
        "width": tracks.width,
        "height": tracks.height,
        "num_frames": tracks.num_frames,
        "keypoint_format": tracks.keypoint_format,
        "info": dict(tracks.info),
        "persons": [_person_tree(person) for person in tracks.persons],
    }
    data = (json.dumps(tree, separators=(",", ":"), allow_nan=False) + "\n").encode()
    too_many = tracks.num_frames * len(tracks.persons) * (3 * num_keypoints + 5) > _MAX_ARRAY_VALUES
    if len(data) > MAX_FILE_BYTES or too_many:
        raise TooManyPosesError(
            f"{name}: {len(tracks.persons)} persons over {tracks.num_frames} frames are more than a poses file holds. "
            "Choose fewer persons (--person largest), or cut the video into parts."
        )
    return data


def _person_tree(person: PersonTrack) -> dict[str, Any]:
    present_F = person.present_F
    boxes, keypoints = _rounded(person.boxes_F5), _rounded(person.keypoints_FK3)
    return {
        "id": person.id,
        "boxes": [box if there else None for box, there in zip(boxes, present_F, strict=True)],
        "keypoints": [points if there else None for points, there in zip(keypoints, present_F, strict=True)],
    }


def _rounded(values: npt.NDArray[np.float32]) -> list[list[float | None]]:
    """The entries of a list of the file: the last column holds scores, the others pixels."""
    exact = np.round(values.astype(np.float64), _PIXEL_DECIMALS)
    exact[..., -1] = np.round(values[..., -1].astype(np.float64), _SCORE_DECIMALS)
    rows = exact.reshape(len(exact), -1).tolist()
    return [[value if math.isfinite(value) else None for value in row] for row in rows]


# --- reading: the file may come from a stranger ----------------------------------------------------------------------


def read_tracks(path: Path) -> PoseTracks:
    """The poses of a `NAME.poses.json`.

    Raises:
        LposekitError: it is missing, too large, no such file, or malformed; names the file, the place and the fix.
    """
    return decode_tracks(_bytes(path), str(path))


def decode_tracks(data: bytes, name: str) -> PoseTracks:
    """The poses in the bytes of a `NAME.poses.json`, such as the member `poses.json` of a sample. `name`: for
    messages.

    Raises:
        LposekitError: too large, or malformed; names the place and the fix.
    """
    tree = _Checked(name, "the file", _parsed(data, name))
    if (schema := tree.whole("schema", 0, 10**6)) != SCHEMA:
        tree.fail("schema", f"is {schema}; this version reads {SCHEMA}")
    keypoint_format = tree.get("keypoint_format")
    if not isinstance(keypoint_format, str) or keypoint_format not in KEYPOINT_FORMATS:
        tree.fail("keypoint_format", f"is none of {', '.join(KEYPOINT_FORMATS)}")
    num_keypoints = KEYPOINT_FORMATS[keypoint_format].num_keypoints
    num_frames = tree.whole("num_frames", 0, _MAX_ARRAY_VALUES)
    listed = tree.listed("persons")
    if num_frames * len(listed) * (3 * num_keypoints + 5) > _MAX_ARRAY_VALUES:
        tree.fail("persons", f"has {len(listed)} persons over {num_frames} frames: more than a poses file may hold")
    persons = tuple(
        _person(_Checked(name, f"persons[{i}]", value), num_frames, num_keypoints) for i, value in enumerate(listed)
    )
    if len({person.id for person in persons}) != len(persons):
        tree.fail("persons", "has two persons with one id")
    info = tree.get("info")
    if not isinstance(info, dict):
        tree.fail("info", "is no object")
    width, height = tree.whole("width", 1, _MAX_SIDE_PX), tree.whole("height", 1, _MAX_SIDE_PX)
    return PoseTracks(_fps(tree), width, height, num_frames, keypoint_format, persons, info)


def _bytes(path: Path) -> bytes:
    try:
        facts = path.stat()
        if not stat.S_ISREG(facts.st_mode):
            raise LposekitError(f"{path}: not a regular file. Name a file that `lposekit pose` wrote (*{SUFFIX}).")
        _refuse_large(facts.st_size, str(path))
        return path.read_bytes()
    except OSError as error:
        raise LposekitError(f"{path}: cannot be read: {error.strerror}. Check the path.") from error


def _refuse_large(num_bytes: int, name: str) -> None:
    if num_bytes > MAX_FILE_BYTES:
        raise LposekitError(
            f"{name}: {num_bytes} bytes; a poses file has at most {MAX_FILE_BYTES}. Cut the video into parts."
        )


def _parsed(data: bytes, name: str) -> Any:
    _refuse_large(len(data), name)
    try:
        return json.loads(data, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else error
        raise LposekitError(
            f"{name}: not a poses file: {reason}. Name a file that `lposekit pose` wrote (*{SUFFIX})."
        ) from error


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


@dataclass(frozen=True, slots=True)
class _Checked:
    """An object of the file, asked for its fields; `name` of the file and `place` are for messages."""

    name: str
    place: str
    value: Any

    def get(self, name: str) -> Any:
        if not isinstance(self.value, dict) or name not in self.value:
            self.fail(name, "is missing")
        return self.value[name]

    def whole(self, name: str, least: int, most: int) -> int:
        number = self.get(name)
        if not isinstance(number, int) or isinstance(number, bool) or not least <= number <= most:
            self.fail(name, f"is no whole number from {least} to {most}")
        return number

    def listed(self, name: str) -> list[Any]:
        value = self.get(name)
        if not isinstance(value, list):
            self.fail(name, "is no list")
        return value

    def fail(self, name: str, problem: str) -> NoReturn:
        raise LposekitError(
            f"{self.name}: {self.place}: {name!r} {problem}. Write it again with `lposekit pose`, or correct the file."
        )


def _fps(tree: _Checked) -> Fraction:
    text = tree.get("fps")
    numerator, _, denominator = text.partition("/") if isinstance(text, str) and _FPS.fullmatch(text) else ("0", "", "")
    fps = Fraction(int(numerator), int(denominator or 1) or 1)
    if int(denominator or 1) == 0 or not 0 < fps <= 1000:
        tree.fail("fps", 'is no text like "25" or "30000/1001", above 0 and at most 1000')
    return fps


def _person(tree: _Checked, num_frames: int, num_keypoints: int) -> PersonTrack:
    track = empty_track(tree.whole("id", 0, 10**9), num_frames, num_keypoints)
    boxes, keypoints = tree.listed("boxes"), tree.listed("keypoints")
    for name, entries in (("boxes", boxes), ("keypoints", keypoints)):
        if len(entries) != num_frames:
            tree.fail(name, f"has {len(entries)} entries for {num_frames} frames")
    for frame, (box, points) in enumerate(zip(boxes, keypoints, strict=True)):
        if box is None and points is None:
            continue
        if box is None or points is None:
            tree.fail("boxes", f"and 'keypoints' disagree on whether the person is in frame {frame}")
        track.boxes_F5[frame] = _numbers(tree, "boxes", frame, box, 5)
        track.keypoints_FK3[frame] = _numbers(tree, "keypoints", frame, points, 3 * num_keypoints).reshape(-1, 3)
    if np.isnan(track.boxes_F5[track.boxes_F5[:, 4] != 0]).any() or np.isnan(track.keypoints_FK3[..., 2]).any():
        tree.fail("boxes", "or the scores of 'keypoints' have a null inside an entry: only places may be null")
    return track


def _numbers(tree: _Checked, name: str, frame: int, entry: Any, length: int) -> npt.NDArray[np.float64]:
    if not isinstance(entry, list) or len(entry) != length or not _all_numbers(entry):
        tree.fail(name, f"of frame {frame} is no list of {length} numbers between -{_MAX_NUMBER:g} and {_MAX_NUMBER:g}")
    return np.array([math.nan if value is None else value for value in entry], np.float64)


def _all_numbers(entry: Iterable[Any]) -> bool:
    return all(value is None or (type(value) in (int, float) and abs(value) <= _MAX_NUMBER) for value in entry)
