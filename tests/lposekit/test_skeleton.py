"""Contract of `lposekit.skeleton`: the images that pose-guided models are trained with.

Colours carry the side of the body, so most tests read pixels at known places. Images are compared by geometry and not
by hash: other OpenCV versions antialias differently.
"""

from __future__ import annotations

import itertools
from typing import get_args

import av
import cv2
import numpy as np
import numpy.typing as npt
import pytest

from lposekit.keypoints import KEYPOINT_FORMATS, flip_keypoints
from lposekit.skeleton import crop_keypoints, draw_skeleton, drop_outside, scale_keypoints
from lposekit.skeleton_styles import BLUE, GREEN, ORANGE, STYLES, StyleName
from tests.support.fixtures import fixture_path

STYLE_NAMES: tuple[StyleName, ...] = get_args(StyleName)
AUTHORS_VIDEOS = ["fyp_dancing_example_1.mp4", "fyp_dancing_example_3.mp4", "fyp_vis_ikun_pose1.MOV"]
FRONT_VIEW = [  # a person facing the camera, so that the left side of the body is on the right of the image
    *[(256, 80), (270, 66), (242, 66), (290, 75), (222, 75)],
    *[(320, 150), (192, 150), (360, 240), (150, 240), (350, 320), (140, 330)],
    *[(300, 330), (212, 330), (310, 410), (205, 410), (305, 490), (200, 495)],
]


def person(num_keypoints: int = 17, score: float = 1.0) -> npt.NDArray[np.float32]:
    """One person [1, K, 3] in an image of 512 x 512; hands and face are rings around wrists and nose."""
    points_K3 = np.full((num_keypoints, 3), score, np.float32)
    points_K3[:17, :2] = FRONT_VIEW
    if num_keypoints == 133:
        points_K3[17:23, :2] = (256, 500)
        for first, count, (x, y), radius in (
            (23, 68, (256, 80), 40),
            (91, 21, (350, 320), 25),
            (112, 21, (140, 330), 25),
        ):
            angles = np.linspace(0, 2 * np.pi, count, endpoint=False)
            points_K3[first : first + count, 0] = x + radius * np.cos(angles)
            points_K3[first : first + count, 1] = y + radius * np.sin(angles)
    return points_K3[None]


def keypoints_for(style: StyleName) -> npt.NDArray[np.float32]:
    return person(max(STYLES[style].num_keypoints))


def middle(drawn_HWC: npt.NDArray[np.uint8], a: int, b: int) -> tuple[int, ...]:
    """The colour halfway between two keypoints of `FRONT_VIEW`."""
    x, y = np.mean([FRONT_VIEW[a], FRONT_VIEW[b]], axis=0).round().astype(int)
    return tuple(int(v) for v in drawn_HWC[y, x])


@pytest.fixture(scope="module")
def drawn() -> npt.NDArray[np.uint8]:
    return draw_skeleton(person(), 512, 512, score_threshold=0.3)


# followyourpose: the colours that the released pose encoder was trained with


@pytest.mark.parametrize(("a", "b"), [(5, 6), (11, 12), (5, 11), (6, 12), (1, 2), (3, 5)])
def test_trunk_and_head_are_orange_with_more_red_than_blue(drawn: npt.NDArray[np.uint8], a: int, b: int) -> None:
    # The guard against MMPose 1.x's swap of red and blue. Mutation: ORANGE = (51, 153, 255).
    red, _, blue = middle(drawn, a, b)
    assert red > blue
    assert middle(drawn, a, b) == (255, 153, 51)


@pytest.mark.parametrize(("a", "b"), [(5, 7), (7, 9), (11, 13), (13, 15)])
def test_left_limbs_are_green(drawn: npt.NDArray[np.uint8], a: int, b: int) -> None:
    # Mutation: left and right exchanged in STYLES["followyourpose"].
    assert middle(drawn, a, b) == (0, 255, 0)


@pytest.mark.parametrize(("a", "b"), [(6, 8), (8, 10), (12, 14), (14, 16)])
def test_right_limbs_are_blue(drawn: npt.NDArray[np.uint8], a: int, b: int) -> None:
    assert middle(drawn, a, b) == (0, 128, 255)


def test_only_palette_colours_on_black_and_no_joint_dots(drawn: npt.NDArray[np.uint8]) -> None:
    assert tuple(drawn[0, 0]) == (0, 0, 0)
    solid = {tuple(map(int, c)) for c in np.unique(drawn.reshape(-1, 3)[(drawn.max(axis=2) > 250).ravel()], axis=0)}
    assert {ORANGE, GREEN, BLUE} <= solid
    # a wrist is the round end of its limb, no wider than the limb
    row = drawn[318:323, 330:370, 1].max(axis=0)
    assert 4 <= (row > 128).sum() <= 9


def stroke_width(image_HWC: npt.NDArray[np.uint8]) -> float:
    """Median width of the strokes in pixels: twice the distance to the background, along the strokes' middle lines."""
    brightness_HW = image_HWC.max(axis=2)
    around_HW = cv2.dilate(brightness_HW, np.ones((9, 9)))
    mask_HW = ((brightness_HW > around_HW * 0.5) & (around_HW > 120)).astype(np.uint8)
    # at 4 times the size, so that the distance is known to a quarter of a pixel
    large_HW = cv2.resize(mask_HW, None, fx=4, fy=4, interpolation=cv2.INTER_NEAREST)
    distance_HW = cv2.distanceTransform(large_HW, cv2.DIST_L2, 5)
    ridge_HW = (distance_HW >= cv2.dilate(distance_HW, np.ones((9, 9)))) & (large_HW > 0)
    return float(np.median(distance_HW[ridge_HW])) * 2 / 4


def frame_at_512(name: str) -> npt.NDArray[np.uint8]:
    """A frame of a fixture video, shorter side 512."""
    with av.open(str(fixture_path(f"data/videos/{name}"))) as container:
        frame = next(itertools.islice(container.decode(video=0), 60, None))
        rgb_HWC = frame.to_ndarray(format="rgb24")
    scale = 512 / min(rgb_HWC.shape[:2])
    return cv2.resize(rgb_HWC, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA).astype(np.uint8)


def main_colors(image_HWC: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """The three colours [3, 3] of the strokes' cores (compression and scaling dim their edges), by k-means."""
    core_HW = cv2.erode((image_HWC.max(axis=2) > 120).astype(np.uint8), np.ones((3, 3))).astype(bool)
    pixels_N3 = image_HWC[core_HW].astype(np.float32)
    cv2.setRNGSeed(0)
    criteria = (cv2.TERM_CRITERIA_MAX_ITER, 50, 0.1)
    _, _, centers_33 = cv2.kmeans(pixels_N3, 3, np.empty(0), criteria, 5, cv2.KMEANS_PP_CENTERS)
    return np.asarray(centers_33, np.float32)


def hue(color: npt.ArrayLike) -> float:
    return float(cv2.cvtColor(np.array([[color]], np.float32) / 255, cv2.COLOR_RGB2HSV)[0, 0, 0])


@pytest.mark.parametrize("name", AUTHORS_VIDEOS)
def test_the_three_colours_of_the_authors_skeleton_videos_are_ours(name: str) -> None:
    """Hue for hue: H.264 takes brightness and saturation from lines this thin (their green comes out at 165 to 195).

    Mutation: red and blue exchanged in ORANGE and BLUE, as MMPose 1.x draws.
    """
    theirs = sorted(hue(color) for color in main_colors(frame_at_512(name)))
    ours = sorted(hue(color) for color in (ORANGE, GREEN, BLUE))
    assert np.abs(np.subtract(theirs, ours)).max() < 8, "degrees of hue"


def test_the_trunk_in_the_authors_skeleton_videos_is_our_orange() -> None:
    """The trunk covers most of the strokes, so its colour survives compression best."""
    theirs = min(main_colors(frame_at_512("fyp_dancing_example_3.mp4")), key=lambda color: color[2] - color[0])
    assert np.abs(theirs - ORANGE).max() < 30


def test_stroke_width_is_that_of_the_authors_skeleton_videos(drawn: npt.NDArray[np.uint8]) -> None:
    ours = stroke_width(drawn)
    assert 5.5 <= ours <= 6.5
    theirs = [stroke_width(frame_at_512(name)) for name in AUTHORS_VIDEOS]  # 4, 5 and 6 px
    assert min(theirs) - 0.5 <= ours <= max(theirs) + 0.5


@pytest.mark.parametrize("line_width", [3.0, 4.0, 6.0, 9.0])
def test_lines_are_as_wide_as_asked_for_at_every_angle(line_width: float) -> None:
    # cv2.line(thickness=6) draws 7 px and a half; mutation: _OUTLINE_PX = 0.
    for angle in np.deg2rad([0, 17, 45, 80, 90]):
        keypoints_PK3 = np.zeros((1, 17, 3), np.float32)
        keypoints_PK3[0, 5] = (60, 60, 1)
        keypoints_PK3[0, 7] = (60 + 120 * np.cos(angle), 60 + 120 * np.sin(angle), 1)
        drawn = draw_skeleton(keypoints_PK3, 256, 256, score_threshold=0.3, line_width=line_width)
        area = drawn[..., 1].sum() / 255 - np.pi * (line_width / 2) ** 2
        assert area / 120 == pytest.approx(line_width, abs=0.4)


# every style


@pytest.mark.parametrize("style", STYLE_NAMES)
def test_drawing_is_deterministic_rgb_uint8_of_the_size_asked_for(style: StyleName) -> None:
    first = draw_skeleton(keypoints_for(style), 300, 420, style=style, score_threshold=0.3)
    second = draw_skeleton(keypoints_for(style), 300, 420, style=style, score_threshold=0.3)
    assert first.shape == (300, 420, 3)
    assert first.dtype == np.uint8
    assert (first == second).all()


@pytest.mark.parametrize("style", STYLE_NAMES)
def test_mirrored_keypoints_give_the_mirrored_image_with_sides_exchanged(style: StyleName) -> None:
    """A flip exchanges left and right by name: the shape is mirrored, the colours of the sides change over."""
    keypoints_PK3 = keypoints_for(style)
    keypoint_format = KEYPOINT_FORMATS["coco17" if keypoints_PK3.shape[1] == 17 else "wholebody133"]
    drawn = draw_skeleton(keypoints_PK3, 512, 512, style=style, score_threshold=0.3)
    mirrored_PK3 = flip_keypoints(keypoints_PK3, 512, keypoint_format)
    flipped = draw_skeleton(mirrored_PK3, 512, 512, style=style, score_threshold=0.3)
    shape_differs = (drawn[:, ::-1].max(axis=2) > 100) != (flipped.max(axis=2) > 100)
    assert shape_differs.mean() < 0.002
    if style == "followyourpose":
        # Who is mirrored lifts the other arm: its colour changes. Mutation: flip_keypoints without flip_order.
        assert tuple(drawn[195, 340]) == GREEN
        assert tuple(flipped[195, 511 - 340]) == BLUE
    without_swap = keypoints_PK3.copy()
    without_swap[..., 0] = 511 - without_swap[..., 0]
    not_swapped = draw_skeleton(without_swap, 512, 512, style=style, score_threshold=0.3)
    assert np.abs(not_swapped.astype(int) - drawn[:, ::-1]).mean() < 1.0


@pytest.mark.parametrize("style", STYLE_NAMES)
def test_keypoints_below_the_threshold_are_not_drawn(style: StyleName) -> None:
    # Mutation: `>=` to `>` in _parts.
    keypoints_PK3 = keypoints_for(style)
    keypoints_PK3[..., 2] = 0.25
    assert draw_skeleton(keypoints_PK3, 512, 512, style=style, score_threshold=0.25).any()
    assert not draw_skeleton(keypoints_PK3, 512, 512, style=style, score_threshold=0.26).any()


def test_one_missing_wrist_takes_its_forearm_alone() -> None:
    keypoints_PK3 = person()
    keypoints_PK3[0, 9, 2] = 0.1
    drawn = draw_skeleton(keypoints_PK3, 512, 512, score_threshold=0.3)
    assert middle(drawn, 7, 9) == (0, 0, 0)
    assert middle(drawn, 5, 7) == GREEN


@pytest.mark.parametrize("style", STYLE_NAMES)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e9, -1e9])
def test_keypoints_that_are_not_finite_or_far_away_are_left_out(style: StyleName, bad: float) -> None:
    # Mutation: without `near` OpenCV raises for NaN, or draws lines across the image.
    keypoints_PK3 = keypoints_for(style)
    expected_PK3 = keypoints_PK3.copy()
    keypoints_PK3[0, 9, :2] = bad
    expected_PK3[0, 9, 2] = -1
    drawn = draw_skeleton(keypoints_PK3, 512, 512, style=style, score_threshold=0.3)
    assert (drawn == draw_skeleton(expected_PK3, 512, 512, style=style, score_threshold=0.3)).all()
    keypoints_PK3[0, :, 2] = np.nan
    assert not draw_skeleton(keypoints_PK3, 512, 512, style=style, score_threshold=0.3).any()


@pytest.mark.parametrize("style", STYLE_NAMES)
def test_persons_outside_of_the_image_and_no_persons_give_black(style: StyleName) -> None:
    keypoints_PK3 = keypoints_for(style)
    away_PK3 = crop_keypoints(keypoints_PK3, 2000, 0)
    assert not draw_skeleton(away_PK3, 512, 512, style=style, score_threshold=0.3).any()
    assert not draw_skeleton(keypoints_PK3[:0], 64, 64, style=style, score_threshold=0.3).any()


@pytest.mark.parametrize("style", STYLE_NAMES)
def test_a_crop_of_the_keypoints_draws_what_a_crop_of_the_image_shows(style: StyleName) -> None:
    """Limbs that leave the crop are drawn up to its border."""
    keypoints_PK3 = keypoints_for(style)
    whole = draw_skeleton(keypoints_PK3, 512, 512, style=style, score_threshold=0.3, line_width=6)
    cropped_PK3 = crop_keypoints(keypoints_PK3, 200, 100)
    crop = draw_skeleton(cropped_PK3, 256, 256, style=style, score_threshold=0.3, line_width=6)
    assert (np.abs(crop.astype(int) - whole[100:356, 200:456]) > 8).mean() < 0.001


@pytest.mark.parametrize("style", STYLE_NAMES)
def test_skeleton_of_a_scaled_image_is_the_scaled_skeleton(style: StyleName) -> None:
    keypoints_PK3 = keypoints_for(style)
    large = draw_skeleton(scale_keypoints(keypoints_PK3, 2, 2), 1024, 1024, style=style, score_threshold=0.3)
    small = draw_skeleton(keypoints_PK3, 512, 512, style=style, score_threshold=0.3)
    reduced = cv2.resize(large, (512, 512), interpolation=cv2.INTER_AREA)
    assert np.abs(reduced.astype(int) - small).mean() < 1.5


def test_fractions_of_a_pixel_move_the_line() -> None:
    # Mutation: _SHIFT = 0 rounds both to the same image.
    here = draw_skeleton(person(), 128, 512, score_threshold=0.3, line_width=6)
    there = draw_skeleton(person() + np.float32([0.4, 0, 0]), 128, 512, score_threshold=0.3, line_width=6)
    assert (here != there).any()


def test_keypoints_outside_of_the_photo_are_dropped_before_a_crop() -> None:
    # The last column is inside, one pixel further is not. Mutation: `x <= width`.
    points_K3 = np.ones((6, 3), np.float32)
    points_K3[:, :2] = [(511.9, 0), (512, 0), (0, -0.1), (0, 99.5), (0, 100), (np.nan, 0)]
    assert (drop_outside(points_K3, 100, 512)[:, 2] == 1).tolist() == [True, False, False, True, False, False]
    assert points_K3[1, 2] == 1, "the input stays as it is"


def test_wholebody_keypoints_draw_their_body_in_the_body_styles() -> None:
    for style in ("followyourpose", "openpose18", "mmpose1"):
        body = draw_skeleton(person(17), 512, 512, style=style, score_threshold=0.3)
        assert (draw_skeleton(person(133), 512, 512, style=style, score_threshold=0.3) == body).all()


# the other styles, told by their colours


def test_mmpose1_has_red_and_blue_swapped_against_followyourpose(drawn: npt.NDArray[np.uint8]) -> None:
    theirs = draw_skeleton(person(), 512, 512, style="mmpose1", score_threshold=0.3, line_width=6)
    assert middle(theirs, 5, 6) == (51, 153, 255) == middle(drawn, 5, 6)[::-1]
    assert middle(theirs, 6, 8) == (255, 128, 0)
    assert middle(theirs, 5, 7) == GREEN


def test_mmpose1_has_joint_dots_over_thin_lines() -> None:
    theirs = draw_skeleton(person(), 512, 512, style="mmpose1", score_threshold=0.3)
    assert tuple(theirs[320, 348]) == GREEN
    assert (theirs[195, 330:420].max(axis=1) > 128).sum() <= 2


def test_openpose18_has_rainbow_joints_below_blended_limbs() -> None:
    openpose = draw_skeleton(person(), 512, 512, style="openpose18", score_threshold=0.3)
    # neck to right shoulder is limb 0, red at 60 %; left wrist is joint 7, and half of its disc has no limb on it
    assert middle(openpose, 6, 6)[0] > 0
    assert tuple(openpose[150, 224]) == (153, 0, 0)
    assert tuple(openpose[322, 350]) == (0, 255, 85)


def test_openpose18_needs_both_shoulders_for_a_neck() -> None:
    keypoints_PK3 = person()
    keypoints_PK3[0, 5, 2] = 0.1
    openpose = draw_skeleton(keypoints_PK3, 512, 512, style="openpose18", score_threshold=0.3)
    assert not openpose[146:155, 200:300].any()


def test_dwpose133_draws_body_hands_and_face() -> None:
    dwpose = draw_skeleton(person(133), 512, 512, style="dwpose133", score_threshold=0.3)
    assert tuple(dwpose[150, 224]) == (153, 0, 0)
    assert tuple(dwpose[80, 296]) == (255, 255, 255), "the first point of the face"
    assert tuple(dwpose[320, 375]) == (0, 0, 255), "the root of the left hand"
    assert tuple(dwpose[330, 165]) == (0, 0, 255), "the root of the right hand"


# errors and speed


def test_dwpose133_refuses_17_keypoints_and_says_what_to_use() -> None:
    with pytest.raises(ValueError, match=r"dwpose133 draws keypoints of shape \[P, 133, 3\].*followyourpose"):
        draw_skeleton(person(17), 512, 512, style="dwpose133", score_threshold=0.3)


def test_an_unknown_style_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="followyourpose, openpose18"):
        draw_skeleton(person(17), 512, 512, style="stickman", score_threshold=0.3)
