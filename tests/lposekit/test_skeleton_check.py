"""Contract: skeleton images that a pose encoder would misread are converted if nothing is lost, or refused with the
way out; right ones pass unchanged."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from lposekit.errors import UsageError
from lposekit.skeleton import draw_skeleton
from lposekit.skeleton_check import check_skeletons, looks_drawn

SIDE = 256
STYLE = "followyourpose"
_LEFT_RIGHT = {"shoulder": 0.3, "elbow": 0.45, "wrist": 0.6, "hip": 0.55, "knee": 0.75, "ankle": 0.92}


def person(x: float = 0.5) -> np.ndarray:
    """Keypoints [17, 3] of a person who stands, arms and legs apart."""
    points = [(x, 0.12), (x + 0.02, 0.1), (x - 0.02, 0.1), (x + 0.04, 0.12), (x - 0.04, 0.12)]
    for i, height in enumerate(_LEFT_RIGHT.values()):
        points += [(x + 0.07 + 0.02 * i, height), (x - 0.07 - 0.02 * i, height)]
    return np.array([(SIDE * a, SIDE * b, 1.0) for a, b in points], np.float32)


def skeletons(style: str = STYLE) -> np.ndarray:
    images = [
        draw_skeleton(person(x)[None], SIDE, SIDE, style=style, score_threshold=0.5, line_width=6)
        for x in (0.4, 0.5, 0.6)
    ]
    return np.stack(images)


def noisy(frames: np.ndarray) -> np.ndarray:
    """As a video brings them: each frame once through lossy compression."""
    files = [cv2.imencode(".jpg", frame[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 80])[1] for frame in frames]
    return np.stack([cv2.imdecode(file, cv2.IMREAD_COLOR)[:, :, ::-1] for file in files])


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("style", ["followyourpose", "mmpose1", "openpose18"])
def test_right_skeletons_pass_unchanged(style: str, compressed: bool) -> None:
    # Mutation tried: `CLOSE = 0.9`.
    frames = noisy(skeletons(style)) if compressed else skeletons(style)
    check = check_skeletons(frames, style)
    assert check.fixes == ()
    assert check.empty == 0
    np.testing.assert_array_equal(check.convert(frames), frames)


@pytest.mark.parametrize("compressed", [False, True])
def test_swapped_red_and_blue_are_swapped_back(compressed: bool) -> None:
    # wrong skeleton 1. Mutation tried: never swapped.
    right = noisy(skeletons()) if compressed else skeletons()
    check = check_skeletons(np.ascontiguousarray(right[..., ::-1]), STYLE)
    assert "red and blue" in check.fixes[0]
    np.testing.assert_array_equal(check.convert(right[..., ::-1]), right)


@pytest.mark.parametrize("other", ["openpose18", "followyourpose"])
def test_another_palette_is_refused_and_named(other: str) -> None:
    # wrong skeleton 2. Mutation tried: `CLOSE = 99` with `MAX_DISTANCE = 1`.
    trained = "followyourpose" if other == "openpose18" else "openpose18"
    with pytest.raises(UsageError, match=f"drawn in the style {other}; these weights were trained with {trained}"):
        check_skeletons(skeletons(other), trained)


def test_white_background_is_refused() -> None:
    # wrong skeleton 3. Mutation tried: without the test of `background.max()`.
    frames = skeletons()
    frames[frames.max(axis=-1) == 0] = 255
    with pytest.raises(UsageError, match=r"background is \(255,255,255\) instead of black"):
        check_skeletons(frames, STYLE)


def test_a_skeleton_over_a_photo_is_refused() -> None:
    # Mutation tried: `MIN_FLAT = 0.0`.
    photo = np.random.default_rng(0).integers(0, 255, (3, 16, 16, 3), np.uint8)
    frames = np.stack([cv2.resize(image, (SIDE, SIDE)) for image in photo])
    drawn = skeletons()
    frames[drawn.max(axis=-1) > 0] = drawn[drawn.max(axis=-1) > 0]
    assert not looks_drawn(frames)
    assert looks_drawn(drawn)
    with pytest.raises(UsageError, match="over an image"):
        check_skeletons(frames, STYLE)


def test_limited_and_dim_values_are_stretched() -> None:
    # wrong skeleton 4, convertible. Mutations tried: gain 1 in either branch.
    right = skeletons()
    limited = (right * (219 / 255) + 16).round().astype(np.uint8)
    dim = (right * 0.4).round().astype(np.uint8)
    for wrong, word in ((limited, "16 to 235"), (dim, "40%")):
        check = check_skeletons(wrong, STYLE)
        assert word in check.fixes[0]
        assert np.abs(check.convert(wrong).astype(int) - right).max() <= 3


def test_values_from_0_to_1_written_as_bytes_are_refused() -> None:
    # wrong skeleton 4, lost. Mutation tried: without the test of `peak`.
    with pytest.raises(UsageError, match="0 to 1 as whole numbers"):
        check_skeletons((skeletons() / 255).astype(np.uint8), STYLE)


def test_dots_without_limbs_are_refused() -> None:
    # wrong skeleton 5. Mutation tried: `DOT_EXTENT = 0.0`.
    frames = np.zeros((3, SIDE, SIDE, 3), np.uint8)
    for frame in frames:
        for i, (x, y, _) in enumerate(person()):
            cv2.circle(frame, (round(x), round(y)), 4, [(255, 153, 51), (0, 255, 0), (0, 128, 255)][i % 3], -1)
    with pytest.raises(UsageError, match="joints without limbs"):
        check_skeletons(frames, STYLE)


def test_black_frames_are_counted_and_nothing_but_black_is_refused() -> None:
    # Mutation tried: without the test of `drawn_F.any()`.
    frames = skeletons()
    frames[1] = 0
    assert check_skeletons(frames, STYLE).empty == pytest.approx(1 / 3)
    with pytest.raises(UsageError, match="no frame has a skeleton"):
        check_skeletons(np.zeros_like(frames), STYLE)
