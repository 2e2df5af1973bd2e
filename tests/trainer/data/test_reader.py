"""Contract of reading a sample: image, skeleton and caption belong together after every crop, resize and flip; a
clip is made of the frames that were asked for; the same draw gives the same sample wherever it is read."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pytest

from lposekit.errors import LposekitError, UsageError
from lposekit.keypoints import KEYPOINT_FORMATS
from lposekit.shards.card import DatasetCard, claim_folder, update_card
from lposekit.shards.layout import DatasetLayout
from lposekit.shards.stats import ShardStats
from lposekit.shards.writer import ShardWriter
from lposekit.skeleton import drop_outside
from tests.support.memory_store import MemoryStore
from tests.support.train_data import clip_members, color_of, image_members, image_of, keypoints_of, write_dataset
from trainer.data.catalog import open_catalog, open_dataset_folder
from trainer.data.decode import (
    ClipPlan,
    DamagedSample,
    Framing,
    Skeleton,
    decode_clip,
    decode_training_image,
    jpeg_size,
)
from trainer.data.geometry import choose_geometry, window_over
from trainer.data.order import SampleRef
from trainer.data.random import SampleRandom
from trainer.data.reader import NoiseRecipe, SampleReader, SampleRecipe
from trainer.data.source import OpenFiles
from trainer.run.data import check_hashes

COCO = KEYPOINT_FORMATS["coco17"]


def random(visit: int = 0) -> SampleRandom:
    return SampleRandom(0, SampleRef(0, 0, 0, visit))


def reader_of(root: Path, **recipe: object) -> SampleReader:
    values = {"framing": Framing(64), "seed": 0, "skeleton": Skeleton(), **recipe}
    return SampleReader(open_catalog([root], "image"), SampleRecipe(**values))  # pyright: ignore


@pytest.mark.parametrize(("height", "width"), [(80, 64), (128, 256), (64, 64), (700, 200)])
@pytest.mark.parametrize("visit", range(4))
def test_keypoints_stay_on_what_they_mark_through_resize_crop_and_flip(height: int, width: int, visit: int):
    # white dots mark the keypoints; mutation: cropping keypoints by (top, left), or no flip, moves them off
    framing = Framing(64, "random", 0.5)
    jpeg = image_members(3, height, width)["jpg"]
    rgb_HWC, geometry = decode_training_image(jpeg, framing, random(visit))
    moved = geometry.keypoints(keypoints_of(3, height, width)[None], COCO)[0]
    background = np.array(color_of(3))
    seen = 0
    for x, y, score in moved:
        if score > 0 and 2 <= x < 62 and 2 <= y < 62:
            pixel = rgb_HWC[round(float(y)), round(float(x))].astype(int)
            assert np.abs(pixel - 255).sum() < np.abs(pixel - background).sum()
            seen += 1
    assert seen >= 3
    assert rgb_HWC.shape == (64, 64, 3)


def test_a_flip_swaps_left_and_right():
    keypoints = keypoints_of(1, 64, 64)
    flips = [choose_geometry(64, 64, 64, "center", flip, random()) for flip in (0.0, 1.0)]
    plain, flipped = (geometry.keypoints(keypoints[None], COCO)[0] for geometry in flips)
    left, right = COCO.names.index("left_wrist"), COCO.names.index("right_wrist")
    assert flipped[left, 0] == pytest.approx(63 - plain[right, 0])
    assert flipped[left, 1] == pytest.approx(plain[right, 1])


def test_a_large_jpeg_decoded_at_a_fraction_shows_the_same_image():
    random_pixels = np.random.default_rng(0).integers(0, 255, (20, 20, 3), np.uint8)
    smooth = cv2.resize(random_pixels, (512, 512), interpolation=cv2.INTER_CUBIC)
    jpeg = cv2.imencode(".jpg", smooth, [cv2.IMWRITE_JPEG_QUALITY, 98])[1].tobytes()
    reduced, _ = decode_training_image(jpeg, Framing(128), random())
    whole = cv2.cvtColor(cv2.resize(smooth, (128, 128), interpolation=cv2.INTER_AREA), cv2.COLOR_BGR2RGB)
    assert np.abs(reduced.astype(int) - whole).mean() < 3


def test_caption_image_and_noise_of_a_draw_are_always_the_same(tmp_path: Path):
    root = write_dataset(tmp_path / "data", [3, 3])
    for ref in (SampleRef(0, 1, 2, 0), SampleRef(0, 0, 0, 5)):
        one, two = (reader_of(root, framing=Framing(64, "random", 0.5)).read(ref) for _ in range(2))
        number = ref.shard * 3 + ref.row
        assert one.caption == f"image number {number}"
        assert np.array_equal(one.rgb_FHWC, two.rgb_FHWC)  # pyright: ignore
        assert np.array_equal(one.noise_CFHW, two.noise_CFHW)
        assert one.timestep == two.timestep


def test_two_visits_of_a_sample_differ_in_noise_and_timestep(tmp_path: Path):
    reader = reader_of(write_dataset(tmp_path / "data", [2]))
    one, two = (reader.read(SampleRef(0, 0, 0, visit)) for visit in (0, 1))
    assert not np.array_equal(one.noise_CFHW, two.noise_CFHW)
    assert one.timestep != two.timestep


def test_noise_is_standard_normal_and_timesteps_are_uniform(tmp_path: Path):
    reader = reader_of(write_dataset(tmp_path / "data", [2]))
    samples = [reader.read(SampleRef(0, 0, 0, visit)) for visit in range(300)]
    noise = np.stack([sample.noise_CFHW for sample in samples])
    assert abs(noise.mean()) < 0.02
    assert abs(noise.std() - 1) < 0.02
    assert 450 < np.mean([sample.timestep for sample in samples]) < 550
    assert max(sample.timestep for sample in samples) <= 999


def test_every_timestep_is_drawn_the_last_one_too(tmp_path: Path):
    # mutation tried: one timestep fewer
    reader = reader_of(write_dataset(tmp_path / "data", [1]), noise=NoiseRecipe(num_timesteps=3))
    assert {reader.read(SampleRef(0, 0, 0, visit)).timestep for visit in range(40)} == {0, 1, 2}


def test_the_noise_to_predict_is_not_the_one_that_draws_the_latent(tmp_path: Path):
    # mutation tried: both from one stream
    sample = reader_of(write_dataset(tmp_path / "data", [1])).read(SampleRef(0, 0, 0, 0))
    assert abs(np.corrcoef(sample.noise_CFHW.ravel(), sample.latent_noise_FCHW.ravel())[0, 1]) < 0.3


def test_captions_are_dropped_as_often_as_asked_for_and_by_numbers_of_their_own(tmp_path: Path):
    # mutations tried: `>` in place of `<`; the numbers that decide about the flip
    reader = reader_of(write_dataset(tmp_path / "data", [1]), caption_dropout=0.2, framing=Framing(64, flip=0.2))
    draws = [SampleRef(0, 0, 0, visit) for visit in range(400)]
    dropped = {draw for draw in draws if not reader.read(draw).caption}
    assert 50 < len(dropped) < 110
    assert dropped == {draw for draw in draws if SampleRandom(0, draw).stream("caption").random() < 0.2}
    assert dropped != {draw for draw in draws if SampleRandom(0, draw).stream("flip").random() < 0.2}


@pytest.mark.parametrize("flip", [0.0, 0.2, 1.0])
def test_images_are_flipped_as_often_as_asked_for(flip: float):
    # mutation tried: a share of 1 - flip
    flipped = [choose_geometry(80, 64, 64, "center", flip, random(visit)).flipped for visit in range(400)]
    assert abs(np.mean(flipped) - flip) < 0.06 * (0 < flip < 1) + 1e-9


def test_a_random_crop_reaches_both_ends_and_a_centred_one_is_in_the_middle():
    # mutations tried: the last place never drawn; a crop that is centred in one direction only
    geometries = [choose_geometry(67, 64, 64, "random", 0.0, random(visit)) for visit in range(60)]
    assert {geometry.top for geometry in geometries} == {0, 1, 2, 3}
    wide, high = (choose_geometry(*size, 64, "center", 0.0, random()) for size in ((64, 84), (84, 64)))
    assert [(each.top, each.left) for each in (wide, high)] == [(0, 10), (10, 0)]


def test_offset_noise_shifts_whole_channels(tmp_path: Path):
    root = write_dataset(tmp_path / "data", [2])
    plain = reader_of(root).read(SampleRef(0, 0, 0, 0)).noise_CFHW
    offset = reader_of(root, noise=NoiseRecipe(offset_noise=0.5)).read(SampleRef(0, 0, 0, 0)).noise_CFHW
    shift = (offset - plain).reshape(4, -1)
    assert shift.std(axis=1).max() < 1e-6
    assert np.abs(shift.mean(axis=1)).max() > 0.1


def test_a_clip_holds_the_frames_that_were_asked_for():
    # frame f is grey of level 10 f; mutation: counting decoded frames from the key frame on shifts them
    members = clip_members(0)
    for wanted in ([0, 3, 6], [13, 15, 17], [19], [5, 5, 5], [11, 12, 13]):
        clip = decode_clip(members["mp4"], np.array(wanted), Framing(64), random())
        levels = clip[:, 40:, 40:].mean(axis=(1, 2, 3)) / 10
        assert np.allclose(levels, wanted, atol=0.4)


def test_a_clip_that_ends_early_or_is_no_video_is_named_damaged():
    mp4 = clip_members(0, num_frames=6)["mp4"]
    with pytest.raises(DamagedSample):
        decode_clip(mp4, np.array([7]), Framing(64), random())
    for cut in (0, 10, len(mp4) // 2):
        with pytest.raises(DamagedSample):
            decode_clip(mp4[:cut], np.array([0, 5]), Framing(64), random())


@pytest.mark.parametrize(
    ("plan", "num_frames", "fps", "stride"),
    [
        (ClipPlan(8, 4), 100, 25.0, 4),
        (ClipPlan(8, 4), 20, 25.0, 2),
        (ClipPlan(4, 1, stride_s=0.2), 100, 30.0, 6),
        (ClipPlan(4, 1, stride_s=0.2), 100, 10.0, 2),
    ],
)
def test_a_clip_keeps_its_stride_or_takes_the_largest_that_fits(
    plan: ClipPlan, num_frames: int, fps: float, stride: int
):
    for visit in range(20):
        frames = plan.indices(num_frames, fps, random(visit))
        assert set(np.diff(frames)) == {stride}
        assert 0 <= frames[0] <= frames[-1] < num_frames


def test_a_source_with_fewer_frames_than_the_clip_repeats_its_last():
    assert ClipPlan(5, 2).indices(3, 25.0, random()).tolist() == [0, 1, 2, 2, 2]


def test_an_image_that_is_none_is_named_damaged():
    for data in (b"", b"\xff\xd8\xff", b"not a jpeg at all", image_members(0)["jpg"][:200]):
        with pytest.raises(DamagedSample):
            decode_training_image(data, Framing(64), random())
    assert jpeg_size(image_members(0, 96, 64)["jpg"]) == (96, 64)


def test_a_dataset_without_a_needed_member_is_refused(tmp_path: Path):
    root = write_dataset(tmp_path / "clips", [2], "video")
    card = root / "_dataset/dataset.json"
    card.write_text(card.read_text().replace('"video"', '"image"'))
    with pytest.raises(LposekitError, match="has no member 'jpg'"):
        open_dataset_folder(root)


def test_a_folder_that_is_no_dataset_is_refused(tmp_path: Path):
    with pytest.raises(LposekitError, match="no dataset card"):
        open_dataset_folder(tmp_path)
    with pytest.raises(UsageError, match="--data"):
        open_catalog([], "image")


def test_clips_stored_as_images_are_refused_with_the_way_to_store_them(tmp_path: Path):
    # mutation tried: without the check, "has no member 'mp4' ... Build the shard again"
    layout = DatasetLayout(tmp_path)
    claim_folder(layout, DatasetCard(kind="video", fixed={}))
    writer = ShardWriter(layout, 0, "test")
    frames = {f"{frame:06d}.jpg": image_members(frame)["jpg"] for frame in range(2)}
    writer.add("000000000000", {**frames, "json": b"{}", "txt": b"a clip"})
    writer.commit(pa.table({"key": ["000000000000"]}), ShardStats(count=1, outcomes={"kept": 1}))
    update_card(layout)
    with pytest.raises(UsageError, match=r"was built with --encode.format frames.*Build it with --encode.format mp4"):
        open_catalog([tmp_path], "video")


@dataclass(frozen=True)
class Alone:
    """One of several processes, as if the others found nothing."""

    rank: int
    size: int

    def gather(self, value: object) -> list[object]:
        return [value]


def test_processes_share_the_hashing_and_read_only_through_the_store(tmp_path: Path):
    # mutations tried: `mine` of all shards on rank 0; a hash of the folder's files instead of the store's
    (dataset,) = open_catalog([write_dataset(tmp_path / "data", [2, 2, 2, 0, 1])], "image")
    files = {shard.tar_name: (tmp_path / "data" / shard.tar_name).read_bytes() for shard in dataset.shards}
    for name in files:
        (tmp_path / "data" / name).unlink()
    hashed = []
    for rank in range(2):
        store = MemoryStore(files)
        check_hashes([replace(dataset, source=OpenFiles(store))], Alone(rank, 2))  # pyright: ignore
        assert all(store.read_bytes[name] == len(files[name]) for name in store.read_bytes)
        hashed.append(sorted(store.read_bytes))
    assert hashed == [["00000.tar", "00002.tar", "00004.tar"], ["00001.tar", "00003.tar"]]
    files["00003.tar"] = files["00003.tar"][:-1] + b"x"
    check_hashes([replace(dataset, source=OpenFiles(MemoryStore(files)))], Alone(0, 2))  # pyright: ignore
    with pytest.raises(LposekitError, match=r"shard 00003 of .* other bytes"):
        check_hashes([replace(dataset, source=OpenFiles(MemoryStore(files)))], Alone(1, 2))  # pyright: ignore


def test_a_person_crop_lies_over_as_many_keypoints_as_it_can():
    # mutations tried: a window one pixel short; the first of the best places; the centre whatever is detected
    def left_of(*x: float, length: int = 200) -> int:
        return window_over(np.array(x, np.float32), 100, length)

    assert left_of() == 50, "nobody: the middle"
    assert left_of(90, 110) == 50, "the middle holds all of them, in its own middle"
    assert left_of(10, 99) == 4, "all of them, as far from both ends as from each other's"
    assert left_of(150, 199) == 100, "no farther than the image goes"
    assert left_of(0, 20, 101, 150, 199) == 100, "the larger group"
    assert left_of(10, 20, 150, 160) == 100, "of equal groups, the one next to the middle"
    assert left_of(-5, 250, 90) == 40, "what lies outside does not count"


def test_a_person_crop_keeps_head_and_feet_that_the_centre_cuts():
    # mutation tried: keypoints in the source's pixels, not in those of the resized image
    tall = np.zeros((17, 3), np.float32)
    tall[:, 0], tall[:, 1], tall[:, 2] = 60, np.linspace(5, 120, 17), 1
    tall[16, 1:] = 250, 0.1  # not detected
    for height, width, turn in ((256, 128, False), (128, 256, True)):
        keypoints = tall[:, [1, 0, 2]] if turn else tall
        geometry = choose_geometry(height, width, 64, "person", 0.0, random(), keypoints[keypoints[:, 2] >= 0.5, :2])
        inside = drop_outside(geometry.keypoints(keypoints, COCO), 64, 64)
        assert (inside[:16, 2] > 0).all()
        assert (geometry.left if turn else geometry.top) < 5
        assert (geometry.top if turn else geometry.left) == 0


def test_a_sample_of_a_person_crop_has_its_skeleton_where_its_persons_are(tmp_path: Path):
    data = write_dataset(tmp_path / "data", [2], height=160, width=64)
    sample = reader_of(data, framing=Framing(64, "person")).read(SampleRef(0, 0, 1, 0))
    pose = keypoints_of(1, 160, 64)
    top = window_over(pose[:, 1], 64, 160)
    assert sample.rgb_FHWC is not None
    assert sample.skeleton_FHWC is not None
    np.testing.assert_allclose(sample.rgb_FHWC[0].astype(int), image_of(1, 160, 64)[top : top + 64], atol=90)
    kept = [(x, y - top) for x, y, _ in pose if 2 <= y - top < 62]
    assert np.mean([sample.skeleton_FHWC[0, int(y), int(x)].any() for x, y in kept]) > 0.5
