"""The models that lposekit knows: where their weights come from, what they take and what their scores mean.

Every entry names a config inside the mmpose 1.3.2 wheel (below `mmpose/.mim`); MMPose builds the model from it. The
addresses and file names of OpenMMLab's weights are those of the wheel's own metafiles (tests compare them), of
RTMDet-nano those of OpenMMLab's RTMPose page. OpenMMLab puts the first 8 digits of a file's sha256 into its name; where
no longer hash is known, that prefix is what a download is checked against.

Scores are per model. Heatmap scores lie in about 0..1; SimCC scores are unnormalised maxima of logits and may exceed 1.
So the score from which a keypoint counts as detected belongs to the entry, together with how it was found.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from lposekit.errors import UsageError

Precision = Literal["float32", "half", "bfloat16"]
_OPENMMLAB = "https://download.openmmlab.com/mmpose/v1"
_APACHE = "Apache-2.0 (OpenMMLab)"
_REBUILT_FROM = "rebuilt from a public export into unchanged OpenMMLab modules; no publisher serves this file"
_DEMO_DEFAULT = "0.3 is the default of MMPose's own demos (--kpt-thr); never calibrated here"


@dataclass(frozen=True)
class WeightsFile:
    """A file of weights.

    Attributes:
        file: its name, in the weights folder and at the publisher.
        url: where the publisher serves it; None if nobody does.
        sha256: accepted hashes: all 64 hex digits, or the first 8 or more that the publisher put into the name.
        licence: of the weights, as far as it is known.
        source: where the file, or the knowledge about it, came from.
    """

    file: str
    url: str | None
    sha256: tuple[str, ...]
    licence: str
    source: str


@dataclass(frozen=True)
class DetectorEntry:
    """A person detector.

    Attributes:
        input_size_px: side of the square that images are letterboxed into.
        box_score_threshold: a box counts as a person from this score on. Like the keypoints' scores, a property of the
            model: RTMDet-nano is less sure of what it finds than RTMDet-m.
    """

    name: str
    config: str
    weights: WeightsFile
    input_size_px: int
    box_score_threshold: float = 0.5


@dataclass(frozen=True)
class PoseEntry:
    """A top-down pose model.

    Attributes:
        input_size_wh: size of a person crop in pixels.
        keypoint_format: key of `lposekit.keypoints.KEYPOINT_FORMATS`.
        score_scale: what a keypoint's raw score is.
        keypoint_score_threshold: a keypoint is detected from this raw score on.
        calibration: how that threshold was found.
        provisional: true if it was never calibrated on ground truth; said in the dataset card and the report.
        half_precision: false where half precision was seen to move keypoints; the model then runs in float32 always.
        flip_test: average with the mirrored crop. Doubles the cost; MMPose's configs have it on, lposekit has it off.
        config_overrides: what differs from the config in the wheel.
    """

    name: str
    config: str
    weights: WeightsFile
    input_size_wh: tuple[int, int]
    keypoint_format: Literal["coco17", "wholebody133"]
    score_scale: Literal["heatmap", "simcc"]
    keypoint_score_threshold: float
    calibration: str
    provisional: bool
    half_precision: bool = True
    flip_test: bool = False
    config_overrides: Mapping[str, object] = field(default_factory=dict)


def _openmmlab(folder: str, file: str, sha256: tuple[str, ...] = ()) -> WeightsFile:
    """A file of OpenMMLab, named `...-PREFIX.pth` or `...-PREFIX_DATE.pth`; of a known hash the prefix is no proof."""
    prefix = file.removesuffix(".pth").rpartition("-")[2].partition("_")[0]
    return WeightsFile(file, f"{_OPENMMLAB}/{folder}/{file}", sha256 or (prefix,), _APACHE, "OpenMMLab")


def _rtmpose(size: str, file: str) -> PoseEntry:
    return PoseEntry(
        name=f"rtmpose-{size}",
        config=f"configs/body_2d_keypoint/rtmpose/body8/rtmpose-{size}_8xb256-420e_body8-256x192.py",
        weights=_openmmlab("projects/rtmposev1", file),
        input_size_wh=(192, 256),
        keypoint_format="coco17",
        score_scale="simcc",
        keypoint_score_threshold=0.3,
        calibration=_DEMO_DEFAULT,
        provisional=True,
    )


def _hrnet(width: int, batch: str, file: str) -> PoseEntry:
    folder = "body_2d_keypoint/topdown_heatmap/coco"
    return PoseEntry(
        name=f"hrnet-w{width}",
        config=f"configs/{folder}/td-hm_hrnet-w{width}_{batch}-210e_coco-256x192.py",
        weights=_openmmlab(folder, file),
        input_size_wh=(192, 256),
        keypoint_format="coco17",
        score_scale="heatmap",
        keypoint_score_threshold=0.3,
        calibration=_DEMO_DEFAULT,
        provisional=True,
    )


_DETECTORS = (
    DetectorEntry(
        name="rtmdet-nano",
        config="demo/mmdetection_cfg/rtmdet_nano_320-8xb32_coco-person.py",
        weights=_openmmlab(
            "projects/rtmpose",
            "rtmdet_nano_8xb32-100e_coco-obj365-person-05d8511e.pth",
            # Three public projects record this hash (4,215,674 bytes) for what the address serves today: it looks
            # like the same model, republished without its training state under the old name.
            ("0e2da635c75e25dc88af08d01eb34bfe9cac06a7841cba223bdf04eed288b3dc",),
        ),
        input_size_px=320,
        box_score_threshold=0.3,
    ),
    DetectorEntry(
        name="rtmdet-m",
        config="demo/mmdetection_cfg/rtmdet_m_640-8xb32_coco-person.py",
        weights=_openmmlab("projects/rtmposev1", "rtmdet_m_8xb32-100e_coco-obj365-person-235e8209.pth"),
        input_size_px=640,
    ),
    DetectorEntry(
        name="rtmdet-nano-rebuilt",
        config="demo/mmdetection_cfg/rtmdet_nano_320-8xb32_coco-person.py",
        weights=WeightsFile(
            "rtmdet_nano_320_coco-person.pth",
            None,
            ("5c466668657fd56195ea4cd42a0692095415591ad95c43e3101746f47969e21b",),
            "not stated by the repository it came from; OpenMMLab's model: Apache-2.0",
            f"zli20/RtmDet-RtmPose-OnnxRuntime, models/rtmdet_nano.onnx; {_REBUILT_FROM}",
        ),
        input_size_px=320,
        box_score_threshold=0.3,
    ),
)

_POSE_MODELS = (
    _rtmpose("t", "rtmpose-t_simcc-body7_pt-body7_420e-256x192-026a1439_20230504.pth"),
    _rtmpose("s", "rtmpose-s_simcc-body7_pt-body7_420e-256x192-acd4a1ef_20230504.pth"),
    _rtmpose("m", "rtmpose-m_simcc-body7_pt-body7_420e-256x192-e48f03d0_20230504.pth"),
    _hrnet(32, "8xb64", "td-hm_hrnet-w32_8xb64-210e_coco-256x192-81c58e40_20220909.pth"),
    _hrnet(48, "8xb32", "td-hm_hrnet-w48_8xb32-210e_coco-256x192-0e67c616_20220913.pth"),
    PoseEntry(
        name="rtmpose-m-wholebody",
        config="configs/wholebody_2d_keypoint/rtmpose/coco-wholebody/rtmpose-m_8xb64-270e_coco-wholebody-256x192.py",
        weights=_openmmlab(
            "projects/rtmposev1", "rtmpose-m_simcc-coco-wholebody_pt-aic-coco_270e-256x192-cd5e845c_20230123.pth"
        ),
        input_size_wh=(192, 256),
        keypoint_format="wholebody133",
        score_scale="simcc",
        keypoint_score_threshold=0.3,
        calibration=_DEMO_DEFAULT,
        provisional=True,
    ),
    PoseEntry(
        name="tinypose",
        config="configs/body_2d_keypoint/topdown_heatmap/coco/td-hm_litehrnet-18_8xb64-210e_coco-256x192.py",
        weights=WeightsFile(
            "tinypose_litehrnet-naive-w40_coco-256x192.pth",
            None,
            ("b8ea78c5634d0d5c32cb1958a06c8acec8e3b1e951876c23cc82451626328a41",),
            "not stated by the repository it came from; PaddleDetection's PP-TinyPose: Apache-2.0",
            f"guojin-yan/Csharp_and_OpenVINO_deploy_PP-TinyPose, model/tinypose_256_192/ir_fp16; {_REBUILT_FROM}",
        ),
        input_size_wh=(192, 256),
        keypoint_format="coco17",
        score_scale="heatmap",
        keypoint_score_threshold=0.35,
        calibration="precision and recall on labelled photos, some without people (tests/benchmarks/ground_truth.py)",
        provisional=False,
        half_precision=False,
        config_overrides={"model.backbone.extra.stages_spec.module_type": ("NAIVE", "NAIVE", "NAIVE")},
    ),
)

DETECTORS: Mapping[str, DetectorEntry] = {entry.name: entry for entry in _DETECTORS}
POSE_MODELS: Mapping[str, PoseEntry] = {entry.name: entry for entry in _POSE_MODELS}


def detector_entry(name: str) -> DetectorEntry:
    """The detector of that name.

    Raises:
        UsageError: there is none.
    """
    if name not in DETECTORS:
        raise UsageError(f"no person detector is called {name!r}: choose one of {', '.join(DETECTORS)}")
    return DETECTORS[name]


def pose_entry(name: str) -> PoseEntry:
    """The pose model of that name.

    Raises:
        UsageError: there is none.
    """
    if name not in POSE_MODELS:
        raise UsageError(f"no pose model is called {name!r}: choose one of {', '.join(POSE_MODELS)}")
    return POSE_MODELS[name]


def precision_on(device: str, asked: Precision | Literal["auto"]) -> Precision:
    """What a precision of `auto` means on a device: half on a GPU, float32 elsewhere."""
    if asked == "auto":
        return "half" if device.startswith("cuda") else "float32"
    return asked
