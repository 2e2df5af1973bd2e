"""Contract: what the readers read off real renders is what was drawn, up to the error that is stated here; measures
reach their ceiling on real renders and fall to their floor with poses, words or frames exchanged.
"""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from tests.trainer.smallworld.coco_scenes import coco_scenes
from trainer.smallworld.draw import Image
from trainer.smallworld.measures import flicker, identity, oks, pck, text_shares
from trainer.smallworld.read_joints import read_joints
from trainer.smallworld.read_words import SeenWords, read_words
from trainer.smallworld.scene import Scene, still, walk
from trainer.smallworld.words import SIZES

COUNT = 200


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [still(5, "held_out", number) for number in range(COUNT)]


@pytest.fixture(scope="module")
def images(scenes: list[Scene]) -> list[Image]:
    return [scene.frames()[0] for scene in scenes]


def test_joints_of_real_renders_are_read_to_two_hundredths_of_the_figures_height(
    scenes: list[Scene], images: list[Image]
) -> None:
    # Mutations tried: left and right arm's colours exchanged in the reader -> red; hidden hips not added -> red.
    away = [_away(image, scene) for image, scene in zip(images, scenes, strict=True)]
    assert np.median(away) < 0.01
    assert np.percentile(away, 95) < 0.05
    assert max(np.median(away, axis=0)) < 0.025


def _away(image: Image, scene: Scene) -> np.ndarray:
    """Of the twelve joints, in heights of the figure; unread ones are infinitely far."""
    gap = np.hypot(*(read_joints(image) - scene.joints_F17x2[0])[5:].T) / SIZES[scene.words.size]
    return np.where(np.isfinite(gap), gap, np.inf)


def test_pck_of_real_renders_is_near_one_and_of_other_poses_near_an_eighth(
    scenes: list[Scene], images: list[Image]
) -> None:
    # Mutation tried: the limit of PCK at half a height -> red.
    joints = [read_joints(image) for image in images]
    right = [pck(j, s.joints_F17x2[0], s.words) for j, s in zip(joints, scenes, strict=True)]
    shuffled = [pck(j, s.joints_F17x2[0], s.words) for j, s in zip(joints, scenes[1:] + scenes[:1], strict=True)]
    assert np.mean(right) > 0.985
    assert 0.05 < np.mean(shuffled) < 0.2


def test_oks_of_real_renders_is_near_one_and_of_other_poses_low(scenes: list[Scene], images: list[Image]) -> None:
    # Mutation tried: unread joints left out of the mean -> red in the next test; the area's root taken -> red here.
    joints = [read_joints(image) for image in images]
    right = [oks(j, s.joints_F17x2[0]) for j, s in zip(joints, scenes, strict=True)]
    shuffled = [oks(j, s.joints_F17x2[0]) for j, s in zip(joints, scenes[1:] + scenes[:1], strict=True)]
    assert np.mean(right) > 0.97
    assert np.mean(shuffled) < 0.3


def test_joints_that_are_not_there_count_as_wrong(scenes: list[Scene]) -> None:
    # Mutation tried: NaN ignored in the mean of OKS, and of PCK -> red each.
    empty, scene = np.full((64, 64, 3), 200, np.uint8), scenes[0]
    assert np.isnan(read_joints(empty)).all()
    half = scene.joints_F17x2[0].copy()
    half[[5, 7, 9, 6, 8, 10]] = np.nan
    assert pck(half, scene.joints_F17x2[0], scene.words) == pytest.approx(0.5)
    assert oks(half, scene.joints_F17x2[0]) == pytest.approx(0.5)


def test_words_of_real_renders_are_always_read(scenes: list[Scene], images: list[Image]) -> None:
    # Mutation tried: the limit between small and big at 300 pixels -> red; clothes `green` and `blue` exchanged -> red.
    assert text_shares(images, [scene.words for scene in scenes]) == dict.fromkeys(
        ("size", "clothes", "background", "all"), 1.0
    )


def test_words_of_other_captions_are_right_by_chance_only(scenes: list[Scene], images: list[Image]) -> None:
    # Mutation tried: clothes taken for right whatever is seen -> red.
    shares = text_shares(images, [scene.words for scene in scenes[1:] + scenes[:1]])
    assert 0.3 < shares["size"] < 0.7
    assert 0.1 < shares["clothes"] < 0.4
    assert shares["all"] < 0.15


def test_an_image_that_shows_nothing_has_no_words_and_no_joints() -> None:
    # Mutation tried: the nearest colour taken however far it is -> red.
    salmon = np.full((64, 64, 3), (255, 145, 120), np.uint8)  # nearest to a background, and far from it
    assert read_words(salmon) == SeenWords(size=None, clothes=None, background=None)
    assert not any(read_words(salmon).agree(still(0, "train", 0).words).values())
    assert np.isnan(read_joints(salmon)).all()


def test_readers_bear_the_blur_of_a_vae(scenes: list[Scene], images: list[Image]) -> None:
    # Mutation tried: colours accepted up to a distance of 20 only -> red.
    blurred = [_halved(image) for image in images]
    hits = [pck(read_joints(b), s.joints_F17x2[0], s.words) for b, s in zip(blurred, scenes, strict=True)]
    assert np.mean(hits) > 0.97
    assert text_shares(blurred, [scene.words for scene in scenes])["all"] > 0.98


def _halved(image: Image) -> Image:
    small = cv2.resize(image, (32, 32), interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.resize(small, (64, 64), interpolation=cv2.INTER_LINEAR), np.uint8)


def test_flicker_is_nothing_on_real_walks_and_seen_when_backgrounds_change() -> None:
    # Mutation tried: differences taken over the whole image -> red (walks move).
    frames = walk(5, "train", 0, frames=8).frames()
    lit = np.clip(frames.astype(int) + 6 * (np.arange(8) % 2)[:, None, None, None], 0, 255).astype(np.uint8)
    assert flicker(frames) == 0
    assert flicker(lit) == pytest.approx(6, abs=1.5)


def test_identity_counts_the_frames_in_which_clothes_keep_their_colour() -> None:
    # Mutation tried: frames without clothes left out of the count -> red.
    same, other = walk(5, "train", 0, frames=8), walk(5, "train", 1, frames=8)
    assert same.words.clothes != other.words.clothes
    assert identity(same.frames()) == 1
    mixed = np.concatenate([same.frames()[:5], other.frames()[:2], np.full((1, 64, 64, 3), 200, np.uint8)])
    assert identity(mixed) == pytest.approx(5 / 8)


def test_joints_of_poses_from_real_photos_are_read() -> None:
    # Mutation tried: ends of a limb part exchanged -> red. Arms lie over one another there, so it is less than 1.
    scenes = coco_scenes()
    read = [read_joints(scene.frames()[0]) for scene in scenes]
    right = [pck(each, scene.joints_F17x2[0], scene.words) for each, scene in zip(read, scenes, strict=True)]
    assert len(scenes) == 20
    assert np.mean(right) > 0.85
