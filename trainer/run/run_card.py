"""`run.json`: what the weights of a run need around them, to sample from it or to train further."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from lposekit.errors import LposekitError, UsageError
from lposekit.json_values import (
    COUNT,
    NUMBER,
    OBJECT,
    TEXT,
    JsonFields,
    JsonObject,
    JsonValue,
    known_values,
    list_of,
    read_json_object,
)
from lposekit.shards.files import write_json
from lposekit.store import LocalStore

RUN_NAME = "run.json"
KEYS_NAME = "keys.jsonl"
"""Beside it, where it is asked for: the keys of the samples of every step."""
SCHEMA = 1
MAX_BYTES = 2**24


@dataclass(frozen=True, slots=True)
class BaseFacts:
    """name: of the base, as the user gave it. source: the folder it came from. unet: fingerprint of its UNet."""

    name: str | None
    source: str | None
    unet: str | None


@dataclass(frozen=True, slots=True)
class PoseEncoderFacts:
    """file: the run's copy, in its folder. source: the name that the user gave for it. sha256: of the copy."""

    file: str
    source: str | None
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RunCard:
    """What `run.json` says. None stands for null, and in a card that was read also for a key that is not there.

    base: what was trained further. data: dataset folders. switches: of the model. size: of the images, in pixels.
    frames: of a clip, 1 in stage 1. pose_style, pose_line_width: how the skeletons were drawn. fixed: what must be the
    same to resume. pose_encoder: of stage 2, None if it has none.
    """

    stage: int
    base: BaseFacts | None
    data: Sequence[str]
    switches: JsonObject
    size: int | None
    frames: int | None
    pose_style: str | None
    pose_line_width: float | None
    fixed: JsonObject
    pose_encoder: PoseEncoderFacts | None = None
    schema: int = SCHEMA
    extra: JsonObject = field(default_factory=dict)
    """Keys of newer versions: kept as they are."""

    @classmethod
    def from_json(cls, values: JsonObject) -> RunCard:
        """From what the file holds.

        Raises:
            ValueError: names the key that is missing or wrong.
        """
        fields = JsonFields(values)
        return cls(
            stage=fields.need("stage", COUNT),
            base=_base(fields.take("base", OBJECT)),
            data=fields.take("data", list_of(TEXT)) or (),
            switches=fields.take("switches", OBJECT) or {},
            size=fields.take("size", COUNT),
            frames=fields.take("frames", COUNT),
            pose_style=fields.take("pose_style", TEXT),
            pose_line_width=fields.take("pose_line_width", NUMBER),
            fixed=fields.take("fixed", OBJECT) or {},
            pose_encoder=_pose_encoder(fields.take("pose_encoder", OBJECT)),
            schema=fields.take("schema", COUNT) or SCHEMA,
            extra=fields.rest,
        )

    def as_json(self) -> dict[str, JsonValue]:
        absent = dict.fromkeys(("base", "size", "frames", "pose_style", "pose_line_width"))
        values = {**absent, **known_values(replace(self, base=None, pose_encoder=None))}
        if self.base is not None:
            values["base"] = asdict(self.base)
        if self.stage == 2:
            values["pose_encoder"] = None if self.pose_encoder is None else asdict(self.pose_encoder)
        return values


def _base(values: JsonObject | None) -> BaseFacts | None:
    if values is None:
        return None
    fields = JsonFields(values, "base.")
    return BaseFacts(fields.take("name", TEXT), fields.take("source", TEXT), fields.take("unet", TEXT))


def _pose_encoder(values: JsonObject | None) -> PoseEncoderFacts | None:
    if values is None:
        return None
    fields = JsonFields(values, "pose_encoder.")
    return PoseEncoderFacts(fields.need("file", TEXT), fields.take("source", TEXT), fields.need("sha256", TEXT))


def write_run_card(run_dir: Path, card: RunCard) -> None:
    """Replace `run.json`.

    Raises:
        LposekitError: the disk is full, or the folder cannot be written.
    """
    write_json(run_dir / RUN_NAME, card.as_json())


def read_run_card(run_dir: Path) -> RunCard:
    """`run.json` of a run folder.

    Raises:
        UsageError: it is no run folder. LposekitError: its card is damaged, or of a newer schema.
    """
    path = run_dir / RUN_NAME
    try:
        values = read_json_object(LocalStore(run_dir), RUN_NAME, MAX_BYTES)
    except (FileNotFoundError, NotADirectoryError):
        raise UsageError(
            f"{run_dir} is no run folder: it has no {RUN_NAME}. Name a folder that was given as --output to "
            "`lposekit train`."
        ) from None
    except (OSError, ValueError) as error:
        raise LposekitError(f"{path}: not readable as JSON ({error}). Restore it from a copy.") from error
    schema = values.get("schema")
    if isinstance(schema, int) and schema > SCHEMA:  # before its other keys, which may have changed
        raise LposekitError(f"{path}: schema {schema} is newer than this lposekit knows ({SCHEMA}). Upgrade it.")
    try:
        return RunCard.from_json(values)
    except ValueError as error:
        raise LposekitError(f"{path}: {error}. Restore it from a copy.") from error
