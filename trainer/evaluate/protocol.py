"""The protocol of an evaluation: pairs of a prompt and a pose, in a file that other systems can be given as well.

The file (schema 1) is JSON, one object a line. The first line says what it was made from: `schema`, `kind`, `dataset`,
`seed`, `stride`, `person`, `num_frames`, `pairs`. Each further line is a pair: `key` of the sample, `prompt`, `seed` of
its noise, `frames` (which frames of the sample they are), and `poses`, an object as in a `.poses.json` file, with the
chosen frames alone. Same dataset, same settings: same bytes.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lposekit.errors import LposekitError, UsageError
from lposekit.json_values import JsonObject, parse_json_object
from lposekit.keypoints import KEYPOINT_FORMATS
from lposekit.pose.tracks import PoseTracks, decode_tracks, encode_tracks

SCHEMA = 1
NAME = "protocol.jsonl"
MAX_BYTES = 2**28
MAX_PAIRS = 2**20
MAX_VALUES = 2**27
"""Of the poses of all pairs together, 512 MiB of float32: 100,000 pairs of 24 frames and one person."""
_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}", re.ASCII)
_NOT_KEYS = ("made_from",)
"""Names of our own files beside those of the pairs."""


@dataclass(frozen=True, slots=True, eq=False)
class Pair:
    """A prompt and a pose. seed: of the noise. frames: which ones of the sample; tracks: the poses of just these."""

    key: str
    prompt: str
    seed: int
    frames: tuple[int, ...]
    tracks: PoseTracks


@dataclass(frozen=True, slots=True, eq=False)
class Protocol:
    """Pairs, by rising key. kind: of the dataset, `image` or `poses`. sha256: of the file."""

    facts: JsonObject
    pairs: Sequence[Pair]
    sha256: str

    @property
    def num_frames(self) -> int:
        return self.pairs[0].tracks.num_frames

    @property
    def held(self) -> bool:
        """Whether each pose is a still one, held over several frames: no real clip shows it."""
        return self.num_frames > 1 and len(set(self.pairs[0].frames)) == 1


def encode_protocol(facts: JsonObject, pairs: Sequence[Pair]) -> bytes:
    """The bytes of a protocol file. Raises UsageError: they are more than one may have."""
    lines = [_line({"schema": SCHEMA, **facts, "pairs": len(pairs)}), *(_line(_tree(pair)) for pair in pairs)]
    data = b"".join(lines)
    values = sum(_num_values(t.num_frames, len(t.persons), t.keypoint_format) for t in (pair.tracks for pair in pairs))
    if len(data) > MAX_BYTES or values > MAX_VALUES:
        raise UsageError(
            f"--pairs: the protocol of {len(pairs)} pairs takes {len(data)} bytes and {values} numbers of poses; the "
            f"most are {MAX_BYTES} and {MAX_VALUES}. Ask for fewer pairs, or fewer frames."
        )
    return data


def read_protocol(path: Path) -> Protocol:
    """The protocol in a file.

    Raises:
        UsageError: there is no such file. LposekitError: it is damaged, or something else.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise LposekitError(f"{path}: larger than {MAX_BYTES} bytes. Make a protocol of fewer pairs.")
        data = path.read_bytes()
    except OSError as error:
        raise UsageError(f"--protocol {path}: cannot be read ({error.strerror}). Name a protocol file.") from error
    return decode_protocol(data, path)


def decode_protocol(data: bytes, path: Path) -> Protocol:
    """The protocol that some bytes are. path: for messages. Raises LposekitError: they are damaged, or none."""
    if data.count(b"\n") > MAX_PAIRS:
        raise LposekitError(f"{path}: has more than {MAX_PAIRS} lines. Make a protocol of fewer pairs.")
    head, *lines = data.split(b"\n")
    facts = _object(head, f"{path}: line 1")
    if facts.get("schema") != SCHEMA:
        raise LposekitError(f"{path}: no protocol of this version (schema {facts.get('schema')!r}). Make it again.")
    pairs = list(_pairs(lines, path))
    if not pairs or len(pairs) != facts.get("pairs"):
        raise LposekitError(
            f"{path}: holds {len(pairs)} pairs, and says {facts.get('pairs')}: it is cut short. Restore it, or remove "
            "it and make it again."
        )
    if len({pair.key for pair in pairs}) < len(pairs) or len({pair.tracks.num_frames for pair in pairs}) > 1:
        raise LposekitError(f"{path}: its pairs share keys, or differ in their number of frames. Make it again.")
    return Protocol(facts, pairs, hashlib.sha256(data).hexdigest())


def pair_seed(seed: int, key: str) -> int:
    """The seed of a pair's noise, 0 to 2**31 - 1: a function of the protocol's seed and the key alone."""
    return int.from_bytes(hashlib.sha256(f"{seed} {key}".encode()).digest()[:4]) >> 1


def _pairs(lines: Sequence[bytes], path: Path) -> Iterator[Pair]:
    values = 0
    for number, line in enumerate(lines, 2):
        if line:
            where = f"{path}: line {number}"
            found = _object(line, where)
            values += _pose_values(found)
            if values > MAX_VALUES:
                raise LposekitError(f"{where}: more poses than a protocol may hold. Make one of fewer pairs or frames.")
            yield _pair(found, where)


def _pose_values(found: JsonObject) -> int:
    """Numbers that the poses of a pair take in memory, by what it says: asked before they are made."""
    poses: Any = found.get("poses")
    named = ("num_frames", "persons", "keypoint_format")
    frames, persons, layout = (poses.get(name) if isinstance(poses, dict) else None for name in named)
    if not isinstance(frames, int) or not isinstance(persons, list) or layout not in tuple(KEYPOINT_FORMATS):
        return 0  # refused by who reads them
    return _num_values(max(frames, 0), len(persons), layout)


def _num_values(frames: int, persons: int, keypoint_format: str) -> int:
    """Keypoints, boxes and scores of boxes."""
    return frames * persons * (3 * KEYPOINT_FORMATS[keypoint_format].num_keypoints + 5)


def _pair(found: JsonObject, where: str) -> Pair:
    fields: Any = found
    key, prompt, seed, frames = (fields.get(name) for name in ("key", "prompt", "seed", "frames"))
    if not isinstance(key, str) or not _KEY.fullmatch(key) or key.lower() in _NOT_KEYS:
        names = ", ".join(_NOT_KEYS)
        raise LposekitError(f"{where}: {key!r:.80} cannot be a key: letters, digits, - and _; not {names}. Correct it.")
    if not isinstance(prompt, str) or not isinstance(seed, int) or not 0 <= seed < 2**63:
        raise LposekitError(f"{where}: a pair needs a prompt and a seed. Correct it.")
    tracks = decode_tracks(json.dumps(found.get("poses")).encode(), where)
    if not isinstance(frames, list) or len(frames) != tracks.num_frames or not all(map(_is_index, frames)):
        raise LposekitError(f"{where}: `frames` must name the frame of each of its {tracks.num_frames} poses.")
    return Pair(key, prompt, seed, tuple(frames), tracks)


def _is_index(value: object) -> bool:
    return type(value) is int and 0 <= value < 2**31


def _object(line: bytes, where: str) -> JsonObject:
    try:
        return parse_json_object(line)
    except ValueError as error:
        raise LposekitError(f"{where}: no JSON object ({error}). Name a protocol file, or make it again.") from error


def _tree(pair: Pair) -> JsonObject:
    poses = json.loads(encode_tracks(pair.tracks, pair.key))
    return {"key": pair.key, "prompt": pair.prompt, "seed": pair.seed, "frames": list(pair.frames), "poses": poses}


def _line(value: JsonObject) -> bytes:
    return (
        json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode("utf-8", "replace") + b"\n"
    )
