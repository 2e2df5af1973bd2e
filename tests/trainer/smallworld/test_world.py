"""Contract: the world is a function of its seed; captions name what is drawn; training never sees what is held out."""

from __future__ import annotations

import itertools
import subprocess
import sys

import numpy as np
import pytest

from trainer.smallworld.body import RANGES, Angles, joints
from trainer.smallworld.draw import SIDE
from trainer.smallworld.scene import MARGIN, Split, still, walk
from trainer.smallworld.words import ALL_WORDS, HELD_OUT_WORDS, TRAINING_WORDS, Words, read_caption

SPLITS: tuple[Split, ...] = ("train", "held_out")


def test_the_same_number_gives_the_same_scene_and_another_seed_another() -> None:
    # Mutation tried: a generator without the seed in its key -> red.
    first, again, other = still(1, "train", 7), still(1, "train", 7), still(2, "train", 7)
    assert first.words == again.words
    assert np.array_equal(first.frames(), again.frames())
    assert not np.array_equal(first.joints_F17x2, other.joints_F17x2)


def test_held_out_words_are_never_drawn_for_training_but_all_of_their_pairs_are() -> None:
    # Mutations tried: training scenes that draw from all words -> red; every combination with `red` and `pink` held
    # out -> red (a pair is missing).
    seen = {still(3, "train", number).words for number in range(400)}
    assert seen == set(TRAINING_WORDS)
    assert {still(3, "held_out", number).words for number in range(200)} == set(HELD_OUT_WORDS)
    assert not seen & set(HELD_OUT_WORDS)
    assert _pairs(TRAINING_WORDS) == _pairs(ALL_WORDS)


def _pairs(words: tuple[Words, ...]) -> set[tuple[str, str]]:
    named = [(each.size, each.kind, f"{each.clothes} clothes", f"{each.background} background") for each in words]
    return {pair for each in named for pair in itertools.combinations(each, 2)}


def test_no_held_out_pose_is_a_training_pose() -> None:
    # Mutation tried: the split left out of the generator's key -> red.
    train = np.stack([still(3, "train", n).joints_F17x2[0, 5:] for n in range(300)])
    held_out = np.stack([still(3, "held_out", n).joints_F17x2[0, 5:] for n in range(300)])
    away = np.abs(_in_place(train)[:, None] - _in_place(held_out)[None]).max((2, 3))
    assert away.min() > 0.1


def _in_place(joints_N12x2: np.ndarray) -> np.ndarray:
    return joints_N12x2 - joints_N12x2.mean(1, keepdims=True)


def test_figures_stay_inside_the_image() -> None:
    # Mutation tried: figures placed without regard to the highest joint -> red.
    for split, number in itertools.product(SPLITS, range(100)):
        points = still(5, split, number).joints_F17x2
        assert points.min() >= MARGIN
        assert points.max() <= SIDE - 1 - MARGIN


def test_a_walk_moves_smoothly_and_its_background_stands_still() -> None:
    # Mutation tried: the pose of every frame drawn afresh -> red; backgrounds with noise of one level -> red.
    for number in range(20):
        scene = walk(5, "train", number, frames=12)
        points, frames = scene.joints_F17x2, scene.frames()
        first, second = np.abs(np.diff(points, axis=0)), np.abs(np.diff(points, n=2, axis=0))
        assert 0.3 < first.max() < 15
        assert second.max() < 9
        assert (frames[:, 0, 0] == frames[0, 0, 0]).all()
        assert (np.abs(np.diff(frames.astype(int), axis=0)).max((1, 2, 3)) > 0).all()


def test_angles_are_turned_outwards_from_hanging_down() -> None:
    # Mutations tried: the sides exchanged -> red; y upwards -> red.
    hanging = dict.fromkeys(RANGES, 0.0)
    still_17x2 = joints(Angles(**hanging), 50)
    lifted_17x2 = joints(Angles(**{**hanging, "left_arm": np.pi / 2}), 50)
    left_elbow, left_shoulder, right_shoulder, left_ankle, nose = 7, 5, 6, 15, 0
    assert still_17x2[left_shoulder, 0] > still_17x2[right_shoulder, 0]  # it faces us
    assert still_17x2[left_ankle, 1] > still_17x2[left_shoulder, 1] > still_17x2[nose, 1]
    assert lifted_17x2[left_elbow, 0] > lifted_17x2[left_shoulder, 0] + 5
    assert lifted_17x2[left_elbow, 1] == pytest.approx(lifted_17x2[left_shoulder, 1])


def test_captions_are_read_back_and_others_refused() -> None:
    # Mutation tried: two sizes with one name in the caption -> red.
    assert [read_caption(words.caption) for words in ALL_WORDS] == list(ALL_WORDS)
    with pytest.raises(ValueError, match="no caption of the small world"):
        read_caption("a photo of an astronaut")


def test_world_and_readers_are_imported_without_torch() -> None:
    # Mutation tried: `import torch` in scene.py -> red.
    modules = "scene, read_joints, read_words, measures, datasets"
    code = f"import sys; from trainer.smallworld import {modules}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
