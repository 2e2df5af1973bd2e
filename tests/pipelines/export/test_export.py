"""Contract of `lposekit export` of datasets: each target finds images, skeletons and captions where its own code looks
for them; a skeleton has the size (and the frames and the rate) of what it belongs to; what cannot be exported is left
out and counted; the same command continues an export, and never mixes two.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
import tomllib
from collections import Counter
from pathlib import Path

import av
import cv2
import numpy as np
import numpy.typing as npt
import pytest
from pycocotools.coco import COCO

from lposekit.cli import main
from lposekit.errors import UsageError
from lposekit.pose.stub import NUM_BITS, SQUARE_PX, encode_bits
from lposekit.shards.dataset import open_dataset
from pipelines.export.layouts import FOLDERS, LAYOUTS, TARS
from pipelines.export.run import ExportReport, export_dataset
from pipelines.export.settings import ExportSettings
from pipelines.recipes import build_poses, build_videos
from pipelines.video.clips.settings import ClipSettings, EncodeSettings, ShotSettings
from pipelines.video.poses.settings import PosesSettings, VideoPoseSettings
from tests.support.datasets import make_photo_dataset
from tests.support.execute_here import execute_here
from tests.support.fixtures import fixture_path
from tests.support.video_build import listed
from tests.support.videos import moving, write_video

SIZES = [(320, 240), (321, 241), (258, 131), (257, 300)]
"""Of the source videos; some are odd."""
CLIP_FRAMES = 5


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_photo_dataset(tmp_path_factory.mktemp("images") / "d", fixture_path("data/images"), 12, 6).root


def frame(number: int, size: tuple[int, int], persons: int) -> npt.NDArray[np.uint8]:
    """A frame whose upper edge tells the stub pose model what to answer."""
    rgb_HWC = moving(number, size=size)
    for i, bit in enumerate(encode_bits(persons, 17, "well", number % 64)):
        rgb_HWC[: SQUARE_PX + 4, i * SQUARE_PX : (i + 1) * SQUARE_PX] = 255 * bit
    assert size[0] >= NUM_BITS * SQUARE_PX
    return rgb_HWC


def build_clips(folder: Path, num_videos: int, clips_each: int) -> tuple[Path, Path]:
    """Clips of five frames and one of a single frame from each video, and the folder of their poses. In every fourth
    video there is nobody."""
    rows = []
    for number in range(num_videos):
        size = SIZES[number % len(SIZES)]
        num_frames = CLIP_FRAMES * (clips_each - 1) + 1
        images = [frame(at, size, persons=int(number % 4 != 3)) for at in range(num_frames)]
        write_video(folder / f"{number}.mp4", images, 20, codec="mpeg4")
        rows.append({"path": str(folder / f"{number}.mp4"), "caption": f"somebody\nwalks, number {number}"})
    settings = listed(
        folder,
        rows,
        rows_per_shard=3,
        clips=ClipSettings(length_frames=CLIP_FRAMES, min_length_frames=1, cut_margin_frames=0),
        shots=ShotSettings(detector="none"),
        encode=EncodeSettings(preset="ultrafast"),
    )
    assert build_videos(settings, execute=execute_here).num_samples == num_videos * clips_each
    poses = PosesSettings(
        input=(str(folder / "d"),),
        output=folder / "poses",
        detector="stub",
        pose_model="stub",
        smooth="none",
        pose=VideoPoseSettings(batch_size=8),
    )
    build_poses(poses, execute=execute_here)
    return folder / "d", folder / "poses"


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return build_clips(tmp_path_factory.mktemp("clips"), num_videos=4, clips_each=3)


def export(source: Path, target: str, output: Path, **changes: object) -> ExportReport:
    return export_dataset(ExportSettings(source=source, to=target, output=output, **changes))  # type: ignore[arg-type]


def frames_of(path: Path) -> tuple[int, int, int, float]:
    """Width, height, decoded frames and rate."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        count = sum(1 for _ in container.decode(video=0))
        assert stream.average_rate is not None
        return stream.width, stream.height, count, float(stream.average_rate)


def pairs_of(target: str, folder: Path) -> list[tuple[Path, Path | None, str]]:
    """Image or clip, skeleton and caption of every sample, as the target's own code looks them up."""
    layout = FOLDERS[target]
    if target == "diffusers-controlnet":
        rows = [json.loads(line) for line in (folder / "train/metadata.jsonl").read_text().splitlines()]
        names = ("file_name", "conditioning_image_file_name", "text")
        found = [tuple(row[name] for name in names) for row in rows]
        return [(folder / "train" / media, folder / "train" / control, text) for media, control, text in found]
    if target in ("sd-scripts", "diffusion-pipe"):
        config = tomllib.loads((folder / "dataset.toml").read_text())
        where = config["directory"][0] if target == "diffusion-pipe" else config["datasets"][0]["subsets"][0]
        media_dir = folder / (where.get("path") or where["image_dir"])
        control_dir = folder / (where.get("control_path") or where["conditioning_data_dir"])
        medias = sorted(path for path in media_dir.iterdir() if path.suffix != ".txt")
        controls = {path.stem: path for path in control_dir.iterdir()}
        assert len(controls) == len(medias), "a skeleton too many stops sd-scripts"
        return [(path, controls[path.stem], path.with_suffix(".txt").read_text().rstrip("\n")) for path in medias]
    if target == "musubi":
        config = tomllib.loads((folder / "dataset.toml").read_text())["datasets"][0]
        kind = "image" if "image_jsonl_file" in config else "video"
        rows = [json.loads(line) for line in (folder / config[f"{kind}_jsonl_file"]).read_text().splitlines()]
        keys = (f"{kind}_path", "control_path", "caption")
    else:
        name = "meta.json" if target == "moore" else "metadata.json"
        rows = json.loads((folder / name).read_text())
        is_image = any("image" in row or row.get("type") == "image" for row in rows)
        keys = {
            "videox-fun": ("file_path", "control_file_path", "text"),
            "diffsynth": ("image", "controlnet_image", "prompt") if is_image else ("video", "control_video", "prompt"),
            "moore": ("video_path", "kps_path", ""),
        }[target]
    assert layout.needs != "none"
    controls = [row.get(keys[1]) for row in rows]
    return [
        (folder / row[keys[0]], folder / control if control else None, row.get(keys[2], ""))
        for row, control in zip(rows, controls, strict=True)
    ]


# Mutations: the skeleton drawn at another size; `train/` left in the metadata's paths; captions of several lines.
@pytest.mark.parametrize("target", [name for name, each in FOLDERS.items() if "image" in each.kinds and name != "coco"])
def test_every_image_has_its_own_bytes_a_skeleton_of_its_size_and_its_caption(
    images: Path, tmp_path: Path, target: str
) -> None:
    report = export(images, target, tmp_path / "out")
    samples = {sample.key: sample for sample in open_dataset(images)}
    pairs = pairs_of(target, tmp_path / "out")
    assert len(pairs) == len(samples) == report.exported
    for media, control, caption in pairs:
        sample = samples[media.stem]
        assert media.read_bytes() == sample.members["jpg"]
        assert control is not None
        drawn_HWC = cv2.imread(str(control))
        assert drawn_HWC is not None
        assert np.array_equal(drawn_HWC[..., ::-1], sample.skeleton("openpose18"))
        assert caption == " ".join(sample.caption.split())
    card = (tmp_path / "out" / "README.md").read_text()
    rows = open_dataset(images).rows()
    assert f"| samples | {len(samples)} |" in card
    # Mutation tried: licences of all rows counted, not of the kept ones -> red.
    name = next(name for name in rows.column_names if name.lower() in ("licence", "license"))
    licences = [row[name] for row in rows.to_pylist() if row["outcome"] == "kept"]
    told = {line for line in card.splitlines() if line.startswith("- ")}
    assert told == {f"- {licence or 'not stated'}: {count} rows" for licence, count in Counter(licences).items()}


# Mutations: control clips of one frame less; without the source's rate; the list written with absolute paths.
@pytest.mark.parametrize("target", [name for name, each in FOLDERS.items() if "video" in each.kinds])
def test_a_clip_and_its_skeletons_have_equal_frames_rate_and_size(
    clips: tuple[Path, Path], tmp_path: Path, target: str
) -> None:
    report = export(clips[0], target, tmp_path / "out", poses=clips[1])
    assert (report.exported, report.skipped) == (9, {"no_person": 3})
    pairs = pairs_of(target, tmp_path / "out")
    assert len(pairs) == 9
    for media, control, _ in pairs:
        assert control is not None
        width, height, count, _rate = frames_of(media)
        assert frames_of(media) == frames_of(control)
        assert (width % 2, height % 2) == (0, 0)
        assert count in (1, CLIP_FRAMES)
    assert str(tmp_path) not in "".join(p.read_text() for p in (tmp_path / "out").glob("*.json*"))


@pytest.mark.more
def test_a_hundred_clips_and_their_skeletons_match_one_frame_and_odd_sizes_included(tmp_path: Path) -> None:
    # Mutation tried: sides made even in the control alone -> `mismatch`.
    clips, poses = build_clips(tmp_path, num_videos=20, clips_each=7)
    report = export(clips, "videox-fun", tmp_path / "out", poses=poses)
    pairs = pairs_of("videox-fun", tmp_path / "out")
    assert report.exported == len(pairs) == 105
    matching = [frames_of(media) == frames_of(control) for media, control, _ in pairs if control]
    assert matching == [True] * 105
    assert {frames_of(media)[2] for media, _, _ in pairs} == {1, CLIP_FRAMES}


def test_poses_of_other_clips_are_never_drawn_over_these(
    clips: tuple[Path, Path], tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    # Mutation tried: no comparison in `draw_clip` -> the skeletons have another length than their clip.
    folder = tmp_path_factory.mktemp("others")
    others = build_clips(folder, num_videos=1, clips_each=2)
    report = export(others[0], "moore", tmp_path / "out", poses=clips[1])
    assert report.exported + sum(report.skipped.values()) == 2
    assert report.skipped == {"mismatch": 1}, "the second clip has one frame, where the other one's has five"


def test_clips_without_poses_go_to_targets_that_can_do_without(clips: tuple[Path, Path], tmp_path: Path) -> None:
    # Mutation tried: null left out of VideoX-Fun's list -> its class raises KeyError, and so does this.
    report = export(clips[0], "videox-fun", tmp_path / "out")
    rows = json.loads((tmp_path / "out" / "metadata.json").read_text())
    assert report.exported == len(rows) == 12
    assert {(row["control_file_path"], row["type"]) for row in rows} == {(None, "video")}
    with pytest.raises(UsageError, match=r"lposekit pose --input .* --poses POSES"):
        export(clips[0], "moore", tmp_path / "moore")
    assert not (tmp_path / "moore").exists()


def test_coco_labels_are_read_by_pycocotools_and_hold_the_stored_persons(images: Path, tmp_path: Path) -> None:
    # Mutations tried: joints counted from zero in the limbs; undetected joints with a place.
    export(images, "coco", tmp_path / "out")
    coco = COCO(str(tmp_path / "out" / "labels.json"))
    dataset = open_dataset(images)
    threshold = dict(dataset.card.keep_rule or {})["keypoint_score_threshold"]
    persons = [person for sample in dataset for person in sample.persons]
    annotations = coco.loadAnns(coco.getAnnIds())
    assert len(annotations) == len(persons)
    for annotation, person in zip(annotations, persons, strict=True):
        points_K3 = np.array(annotation["keypoints"], float).reshape(17, 3)
        labelled_K = person.keypoints_K3[:, 2] >= threshold
        assert np.array_equal(points_K3[:, 2] == 2, labelled_K)
        assert np.abs(points_K3[labelled_K, :2] - person.keypoints_K3[labelled_K, :2]).max() < 0.01
        assert not points_K3[~labelled_K].any()
        assert annotation["num_keypoints"] == labelled_K.sum()
    [category] = coco.loadCats(coco.getCatIds())
    limbs = {frozenset(category["keypoints"][joint - 1] for joint in limb) for limb in category["skeleton"]}
    assert {frozenset({"left_elbow", "left_wrist"}), frozenset({"right_hip", "right_knee"})} <= limbs
    for image in coco.loadImgs(coco.getImgIds()):
        assert cv2.imread(str(tmp_path / "out" / "data" / image["file_name"])).shape[:2] == (
            image["height"],
            image["width"],
        )


# Mutation: the skeleton left out of the second sample on.
@pytest.mark.parametrize("target", list(TARS))
def test_every_sample_of_a_tar_has_the_same_members(
    images: Path, clips: tuple[Path, Path], tmp_path: Path, target: str
) -> None:
    for name, source, poses, control in (("i", images, None, "pose.png"), ("c", clips[0], clips[1], "pose.mp4")):
        report = export(source, target, tmp_path / name, poses=poses)
        members: dict[str, set[str]] = {}
        for tar_path in sorted((tmp_path / name / "shards").glob("*.tar")):
            with tarfile.open(tar_path) as tar:
                for member in tar:
                    key, _, suffix = member.name.partition(".")
                    members.setdefault(key, set()).add(suffix)
        assert len(members) == report.exported
        assert len({frozenset(suffixes) for suffixes in members.values()}) == 1
        assert control in next(iter(members.values()))


def digest(folder: Path) -> dict[str, str]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.mark.parametrize("target", ["videox-fun", "huggingface"])
def test_an_export_that_was_cut_off_is_continued_to_the_same_files(
    clips: tuple[Path, Path], tmp_path: Path, target: str
) -> None:
    # Mutation tried: lists written before the files -> a list names what is not there.
    export(clips[0], target, tmp_path / "whole", poses=clips[1])
    whole = digest(tmp_path / "whole")
    export(clips[0], target, tmp_path / "cut", poses=clips[1])
    for name in ["README.md", *[each for each in whole if each.endswith(("metadata.json", ".tar"))]]:
        (tmp_path / "cut" / name).unlink()
    for path in sorted((tmp_path / "cut").rglob("*.mp4"))[::2]:
        path.unlink()
    export(clips[0], target, tmp_path / "cut", poses=clips[1])
    assert digest(tmp_path / "cut") == whole


def test_a_folder_with_anything_else_in_it_is_refused(images: Path, tmp_path: Path) -> None:
    # Mutation tried: `_claim` that compares nothing -> two styles in one folder.
    export(images, "coco", tmp_path / "out")
    with pytest.raises(UsageError, match=r"holds another export \(style differ"):
        export(images, "coco", tmp_path / "out", style="followyourpose")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("\\documentclass")
    with pytest.raises(UsageError, match="is no export"):
        export(images, "coco", tmp_path / "mine")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.tex"]


def test_the_command_names_targets_that_fit_and_a_dry_run_writes_nothing(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["export", str(images), "--to", "moore", "--output", "out"]) == 2
    assert "takes datasets of clips" in capsys.readouterr().err
    assert main(["export", str(images), "--to", "coco", "--output", "out", "--dry-run"]) == 0
    assert "would export" in capsys.readouterr().out
    assert main(["export", str(images), "--output", "out"]) == 2
    assert "--to NAME" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert main(["export", str(images), "--to", "coco", "--output", "out", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["exported"] == len(open_dataset(images))
    assert set(LAYOUTS) == set(FOLDERS) | set(TARS)


def test_webdataset_reads_the_tars(images: Path, tmp_path: Path) -> None:
    import webdataset

    export(images, "huggingface", tmp_path / "out")
    shards = sorted(map(str, (tmp_path / "out" / "shards").glob("*.tar")))
    read = list(webdataset.WebDataset(shards, shardshuffle=False))
    assert [sample["__key__"] for sample in read] == [sample.key for sample in open_dataset(images)]
    assert cv2.imdecode(np.frombuffer(read[0]["pose.png"], np.uint8), 1).any()
    assert io.BytesIO(read[0]["jpg"]).read(2) == b"\xff\xd8"
