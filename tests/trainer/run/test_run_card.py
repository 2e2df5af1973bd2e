"""Contract: `run.json` comes back as it was written, byte for byte; damage is refused with file, key and advice."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lposekit.errors import LposekitError, UsageError
from trainer.run.pose_style import drawn_as_learned
from trainer.run.run_card import RunCard, read_run_card, write_run_card
from trainer.settings import ModelSettings, TrainSettings

STAGE_2: dict[str, object] = {
    "schema": 1,
    "stage": 2,
    "base": {"name": "tiny", "source": "/somewhere", "unet": "0" * 64},
    "data": ["video-shards"],
    "switches": {"temporal_layers": True, "trainable": "official"},
    "size": 64,
    "frames": 4,
    "pose_style": "followyourpose",
    "pose_line_width": None,
    "pose_encoder": {"file": "pose_encoder.safetensors", "source": None, "sha256": "1" * 64},
    "fixed": {"seed": 0, "pose": None},
}
STAGE_1 = {**STAGE_2, "stage": 1, "frames": 1, "pose_line_width": 2}
del STAGE_1["pose_encoder"]


# Mutations tried: null line widths left out; a pose encoder written in stage 1; `extra` dropped: red each.
@pytest.mark.parametrize(
    "value",
    [STAGE_1, STAGE_2, {**STAGE_2, "pose_encoder": None}, {**STAGE_2, "a_key_of_tomorrow": [None, {"b": 1.5}]}],
    ids=["stage 1", "stage 2", "without pose encoder", "of a newer version"],
)
def test_a_run_card_that_is_written_again_keeps_its_bytes(tmp_path: Path, value: dict[str, object]) -> None:
    text = json.dumps(value, indent=1, ensure_ascii=False, sort_keys=True) + "\n"
    (tmp_path / "run.json").write_text(text)
    write_run_card(tmp_path, read_run_card(tmp_path))
    assert (tmp_path / "run.json").read_text() == text


def test_what_an_older_card_lacks_is_none(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text('{"stage": 1}')
    card: RunCard = read_run_card(tmp_path)
    assert (card.stage, card.base, card.pose_style, card.pose_encoder) == (1, None, None, None)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        ({"stage": "1"}, 'stage is "1", not a whole number'),
        ({"size": -64}, "size is -64, not a whole number"),
        ({"data": "d"}, 'data is "d", not a list'),
        ({"pose_encoder": {"file": "a"}}, "pose_encoder.sha256 is missing"),
        ({"schema": 2, "size": "64"}, "schema 2 is newer"),
    ],
)
def test_a_damaged_run_card_is_refused_with_file_and_key(tmp_path: Path, damage: dict[str, object], words: str) -> None:
    (tmp_path / "run.json").write_text(json.dumps({**STAGE_2, **damage}))
    with pytest.raises(LposekitError, match=rf"{tmp_path}/run.json: {words}.*(Restore|Upgrade) it"):
        read_run_card(tmp_path)


def test_a_pose_style_that_this_version_does_not_know_is_refused(tmp_path: Path) -> None:
    # Mutation tried: without the check, a KeyError when the first validation image is drawn.
    (tmp_path / "run.json").write_text(json.dumps({**STAGE_1, "pose_style": "openpose25"}))
    with pytest.raises(LposekitError, match="'openpose25', which this lposekit cannot draw"):
        drawn_as_learned(TrainSettings(), read_run_card(tmp_path))


def test_stage_2_adds_the_pose_where_its_encoder_learned_it(tmp_path: Path) -> None:
    # Mutations tried: the place not taken over, another place not refused -> red.
    card = {**STAGE_1, "switches": {"pose_at": "input"}}
    (tmp_path / "run.json").write_text(json.dumps(card))
    learned = read_run_card(tmp_path)
    assert drawn_as_learned(TrainSettings(stage=2), learned).model.pose_at == "input"
    other = TrainSettings(stage=2, model=ModelSettings(pose_at="levels"))
    with pytest.raises(UsageError, match=r"--model.pose-at levels: the pose encoder was trained with input"):
        drawn_as_learned(other, learned)
