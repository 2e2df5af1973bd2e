"""Contract of training on clips and images: a batch is of one kind, the share decides how often which comes, both go
through their own order without a sample lost, and a resumed run goes on to the bit; without images nothing changes.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lposekit.errors import UsageError
from tests.support.train_data import write_dataset
from tests.support.train_runs import clips, images, keys, losses, settings_for, train_ranks
from trainer.cache_latents.run import run as cache_latents
from trainer.data.joint_order import JointOrder
from trainer.data.order import OrderState, SampleOrder
from trainer.run.compiling import warm_up
from trainer.run.distributed import World
from trainer.run.metrics import read_metrics
from trainer.settings import CacheLatentsSettings, LoaderSettings, TrainSettings, WatchSettings
from trainer.train import build_run, run

LOADER = LoaderSettings(workers=0, block_samples=4, image_share=0.5)


def joint(run_dir: Path, **changes: object) -> TrainSettings:
    return settings_for(2, run_dir, **{"images": (images(),), "loader": LOADER, **changes})


def test_a_batch_is_of_one_kind_and_either_order_goes_on_where_it_stopped():
    # mutations tried: the kind drawn anew at each call; one state for both orders; images numbered as the clips
    clip_order, image_order = SampleOrder([[7]], [1.0], 3, 4), SampleOrder([[5, 6]], [1.0], 3, 4)
    order, state, seen = JointOrder(clip_order, image_order, 1, 0.3, 3), OrderState(), []
    for _ in range(400):
        refs, behind = order.draw(state, 2)
        assert order.advance(state, 2) == behind
        assert len({ref.dataset for ref in refs}) == 1
        seen += refs
        state = behind
    pure = {0: clip_order.draw(OrderState(), 800)[0], 1: image_order.draw(OrderState(), 800)[0]}
    for dataset, refs in pure.items():
        mine = [ref._replace(dataset=0) for ref in seen if ref.dataset == dataset]
        assert mine == refs[: len(mine)]
    assert 0.2 < sum(ref.dataset == 1 for ref in seen) / len(seen) < 0.4
    assert all(ref.dataset == 0 for ref in JointOrder(clip_order, image_order, 1, 0.0, 3).draw(OrderState(), 9)[0])


def test_a_run_on_clips_and_images_resumes_to_the_bit(tmp_path: Path):
    # mutation tried: a checkpoint of the clips' state alone -> other images after the resume
    run(joint(tmp_path / "whole", max_steps=12))
    run(joint(tmp_path / "parts", max_steps=8))
    run(joint(tmp_path / "parts", max_steps=12))
    assert keys(tmp_path / "parts") == keys(tmp_path / "whole")
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")
    kinds = [{key[0] for key in step} for _, step in keys(tmp_path / "whole")]
    assert {"0"} in kinds
    assert {"1"} in kinds
    assert all(len(kind) == 1 for kind in kinds)
    with pytest.raises(UsageError, match=r"image_share: 0.5 -> 0.2"):
        run(joint(tmp_path / "parts", loader=replace(LOADER, image_share=0.2), max_steps=14))
    with pytest.raises(UsageError, match=r"images: \['\w+'\] -> None"):
        run(joint(tmp_path / "parts", images=(), max_steps=14))


@pytest.mark.timeout(360)
def test_two_processes_train_on_the_batches_of_one_with_its_losses(tmp_path: Path):
    # mutation tried: the kind of a batch drawn with the rank -> the ranks' shares are of both kinds
    changes: dict[str, object] = {"batch_size": 2, "max_steps": 6}
    run(joint(tmp_path / "one", **changes))
    assert [child.exit_code for child in train_ranks(joint(tmp_path / "two", **changes), 2)] == [0, 0]
    assert keys(tmp_path / "two") == keys(tmp_path / "one")
    one, two = ([float.fromhex(loss) for _, loss in losses(tmp_path / name)] for name in ("one", "two"))
    assert two == pytest.approx(one, rel=1e-4)


def test_a_step_of_images_is_credited_with_its_own_arithmetic(tmp_path: Path):
    # mutations tried: that of clips for every step, in the watch; the shapes of clips for both
    watch = WatchSettings(probe_every=0, sample_every=0, tensorboard=False, keys=True)
    run(joint(tmp_path / "run", max_steps=2, batch_size=1, watch=watch))
    assert [names[0][0] for _, names in keys(tmp_path / "run")] == ["1", "0"], "an image, then a clip of two frames"
    lines = [line for line in read_metrics(tmp_path / "run/metrics.jsonl") if "tflops" in line]
    image, clip = (line["tflops"] / line["steps_per_s"] for line in lines)
    assert 1.5 * image < clip < 2.5 * image


def test_clips_and_images_are_both_compiled_before_the_first_step(tmp_path: Path):
    # mutation tried: a step of clips alone
    prepared = build_run(joint(tmp_path / "run"), World(torch.device("cpu")))
    seen: list[int] = []
    prepared.train_module.stage.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape[2]))
    warm_up(prepared.train_module, prepared.data)
    assert seen == [prepared.settings.clip.frames, 1]


def test_images_come_from_their_cache_as_clips_do(tmp_path: Path):
    # mutation tried: the cache of the first dataset for all
    folders = {"clips": write_dataset(tmp_path / "c", [4], "video"), "images": write_dataset(tmp_path / "i", [5])}
    for folder in folders.values():
        cache_latents(CacheLatentsSettings(data=folder, base=settings_for(2, folder).base, size=64, device="cpu"))
    data = {"data": (folders["clips"],), "images": (folders["images"],), "max_steps": 4}
    run(joint(tmp_path / "fresh", **data))
    run(joint(tmp_path / "cached", **data, loader=replace(LOADER, latents=True)))
    assert keys(tmp_path / "cached") == keys(tmp_path / "fresh")
    for (_, fresh), (_, cached) in zip(losses(tmp_path / "fresh"), losses(tmp_path / "cached"), strict=True):
        assert float.fromhex(cached) == pytest.approx(float.fromhex(fresh), rel=1e-3)


def test_images_beside_images_are_refused(tmp_path: Path):
    with pytest.raises(UsageError, match=r"--images .*only in stage 2"):
        run(settings_for(1, tmp_path / "run", images=(images(),)))
    with pytest.raises(UsageError, match="kind 'video'"):
        run(joint(tmp_path / "run", images=(clips(),)))
