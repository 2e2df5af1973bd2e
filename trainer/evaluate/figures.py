"""The scores of an evaluation as people read them: names, units, and which way is better."""

from __future__ import annotations

from dataclasses import dataclass

from trainer.evaluate.meters.meter import number_at


@dataclass(frozen=True, slots=True)
class Figure:
    """A score in words. places: where it lies in `scores`, for the drawn clips and for the real ones. scale: what it is
    shown multiplied by. better: `higher`, `lower`, or nothing where neither is. main: stands at the page's head."""

    name: str
    places: tuple[tuple[str, ...], tuple[str, ...] | None]
    hint: str
    scale: float = 1.0
    digits: int = 2
    better: str = "higher"
    main: bool = False

    def shown(self, scores: object, real: bool = False) -> str | None:
        """The number as text; None if it was not measured."""
        place = self.places[int(real)]
        value = None if place is None else number_at(scores, *place)
        if value is None and place is not None:
            value = number_at(scores, *place, "mean")
        return None if value is None else f"{self.scale * value:.{self.digits}f}"


CLIP_SCORE = Figure(
    "CLIP score",
    (("clip", "text"), ("clip", "real", "text")),
    "100 x cosine of frame and prompt, mean over frames",
    main=True,
)
CONSISTENCY = Figure(
    "Frame consistency, consecutive (%)",
    (("clip", "consecutive"), ("clip", "real", "consecutive")),
    "cosine of CLIP's embeddings of neighbouring frames: the paper's definition",
    scale=100,
    main=True,
)
POSE = Figure(
    "Pose accuracy, AP (%)",
    (("pose", "drawn", "ap"), ("pose", "real", "ap")),
    "COCO's AP of the poses found in the frames, against those asked for",
    scale=100,
    main=True,
)
FIGURES = (
    CLIP_SCORE,
    CONSISTENCY,
    Figure(
        "Frame consistency, all pairs (%)",
        (("clip", "pairwise"), ("clip", "real", "pairwise")),
        "the same over all pairs of frames: Tune-A-Video's definition",
        scale=100,
    ),
    POSE,
    Figure(
        "AP at OKS 0.5 (%)",
        (("pose", "drawn", "ap50"), ("pose", "real", "ap50")),
        "the same at one similarity alone",
        scale=100,
    ),
    Figure("AR (%)", (("pose", "drawn", "ar"), ("pose", "real", "ar")), "COCO's average recall", scale=100),
    Figure(
        "PCK@0.2 (%)",
        (("pose", "drawn", "pck"), ("pose", "real", "pck")),
        "share of joints within a fifth of the person's longer side of their place",
        scale=100,
        main=True,
    ),
    Figure(
        "Flicker",
        (("motion", "flicker"), ("motion", "real_flicker")),
        "mean difference of neighbouring frames, of 255 levels; motion counts too, so compare with the real clips",
        better="",
    ),
    Figure("L1", (("pixels", "l1"), None), "mean absolute error to the real frames", digits=6, better="lower"),
    Figure("PSNR (dB)", (("pixels", "psnr"), None), "to the real frames"),
    Figure("SSIM", (("pixels", "ssim"), None), "to the real frames", digits=4),
    Figure("LPIPS", (("lpips", "lpips"), None), "to the real frames", digits=4, better="lower"),
    Figure("FID", (("fid", "distance"), None), "of all frames to all real frames", better="lower"),
    Figure("FVD", (("fvd", "distance"), None), "of the clips to the real clips", better="lower"),
)
