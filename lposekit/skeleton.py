"""Draw persons' keypoints as the skeleton images that pose-guided models are trained with.

Datasets store keypoints; skeletons are drawn when a sample is loaded, at the size it is loaded in, so that line width
and colours (which carry left and right) are right after every crop, resize and flip (docs/guide/skeletons.md).

Arrays: `PK3` = P persons, K keypoints, (x, y, raw score); x and y in pixels, integers at pixel centres.
`HWC` = RGB uint8. K is 17 (COCO) or 133 (COCO-WholeBody).
Sources of the styles: `lposekit.skeleton_styles`.
"""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np
import numpy.typing as npt

from lposekit.keypoints import openpose18_from_coco17
from lposekit.skeleton_styles import STYLES, PartStyle, Rgb, SkeletonStyle

Canvas = npt.NDArray[np.uint8]
Keypoints = npt.NDArray[np.floating]

REFERENCE_SIDE_PX = 512
_SHIFT = 4
"""Fractional bits of the coordinates given to OpenCV: 1/16 pixel."""
_FAR_PX = 1 << 14
"""Keypoints farther out than this are no keypoints; OpenCV's fixed-point arithmetic overflows beyond."""
_OUTLINE_PX = 1.4
"""How much wider than its outline OpenCV fills an antialiased polygon (measured, 4.14)."""


def _arc(start: float, end: float, num_points: int) -> npt.NDArray[np.float64]:
    """Points [N, 2] of the unit circle between two angles in radians."""
    angles_N = np.linspace(start, end, num_points)
    return np.stack([np.cos(angles_N), np.sin(angles_N)], axis=1)


_CIRCLE = _arc(0, 2 * np.pi, 33)[:-1]
_CAP = _arc(-np.pi / 2, np.pi / 2, 9)


def draw_skeleton(
    keypoints_PK3: Keypoints,
    height: int,
    width: int,
    *,
    style: str = "followyourpose",
    score_threshold: float,
    line_width: float | None = None,
) -> Canvas:
    """Skeletons of all persons on black, RGB uint8 [height, width, 3].

    `keypoints_PK3`: float [P, 17 or 133, 3] in pixels of the image to draw (`scale_keypoints`, `crop_keypoints`).
    A keypoint is drawn if its raw score reaches `score_threshold` and it is finite; what leaves the image is cut at
    its border, so apply `drop_outside` before a crop to leave out keypoints outside of the photo itself.
    `line_width`: width of a limb in pixels; default: the style's (6 for `followyourpose`) at a shorter side of 512,
    in proportion elsewhere. Joints grow with it. `style`: a name in `lposekit.skeleton_styles.STYLES`.

    Raises:
        ValueError: an unknown style, or a K that it cannot draw.
    """
    chosen = _style(style)
    points_PK3 = np.asarray(keypoints_PK3, np.float32)
    if points_PK3.ndim != 3 or points_PK3.shape[1] not in chosen.num_keypoints or points_PK3.shape[2] != 3:
        raise ValueError(
            f"style {style} draws keypoints of shape [P, {' or '.join(map(str, chosen.num_keypoints))}, 3], "
            f"not {list(points_PK3.shape)}: pick another style ({', '.join(STYLES)}) or pose model"
        )
    scale = min(height, width) / REFERENCE_SIDE_PX if line_width is None else line_width / chosen.body.limb_width_px
    canvas = np.zeros((height, width, 3), np.uint8)
    for part_style, points_PN2, drawn_PN in _parts(points_PK3, chosen, score_threshold):
        _draw_part(canvas, points_PN2, drawn_PN, part_style, scale)
    return canvas


def scale_keypoints(keypoints_K3: Keypoints, scale_x: float, scale_y: float) -> npt.NDArray[np.float32]:
    """Keypoints [..., K, 3] of the image resized by these factors, as resizers do (pixel centres at integers)."""
    scaled = np.array(keypoints_K3, np.float32)
    scaled[..., 0] = (scaled[..., 0] + 0.5) * scale_x - 0.5
    scaled[..., 1] = (scaled[..., 1] + 0.5) * scale_y - 0.5
    return scaled


def crop_keypoints(keypoints_K3: Keypoints, left: float, top: float) -> npt.NDArray[np.float32]:
    """Keypoints [..., K, 3] of the image cropped at (left, top). Those outside of the crop stay, so that limbs
    which cross its border are drawn up to it."""
    return np.asarray(keypoints_K3, np.float32) - np.array([left, top, 0], np.float32)


def drop_outside(keypoints_K3: Keypoints, height: int, width: int) -> npt.NDArray[np.float32]:
    """Keypoints [..., K, 3] where the score of those outside of a height x width image is -inf: never drawn.

    The keep rule does not count them as detected; a model places them where it sees nothing.
    """
    kept = np.array(keypoints_K3, np.float32)
    x, y = kept[..., 0], kept[..., 1]
    with np.errstate(invalid="ignore"):
        inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    kept[..., 2] = np.where(inside, kept[..., 2], -np.inf)
    return kept


def _style(name: str) -> SkeletonStyle:
    try:
        return STYLES[name]
    except KeyError:
        raise ValueError(f"unknown skeleton style {name!r}: use one of {', '.join(STYLES)}") from None


def _parts(
    points_PK3: npt.NDArray[np.float32], style: SkeletonStyle, score_threshold: float
) -> Iterator[tuple[PartStyle, npt.NDArray[np.float32], npt.NDArray[np.bool_]]]:
    """What to draw, in order: a part's style, its points [P, N, 2], which of them are drawn [P, N]."""
    body_PK3 = points_PK3[:, :17]
    if style.openpose_body:
        body_PK3 = np.zeros((len(points_PK3), 18, 3), np.float32)
        for person, keypoints_K3 in enumerate(points_PK3):
            body_PK3[person] = openpose18_from_coco17(keypoints_K3, score_threshold)
    slices = {
        "body": [body_PK3],
        "hand": [points_PK3[:, 91:112], points_PK3[:, 112:133]],
        "face": [points_PK3[:, 23:91]],
    }
    for name, part_style in style.parts().items():
        for part_PN3 in slices[name]:
            with np.errstate(invalid="ignore"):
                near_PN = (np.abs(part_PN3[..., :2]) < _FAR_PX).all(axis=-1)
                yield part_style, part_PN3[..., :2], near_PN & (part_PN3[..., 2] >= score_threshold)


def _draw_part(
    canvas: Canvas, points_PN2: npt.NDArray[np.float32], drawn_PN: npt.NDArray[np.bool_], style: PartStyle, scale: float
) -> None:
    if style.joints_first:
        _draw_joints(canvas, points_PN2, drawn_PN, style, scale)
    _draw_limbs(canvas, points_PN2, drawn_PN, style, scale)
    if not style.joints_first:
        _draw_joints(canvas, points_PN2, drawn_PN, style, scale)


def _draw_limbs(
    canvas: Canvas, points_PN2: npt.NDArray[np.float32], drawn_PN: npt.NDArray[np.bool_], style: PartStyle, scale: float
) -> None:
    if not style.limbs:
        return
    ends_L2 = np.array([limb for limb, _ in style.limbs])
    drawn_PL = drawn_PN[:, ends_L2].all(axis=2)
    if style.person_by_person:
        person_S, limb_S = np.nonzero(drawn_PL)
    else:
        limb_S, person_S = np.nonzero(drawn_PL.T)
    outline = _ellipses if style.ellipses else _capsules
    radius = max(0.0, (style.limb_width_px * scale - _OUTLINE_PX) / 2)
    polygons_SM2 = outline(points_PN2[person_S, ends_L2[limb_S, 0]], points_PN2[person_S, ends_L2[limb_S, 1]], radius)
    for polygon_M2, limb in zip(polygons_SM2, limb_S, strict=True):
        if style.limb_blend is None:
            cv2.fillConvexPoly(canvas, _fixed_point(polygon_M2), style.limbs[limb][1], cv2.LINE_AA, _SHIFT)
        else:
            _blend_polygon(canvas, polygon_M2, style.limbs[limb][1], style.limb_blend)


def _capsules(a_S2: npt.NDArray[np.float32], b_S2: npt.NDArray[np.float32], radius: float) -> npt.NDArray[np.floating]:
    """Outlines [S, M, 2] of lines with round ends. `cv2.line` takes whole pixels, and draws up to 2 px wider."""
    ends_SM2 = np.concatenate([np.repeat(b_S2[:, None], len(_CAP), 1), np.repeat(a_S2[:, None], len(_CAP), 1)], axis=1)
    return ends_SM2 + radius * np.concatenate([_CAP, -_CAP]) @ _frames(a_S2, b_S2)


def _ellipses(a_S2: npt.NDArray[np.float32], b_S2: npt.NDArray[np.float32], radius: float) -> npt.NDArray[np.floating]:
    """Outlines [S, M, 2] of ellipses from a to b, `2 * radius` wide in their middle."""
    frames_S22 = _frames(a_S2, b_S2)
    frames_S22[:, 0] *= np.hypot(*(b_S2 - a_S2).T)[:, None] / 2
    frames_S22[:, 1] *= radius
    return ((a_S2 + b_S2) / 2)[:, None] + _CIRCLE @ frames_S22


def _frames(a_S2: npt.NDArray[np.float32], b_S2: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Unit vectors [S, 2, 2] of each limb: along it from a to b, and across it."""
    x_S, y_S = (b_S2 - a_S2).T.astype(np.float64)
    length_S = np.hypot(x_S, y_S)
    x_S = np.where(length_S > 0, x_S, 1)
    x_S, y_S = x_S / np.where(length_S > 0, length_S, 1), y_S / np.where(length_S > 0, length_S, 1)
    return np.stack([np.stack([x_S, y_S], 1), np.stack([-y_S, x_S], 1)], axis=1)


def _blend_polygon(canvas: Canvas, polygon_M2: npt.NDArray[np.floating], color: Rgb, blend: float) -> None:
    """Lay a polygon over the canvas with weight `blend`."""
    height, width = canvas.shape[:2]
    left, top = np.clip(np.floor(polygon_M2.min(0)) - 2, 0, (width, height)).astype(int)
    right, bottom = np.clip(np.ceil(polygon_M2.max(0)) + 3, 0, (width, height)).astype(int)
    if left >= right or top >= bottom:
        return
    # only the box around the limb is blended: copying the whole canvas for each limb would cost 10 times as much
    box = canvas[top:bottom, left:right]
    painted = box.copy()
    cv2.fillConvexPoly(painted, _fixed_point(polygon_M2 - (left, top)), color, cv2.LINE_AA, _SHIFT)
    box[:] = cv2.addWeighted(box, 1 - blend, painted, blend, 0)


def _draw_joints(
    canvas: Canvas, points_PN2: npt.NDArray[np.float32], drawn_PN: npt.NDArray[np.bool_], style: PartStyle, scale: float
) -> None:
    if not style.joints:
        return
    radius = max(1 << _SHIFT, int(_fixed_point(style.joint_radius_px * scale)))
    centers_PN2 = _fixed_point(np.where(drawn_PN[..., None], points_PN2, 0))
    for person, joint in np.argwhere(drawn_PN):
        center = centers_PN2[person, joint].tolist()
        cv2.circle(canvas, center, radius, style.joints[joint], cv2.FILLED, cv2.LINE_AA, _SHIFT)


def _fixed_point(values: npt.NDArray[np.floating] | float) -> npt.NDArray[np.int32]:
    return np.rint(np.asarray(values) * (1 << _SHIFT)).astype(np.int32)
