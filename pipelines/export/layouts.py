"""Where each target looks for images, skeletons and captions: one row of a table for each.

Sources: the dataset classes of the trainers themselves; docs/guide/export.md names class and version.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from lposekit.json_values import JsonObject, JsonValue, strict_json

Need = Literal["required", "optional", "none"]
"""Whether a target wants a skeleton for each sample: it does not work without; takes it; does not look for it."""


@dataclass(frozen=True, slots=True)
class Exported:
    """A sample as it was written. Paths are relative to the output folder, with `/`; `control` is None without one.

    `num_frames` and `fps` are 1 and None of an image.
    """

    key: str
    media: str
    control: str | None
    caption: str
    width: int
    height: int
    num_frames: int = 1
    fps: float | None = None


Lists = Callable[[Sequence[Exported], str], dict[str, str]]
"""Samples and kind (`image` or `video`) to the text files that name them, by path."""


@dataclass(frozen=True, slots=True)
class Layout:
    """One target. `media` and `control`: folders. `captions`: whether `KEY.txt` lies beside the image or clip."""

    kinds: tuple[str, ...]
    media: str
    control: str
    captions: bool
    needs: Need
    lists: Lists
    how: str
    """How it is read, for the card."""


def _lines(rows: Sequence[JsonObject]) -> str:
    return "".join(strict_json(row, ensure_ascii=False) + "\n" for row in rows)


def _document(value: JsonValue) -> str:
    return strict_json(value, ensure_ascii=False, indent=1) + "\n"


def _diffusers(samples: Sequence[Exported], kind: str) -> dict[str, str]:
    def below(path: str | None) -> str:
        assert path is not None, "the layout requires a skeleton for each sample"
        return path.removeprefix("train/")

    rows: list[JsonObject] = [
        {
            "file_name": below(sample.media),
            "conditioning_image_file_name": below(sample.control),
            "text": sample.caption,
        }
        for sample in samples
    ]
    return {"train/metadata.jsonl": _lines(rows)}


def _sd_scripts(samples: Sequence[Exported], kind: str) -> dict[str, str]:
    text = "\n".join(
        [
            "# The paths are relative to the folder that the trainer is started in.",
            "[general]",
            'caption_extension = ".txt"',
            "enable_bucket = true",
            "",
            "[[datasets]]",
            "resolution = 512",
            "",
            "  [[datasets.subsets]]",
            '  image_dir = "image"',
            '  conditioning_data_dir = "pose"',
            "  # A mirrored skeleton keeps the colours of the other side.",
            "  flip_aug = false",
        ]
    )
    return {"dataset.toml": text + "\n"}


def _musubi(samples: Sequence[Exported], kind: str) -> dict[str, str]:
    what = "image" if kind == "image" else "video"
    rows: list[JsonObject] = []
    for sample in samples:
        control: JsonObject = {} if sample.control is None else {"control_path": sample.control}
        rows.append({f"{what}_path": sample.media, **control, "caption": sample.caption})
    lines = [
        "# The paths are relative to the folder that the trainer is started in.",
        "[general]",
        "batch_size = 1",
        "enable_bucket = true",
        "",
        "[[datasets]]",
        f'{what}_jsonl_file = "metadata.jsonl"',
        'cache_directory = "cache"',
    ]
    if kind == "video":
        # 4 n + 1 frames, as the VAEs of video models take them
        shortest = min((sample.num_frames for sample in samples), default=1)
        frames = max(1, (shortest - 1) // 4 * 4 + 1)
        lines += [f"target_frames = [{frames}]", 'frame_extraction = "head"']
    return {"metadata.jsonl": _lines(rows), "dataset.toml": "\n".join(lines) + "\n"}


def _diffusion_pipe(samples: Sequence[Exported], kind: str) -> dict[str, str]:
    lines = [
        "# The paths are relative to the folder that the trainer is started in.",
        "resolutions = [512]",
        "enable_ar_bucket = true",
        "",
        "[[directory]]",
        'path = "image"',
        'control_path = "pose"',
        "num_repeats = 1",
    ]
    return {"dataset.toml": "\n".join(lines) + "\n"}


def _videox_fun(samples: Sequence[Exported], kind: str) -> dict[str, str]:
    # The key of the control must be there, null where there is none; without `type`, everything is an image.
    rows: list[JsonValue] = [
        {"file_path": sample.media, "control_file_path": sample.control, "text": sample.caption, "type": kind}
        for sample in samples
    ]
    return {"metadata.json": _document(rows)}


def _diffsynth(samples: Sequence[Exported], kind: str) -> dict[str, str]:
    media, control = ("image", "controlnet_image") if kind == "image" else ("video", "control_video")
    rows: list[JsonValue] = []
    for sample in samples:
        # A key that is missing is skipped, where an empty value would be opened as a file.
        drawn: JsonObject = {} if sample.control is None else {control: sample.control}
        rows.append({"prompt": sample.caption, media: sample.media, **drawn})
    return {"metadata.json": _document(rows)}


def _moore(samples: Sequence[Exported], kind: str) -> dict[str, str]:
    rows: list[JsonValue] = [{"video_path": sample.media, "kps_path": sample.control} for sample in samples]
    return {"meta.json": _document(rows)}


def _none(samples: Sequence[Exported], kind: str) -> dict[str, str]:
    return {}


IMAGE, VIDEO = ("image",), ("video",)
FOLDERS = {
    "diffusers-controlnet": Layout(
        IMAGE,
        "train/images",
        "train/conditioning_images",
        False,
        "required",
        _diffusers,
        "diffusers' train_controlnet.py and train_t2i_adapter_sdxl.py: --train_data_dir FOLDER --image_column image "
        "--conditioning_image_column conditioning_image --caption_column text",
    ),
    "sd-scripts": Layout(
        IMAGE,
        "image",
        "pose",
        True,
        "required",
        _sd_scripts,
        "kohya sd-scripts, from within FOLDER: train_control_net.py --dataset_config dataset.toml",
    ),
    "musubi": Layout(
        (*IMAGE, *VIDEO),
        "media",
        "control",
        False,
        "optional",
        _musubi,
        "musubi-tuner, from within FOLDER: the cache scripts and the trainer with --dataset_config dataset.toml",
    ),
    "diffusion-pipe": Layout(
        IMAGE,
        "image",
        "pose",
        True,
        "required",
        _diffusion_pipe,
        "diffusion-pipe, from within FOLDER: dataset = 'dataset.toml' in the training's file",
    ),
    "videox-fun": Layout(
        (*IMAGE, *VIDEO),
        "train",
        "control",
        False,
        "optional",
        _videox_fun,
        "VideoX-Fun: --train_data_dir FOLDER --train_data_meta FOLDER/metadata.json",
    ),
    "diffsynth": Layout(
        (*IMAGE, *VIDEO),
        "media",
        "control",
        False,
        "optional",
        _diffsynth,
        "DiffSynth-Studio: --dataset_base_path FOLDER --dataset_metadata_path FOLDER/metadata.json --data_file_keys "
        "image,controlnet_image (of clips: video,control_video)",
    ),
    "moore": Layout(
        VIDEO,
        "video",
        "kps",
        False,
        "required",
        _moore,
        "Moore-AnimateAnyone and MusePose, from within FOLDER: meta_paths: [meta.json]",
    ),
    "coco": Layout(
        IMAGE,
        "data",
        "",
        False,
        "none",
        _none,  # needs keypoints: see `coco`
        "COCO keypoints: pycocotools, FiftyOne (COCODetectionDataset, label_types=['keypoints']), MMPose",
    ),
}
"""Targets that read files in folders."""

TARS = {
    "finetrainers": Layout(
        (*IMAGE, *VIDEO),
        "",
        "",
        False,
        "optional",
        _none,
        "finetrainers: an image or video dataset of type webdataset over FOLDER/shards, with rename_columns "
        '{"jpg": "image", "pose.png": "control_image"} or {"mp4": "video", "pose.mp4": "control_video"}',
    ),
    "huggingface": Layout(
        (*IMAGE, *VIDEO),
        "",
        "",
        False,
        "optional",
        _none,
        'datasets.load_dataset("webdataset", data_dir="FOLDER/shards")',
    ),
    "energon": Layout(
        (*IMAGE, *VIDEO),
        "",
        "",
        False,
        "optional",
        _none,
        "Megatron Energon: energon prepare --non-interactive --split-ratio 1,0,0 --sample-type CrudeWebdataset FOLDER",
    ),
}
"""Targets that read WebDataset tars: every sample has the same members, the skeleton among them."""
LAYOUTS = {**FOLDERS, **TARS}
