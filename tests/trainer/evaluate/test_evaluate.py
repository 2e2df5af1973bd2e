"""Contract of `lposekit evaluate`: pairs are drawn from a dataset by a seed, a run draws them, and what it drew is
judged as the results of any other system; what is missing is said at once, and a stopped evaluation goes on to the same
bytes."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from lposekit.cli import main
from lposekit.errors import LposekitError, UsageError
from lposekit.pose.tracks import MEMBER, PersonTrack, PoseTracks, encode_tracks, persons_at
from lposekit.shards.card import DatasetCard, claim_folder, update_card
from lposekit.shards.dataset import open_dataset, read_members
from lposekit.shards.layout import DatasetLayout
from lposekit.shards.stats import ShardStats
from lposekit.shards.tables import shard_table
from lposekit.shards.writer import ShardWriter
from tests.support.children import children
from tests.support.sample_runs import trained
from tests.support.small_clip import small_clip
from tests.support.train_runs import clips, scratch, small_base
from trainer.evaluate.draw import sample_settings
from trainer.evaluate.pairs import make_pairs
from trainer.evaluate.protocol import encode_protocol, read_protocol
from trainer.evaluate.real import RealFrames
from trainer.evaluate.results import Results
from trainer.evaluate.settings import EvaluateSettings
from trainer.inference.output import write_frames
from trainer.run.walker import walker_keypoints
from trainer.smallworld.datasets import write_images

pytestmark = pytest.mark.timeout(480)
PAIRS = 6


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def world() -> Path:
    """A dataset of the small world: images with captions and poses."""
    folder = scratch() / "world-images"
    write_images(folder, seed=3, split="train", count=10)
    return folder


def words_of(*arguments: str | Path, data: Path | None, output: str = "out", pose: str = "none") -> list[str]:
    """A command that evaluates few pairs."""
    words = ["evaluate", "--output", output, "--pose-model", pose, "--compute.threads", "1", "--drawing.steps", "2"]
    words += [] if data is None else ["--data", str(data), "--pairs", str(PAIRS)]
    return [*words, *(str(word) for word in arguments)]


def evaluate(*arguments: str | Path, data: Path | None, output: str = "out", pose: str = "none") -> int:
    """The exit code of `lposekit evaluate`."""
    return main(words_of(*arguments, data=data, output=output, pose=pose))


def run_words(data: Path, output: str, *arguments: str | Path) -> list[str]:
    """The command for a run of stage 1 and two frames a pair."""
    words = ("--run", trained(1), "--base", small_base(), "--num-frames", "2")
    return words_of(*words, *arguments, data=data, output=output)


def of_run(*arguments: str | Path, data: Path, output: str = "out") -> int:
    return main(run_words(data, output, *arguments))


def found(output: str = "out") -> dict[str, Any]:
    return json.loads(Path(output, "evaluation.json").read_bytes())


def real_results(data: Path, folder: str, change: Any = lambda rgb_HWC: rgb_HWC) -> Path:
    """The images of a dataset as a system's results."""
    Path(folder).mkdir()
    for sample in open_dataset(data):
        cv2.imwrite(f"{folder}/{sample.key}.png", change(sample.rgb_HWC)[..., ::-1])
    return Path(folder)


# --- the protocol ----------------------------------------------------------------------------------------------------


def test_the_same_dataset_and_seed_give_the_same_protocol_and_another_seed_another_one(world: Path) -> None:
    # Mutation tried: samples in their order, whatever the seed.
    frames = real_results(world, "frames")
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        assert evaluate("--frames", frames, "--seed", str(seed), data=world, output=name) == 0
    a, b, c = (Path(name, "protocol.jsonl").read_bytes() for name in "abc")
    assert a == b != c
    protocol = read_protocol(Path("a/protocol.jsonl"))
    keys = [pair.key for pair in protocol.pairs]
    assert len(keys) == PAIRS
    assert keys == sorted(keys) != [pair.key for pair in read_protocol(Path("c/protocol.jsonl")).pairs]
    assert len({pair.seed for pair in protocol.pairs}) == PAIRS
    assert protocol.pairs[0].prompt.startswith("a ")


def test_a_protocol_that_is_there_is_read_and_needs_no_dataset(world: Path) -> None:
    # Mutation tried: made again although it is there.
    frames = real_results(world, "frames")
    assert evaluate("--frames", frames, "--protocol", "pairs.jsonl", data=world) == 0
    written = Path("pairs.jsonl").read_bytes()
    assert evaluate("--frames", frames, "--protocol", "pairs.jsonl", data=None, output="again") == 0
    assert Path("pairs.jsonl").read_bytes() == written
    assert found()["protocol"] == found("again")["protocol"]


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        (b'"key":"', b'"key":"../', "cannot be a key"),
        (b'"key":"', b'"key":"made_from","was":"', "cannot be a key"),
        (b'"num_frames":1,"keypoint', b'"num_frames":99999999,"keypoint', "more poses than a protocol may hold"),
        (b'"pairs":6', b'"pairs":7', "cut short"),
        (b'"schema":1', b'"schema":9', "schema 9"),
        (b'"seed"', b"{", "no JSON object"),
        (b'"keypoints":[', b'"keypoints":[[],', "keypoints"),
    ],
)
def test_a_damaged_protocol_is_refused(world: Path, capsys: Any, old: bytes, new: bytes, says: str) -> None:
    # Mutations tried: keys taken as they are, that of our own file among them; poses of all pairs not bounded.
    frames = real_results(world, "frames")
    assert evaluate("--frames", frames, data=world) == 0
    path = Path("out/protocol.jsonl")
    path.write_bytes(path.read_bytes().replace(old, new, 1))
    assert evaluate("--frames", frames, "--protocol", path, data=None, output="again") in (1, 2)
    assert re.search(f"protocol.jsonl.*{says}", capsys.readouterr().err)


def test_clips_whose_poses_are_not_known_are_refused(capsys: Any) -> None:
    # Mutation tried: without the check, no pair fits.
    assert evaluate("--frames", ".", data=clips()) == 2
    assert "lposekit pose" in capsys.readouterr().err


# --- what is judged --------------------------------------------------------------------------------------------------


def test_the_real_frames_themselves_get_the_best_scores(world: Path) -> None:
    assert evaluate("--frames", real_results(world, "frames"), "--clip", small_clip(), data=world) == 0
    scores = found()["scores"]
    assert scores["pixels"]["l1"]["mean"] == 0
    assert scores["pixels"]["psnr"]["mean"] == 100
    assert scores["pixels"]["ssim"]["mean"] == pytest.approx(1)
    assert scores["clip"]["text"] == scores["clip"]["real"]["text"]
    assert scores["motion"]["flicker"] is None  # single images


def test_shuffled_captions_lower_the_clip_score(world: Path) -> None:
    # Mutation tried: the first image in place of the text.
    frames = real_results(world, "frames")
    assert evaluate("--frames", frames, "--clip", small_clip(), "--protocol", "right.jsonl", data=world) == 0
    head, *pairs = [json.loads(line) for line in Path("right.jsonl").read_text().splitlines()]
    prompts = [pair["prompt"] for pair in pairs]
    for pair, prompt in zip(pairs, prompts[1:] + prompts[:1], strict=True):
        pair["prompt"] = prompt
    Path("shuffled.jsonl").write_text("".join(json.dumps(line) + "\n" for line in [head, *pairs]))
    words = ("--frames", frames, "--clip", small_clip(), "--protocol", "shuffled.jsonl")
    assert evaluate(*words, data=None, output="shuffled") == 0
    right, shuffled = (found(name)["scores"]["clip"]["text"]["mean"] for name in ("out", "shuffled"))
    assert shuffled < right - 20


def held(world: Path) -> Path:
    """Clips of three equal frames, the images of a dataset."""
    real_results(world, "single")
    for image in Path("single").iterdir():
        (Path("frames") / image.stem).mkdir(parents=True)
        for number in (1, 2, 10):
            shutil.copy(image, Path("frames") / image.stem / f"{number}.png")
    return Path("frames")


def test_equal_frames_are_consistent_and_do_not_flicker(world: Path) -> None:
    # Mutation tried: the diagonal left in the mean over pairs.
    assert evaluate("--frames", held(world), "--clip", small_clip(), "--num-frames", "3", data=world) == 0
    scores = found()["scores"]
    assert scores["clip"]["consecutive"]["mean"] == pytest.approx(1)
    assert scores["clip"]["pairwise"]["mean"] == pytest.approx(1)
    assert scores["motion"]["flicker"]["mean"] == 0
    assert "pixels" not in scores
    assert any("no real clip shows" in why for why in found()["left_out"].values())
    words = ("--frames", "frames", "--protocol", "out/protocol.jsonl", "--real", world)
    assert evaluate(*words, data=None, output="b") == 2


def test_definitions_of_disco_are_others_and_are_named(world: Path) -> None:
    # Mutation tried: `definitions` not passed on.
    frames = real_results(world, "frames", lambda rgb_HWC: rgb_HWC // 2)
    assert evaluate("--frames", frames, data=world) == 0
    assert evaluate("--frames", frames, "--definitions", "disco", data=world, output="disco") == 0
    usual, disco = found()["scores"]["pixels"], found("disco")["scores"]["pixels"]
    assert disco["l1"]["mean"] == pytest.approx(usual["l1"]["mean"] * 255 / 64**2)
    assert disco["psnr"] == usual["psnr"]
    assert disco["ssim"]["mean"] != usual["ssim"]["mean"]
    assert found("disco")["judged_with"]["pixels"] == {"definitions": "disco"}


def test_results_that_are_missing_or_of_another_length_are_named(world: Path, capsys: Any) -> None:
    # Mutation tried: pairs without a result left out.
    frames = real_results(world, "frames")
    first = next(iter(sorted(frames.iterdir())))
    assert evaluate("--frames", frames, "--num-frames", "2", data=world) == 1
    assert "1 frames; the protocol asks for 2" in capsys.readouterr().err
    for path in list(frames.iterdir()):
        path.rename(path.with_name(f"x{path.name}"))
    assert evaluate("--frames", frames, data=world, output="b") == 2
    assert re.search(r"no result for 6 of 6 pairs \(\d{9}, \d{9}, \d{9}, \.\.\.\)", capsys.readouterr().err)
    assert first.suffix == ".png"


@pytest.mark.parametrize("in_folder", [False, True])
def test_a_link_among_the_results_is_refused(world: Path, capsys: Any, in_folder: bool) -> None:
    # Mutation tried: links followed -> the private image lies in the report.
    frames = real_results(world, "frames")
    for path in list(frames.iterdir()):
        private = path.rename(f"private-{path.name}").resolve()
        link = path.with_suffix("") / "0.png" if in_folder else path
        link.parent.mkdir(exist_ok=True)
        link.symlink_to(private)
    assert evaluate("--frames", frames, data=world) == 1
    assert re.search(r"frames: \S*\.png is a link", capsys.readouterr().err)
    assert not Path("out/report.html").exists()


@pytest.mark.parametrize(("size", "says"), [((4097, 16), "4097 x 16 pixels are too large"), ((4096, 2), "too small")])
def test_results_are_of_a_bounded_size(world: Path, capsys: Any, size: tuple[int, int], says: str) -> None:
    # Mutation tried: no bound.
    frames = real_results(world, "frames")
    for path in frames.iterdir():
        Image.new("RGB", size).save(path)
    assert evaluate("--frames", frames, data=world) == 1
    assert says in capsys.readouterr().err


def test_the_frames_of_a_pair_are_bounded_together(
    tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Mutation tried: sides bounded alone.
    _, pairs = make_pairs(poses_of_clips(tmp_path / "poses"), EvaluateSettings(num_frames=4))
    monkeypatch.setattr("trainer.evaluate.results.MAX_FRAMES_BYTES", 4 * 64 * 64 * 3 - 1)
    write_frames(Path("frames") / pairs[0].key, np.zeros((4, 64, 64, 3), np.uint8), "frames", 8)
    with pytest.raises(LposekitError, match="4 frames of 64 x 64 pixels are more than 49151 bytes"):
        Results(Path("frames")).frames(pairs[0])


# --- poses of clips --------------------------------------------------------------------------------------------------


def poses_of_clips(root: Path, num_frames: int = 20) -> Path:
    """A dataset of poses for the clips of `tests.support.train_runs.clips`, as `lposekit pose` writes it: a figure that
    walks, and captions in the table alone."""
    layout = DatasetLayout(root)
    layout.meta.mkdir(parents=True)
    claim_folder(layout, DatasetCard.from_json({"kind": "poses", "fixed": {}, "keypoint_format": "coco17"}))
    for shard in open_dataset(clips()).shards:
        writer, rows = ShardWriter(layout, shard.shard, "test"), []
        for key in shard.keys.tolist():
            writer.add(key, {MEMBER: encode_tracks(walker(num_frames), key)})
            rows.append({"key": key, "caption": f"a man {key}", "outcome": "kept"})
        writer.commit(pa.Table.from_pylist(rows), ShardStats(count=len(rows), outcomes={"kept": len(rows)}))
    update_card(layout)
    return root


def walker(num_frames: int) -> PoseTracks:
    keypoints_FK3 = np.stack([walker_keypoints(frame / 16, 64) for frame in range(num_frames)])
    boxes_F5 = np.repeat(np.array([[4, 4, 56, 56, 0.9]], np.float32), num_frames, axis=0)
    person = PersonTrack(1, keypoints_FK3, boxes_F5)
    return PoseTracks(Fraction(10), 64, 64, num_frames, "coco17", (person,), {"keypoint_score_threshold": 0.5})


def test_poses_of_clips_take_their_captions_from_the_table_and_their_frames_from_the_clips(tmp_path: Path) -> None:
    # Mutations tried: the first real frame for all; the first poses of the clip, whatever the stride.
    poses, real = poses_of_clips(tmp_path / "poses"), RealFrames(clips())
    facts, pairs = make_pairs(poses, EvaluateSettings(num_frames=4))
    assert facts["num_frames"] == 4
    assert len(pairs) == 7
    for pair in pairs:
        assert pair.prompt == f"a man {pair.key}"
        assert pair.frames == (0, 5, 10, 15)
        frames_FHWC = real.frames(pair, 64, 64)
        # the clips say which frame is which by a grey level
        assert [round(float(frame[40:, 40:].mean()) / 10) for frame in frames_FHWC] == [0, 5, 10, 15]
        assert np.allclose(persons_at(pair.tracks, 2), persons_at(walker(20), 10), atol=0.01)


def test_other_real_frames_are_judged_anew(world: Path) -> None:
    # Mutation tried: the name of the folder alone in a score's state -> the old scores stay.
    frames = real_results(world, "frames")
    for number, name in enumerate(("a/real", "b/real")):
        write_images(Path(name), seed=3, split="train", count=10, poses_shuffled=False)
        if number:  # the same samples, with other images
            darken(Path(name))
        assert evaluate("--frames", frames, "--real", name, data=world) == 0
        assert (found()["scores"]["pixels"]["l1"]["mean"] > 0) == bool(number)


def darken(dataset: Path) -> None:
    """Writes a dataset anew with black images."""
    layout, jpeg = DatasetLayout(dataset), io.BytesIO()
    Image.new("RGB", (64, 64)).save(jpeg, "JPEG")
    for shard in open_dataset(dataset).shards:
        samples, rows = (
            [read_members(shard, row) for row in range(len(shard))],
            shard_table(layout, layout.parquet(shard.shard)),
        )
        writer = ShardWriter(layout, shard.shard, "test")
        for key, members in zip(shard.keys.tolist(), samples, strict=True):
            writer.add(key, {**members, "jpg": jpeg.getvalue()})
        writer.commit(rows, layout.read_stats(shard.shard))
    update_card(layout)


def test_a_short_clip_takes_the_largest_stride_that_fits_and_a_shorter_one_is_passed_over(tmp_path: Path) -> None:
    # Mutation tried: the last frame repeated.
    poses = poses_of_clips(tmp_path / "poses")
    _, pairs = make_pairs(poses, EvaluateSettings(num_frames=7))
    assert {pair.frames for pair in pairs} == {tuple(range(0, 21, 3))[:7]}
    with pytest.raises(UsageError, match="enough frames"):
        make_pairs(poses, EvaluateSettings(num_frames=21))


def test_the_real_clips_of_poses_are_named_apart(tmp_path: Path, capsys: Any) -> None:
    # Mutation tried: the poses taken for real clips.
    poses = poses_of_clips(tmp_path / "poses")
    facts, pairs = make_pairs(poses, EvaluateSettings(num_frames=4))
    Path("pairs.jsonl").write_bytes(encode_protocol(facts, pairs))
    real = RealFrames(clips())
    for pair in pairs:
        write_frames(Path("frames") / pair.key, real.frames(pair, 64, 64), "frames", 8)
    words = ("--frames", "frames", "--protocol", "pairs.jsonl")
    assert evaluate(*words, "--real", clips(), data=None) == 0
    assert found()["scores"]["pixels"]["psnr"]["mean"] == 100
    motion = found()["scores"]["motion"]
    assert motion["flicker"] == motion["real_flicker"]
    assert motion["flicker"]["mean"] == pytest.approx(50, abs=5)
    assert evaluate(*words, data=None, output="b") == 0
    assert "pixels" not in found("b")["scores"]
    assert evaluate(*words, "--real", poses, data=None, output="c") == 2
    assert "no frames" in capsys.readouterr().err


# --- what is left out, and what is missing ---------------------------------------------------------------------------


def test_scores_without_their_weights_are_left_out_and_the_report_says_so(world: Path, capsys: Any) -> None:
    # Mutations tried: a score of 0 for what was not measured; LPIPS, FID and FVD left out without a word.
    assert evaluate("--frames", real_results(world, "frames"), data=world) == 0
    said = capsys.readouterr().out
    page = Path("out/report.html").read_text()
    for what in ("CLIP score, frame consistency", "pose accuracy", "LPIPS", "FID", "FVD"):
        assert what in found()["left_out"]
        assert f"left out: {what}" in said
        assert f"Left out: {what}" in page
    assert set(found()["scores"]) == {"motion", "pixels"}
    assert "\nCLIP score:" not in said
    assert "<td>CLIP score</td>" not in page


@pytest.mark.parametrize("flag", ["--clip", "--lpips", "--fid"])
def test_weights_that_are_not_there_are_one_error_before_anything_is_drawn(world: Path, capsys: Any, flag: str) -> None:
    words = ("--run", trained(1), "--base", small_base())
    assert evaluate(*words, flag, "nowhere", data=world) == 2
    assert capsys.readouterr().err.count(f"{flag} nowhere") == 1
    assert not Path("out/samples").exists()


def test_transformers_that_are_too_old_for_clip_are_named(
    world: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Mutation tried: the import as it is -> a traceback.
    monkeypatch.setitem(sys.modules, "trainer.evaluate.meters.clip", None)  # what lacks a name cannot be imported
    assert evaluate("--frames", real_results(world, "frames"), "--clip", "x", data=world) == 2
    assert "needs transformers 5 or newer" in capsys.readouterr().err


def test_a_hub_that_cannot_be_reached_is_one_error(world: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert evaluate("--frames", real_results(world, "frames"), "--clip", "nobody/clip", data=world) == 2
    assert "--clip nobody/clip: no such folder, and not to be had from the hub" in capsys.readouterr().err


def test_pose_weights_that_are_missing_are_one_error(world: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lposekit.pose.at_hand.unreachable", lambda url: "offline")
    assert evaluate("--frames", real_results(world, "frames"), data=world, pose="hrnet-w48") == 2
    assert "the weights of 2 models are missing" in capsys.readouterr().err


# --- a run -----------------------------------------------------------------------------------------------------------


def killed(arguments: list[str], point: str) -> None:
    """A command that is killed at a named point."""
    os.environ["LPOSEKIT_FAULT"] = f"{point}@{Path('killed').resolve()}"
    main(arguments)


def test_an_evaluation_that_was_killed_goes_on_to_the_same_bytes(world: Path) -> None:
    assert of_run(data=world, output="a") == 0
    keys = [pair.key for pair in read_protocol(Path("a/protocol.jsonl")).pairs]
    child = children().Process(target=killed, args=(run_words(world, "b"), f"file:{keys[2]}.json"))
    child.start()
    child.join(120)
    assert child.exitcode == -9
    assert not Path("b/evaluation.json").exists()
    shutil.rmtree(f"b/samples/{keys[4]}")  # as if it had been killed while it drew
    before = {path: path.stat().st_mtime_ns for path in Path("b/samples").rglob("*.png")}
    assert of_run(data=world, output="b") == 0
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())
    for name in ("evaluation.json", "report.html", "protocol.jsonl"):
        assert Path("a", name).read_bytes() == Path("b", name).read_bytes(), name


def test_what_a_run_drew_is_judged_as_the_results_of_any_system_and_never_mixed(world: Path, capsys: Any) -> None:
    assert of_run("--clip", small_clip(), data=world) == 0
    words = ("--frames", "out/samples", "--protocol", "out/protocol.jsonl", "--clip", small_clip())
    assert evaluate(*words, data=None, output="again") == 0
    assert found()["scores"] == found("again")["scores"]
    # a meter that is named later judges what is drawn
    drawn = {path: path.stat().st_mtime_ns for path in Path("out/samples").rglob("*.png")}
    assert of_run(data=world) == 0
    assert "clip" not in found()["scores"]
    assert drawn == {path: path.stat().st_mtime_ns for path in Path("out/samples").rglob("*.png")}
    # and what other settings would draw is not mixed with it
    assert of_run("--drawing.guidance", "3", data=world) == 2
    assert "guidance: 12.5 -> 3.0" in capsys.readouterr().err


def test_a_dry_run_says_what_would_be_done_and_writes_nothing(world: Path, capsys: Any) -> None:
    frames = real_results(world, "frames")
    assert evaluate("--frames", frames, "--dry-run", data=world) == 0
    said = capsys.readouterr().out
    assert f"would judge {PAIRS} pairs" in said
    assert "motion, pixels" in said
    assert "left out: pose accuracy" in said
    assert not Path("out").exists()


def test_the_page_is_one_file_that_asks_for_nothing(world: Path) -> None:
    # Mutation tried: a policy without `media-src`.
    assert evaluate("--frames", held(world), "--num-frames", "3", data=world) == 0
    page = Path("out/report.html").read_text()
    assert "default-src 'none'; img-src data:; media-src data:;" in page
    assert page.count("<video") == PAIRS
    assert not re.search(r"(src|href|poster)=[\"'](?!data:|#)", page)
    assert "<script" not in page
    for system in ("First Order Motion Model", "Everybody Dance Now", "MasaCtrl", "Follow-Your-Pose"):
        assert system in page


def test_the_defaults_are_those_of_the_paper_and_the_released_sampler() -> None:
    # Mutation tried: 100 pairs.
    settings = EvaluateSettings(run=Path("run"))
    assert settings.pairs == 1024
    assert (settings.drawing.steps, sample_settings(settings).guidance, settings.seed) == (50, 12.5, 33)


def test_no_torchvision_is_imported(world: Path) -> None:
    import sys

    frames = real_results(world, "frames", lambda rgb_HWC: np.roll(rgb_HWC, 3, 1))
    assert evaluate("--frames", frames, "--clip", small_clip(), data=world) == 0
    assert "torchvision" not in sys.modules
