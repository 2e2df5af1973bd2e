"""Contract of the latent cache: a run that uses it sees the latents that it would have computed; the same command
writes the same bytes; a killed one goes on; a cache of another VAE, size or dataset, or one with holes, is
refused."""

from __future__ import annotations

import json
import logging
import re
import shutil
import tarfile
import weakref
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from lposekit.errors import LposekitError, UsageError
from lposekit.recipe import dataset_card
from lposekit.report.page import file_size
from lposekit.shards.layout import DatasetLayout
from lposekit.shards.verify import verify_dataset
from pipelines.build import build
from pipelines.job.lock import owned_folder
from pipelines.job.resend import ask
from pipelines.job.runner import RunResult
from pipelines.job.shard import write_shard
from tests.support.execute_here import execute_here
from tests.support.memory_store import MemoryStore
from tests.support.train_data import write_dataset
from tests.support.train_runs import keys, losses, settings_for, small_base
from trainer.cache_latents import recipe as latents_module
from trainer.cache_latents.encoder import LocalEncoder, PooledEncoder, VaeActor, VaeSpec
from trainer.cache_latents.frames import FrameReader
from trainer.cache_latents.recipe import latents_recipe
from trainer.cache_latents.run import run as cache_latents
from trainer.data.catalog import open_catalog
from trainer.data.decode import ClipPlan, Framing
from trainer.data.geometry import Crop
from trainer.data.order import SampleRef
from trainer.data.random import SampleRandom
from trainer.data.source import OpenFiles
from trainer.settings import CacheLatentsSettings, ClipSamplingSettings, FramingSettings, LoaderSettings
from trainer.train import run as train


def cache(data: Path, **changes: object):
    values = {"data": data, "base": str(small_base()), "size": 64, "batch_size": 3, "device": "cpu", "threads": 1}
    return cache_latents(CacheLatentsSettings(**{**values, **changes}))  # pyright: ignore


def tars(data: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (data / "_dataset/latents").rglob("*.tar")}


@pytest.mark.parametrize(("stage", "kind"), [(1, "image"), (2, "video")])
def test_a_run_with_cached_latents_equals_one_without(stage: int, kind: str, tmp_path: Path):
    data = write_dataset(tmp_path / "data", [3, 2], kind)
    report = cache(data)
    assert report.samples == 5
    common = {"data": (data,), "max_steps": 2, "image": FramingSettings(size=64)}
    train(settings_for(stage, tmp_path / "fresh", **common))
    loader = LoaderSettings(workers=0, block_samples=4, latents=True)
    train(settings_for(stage, tmp_path / "cached", loader=loader, **common))
    assert keys(tmp_path / "cached") == keys(tmp_path / "fresh")
    for (_, fresh), (_, cached) in zip(losses(tmp_path / "fresh"), losses(tmp_path / "cached"), strict=True):
        assert float.fromhex(cached) == pytest.approx(float.fromhex(fresh), rel=1e-3), "float16 rounds the moments"


ON_STRIDE = ClipSamplingSettings(frames=3, stride=4, start="stride")


@pytest.mark.parametrize("clip", [ON_STRIDE, replace(ON_STRIDE, stride_s=0.3), replace(ON_STRIDE, frames=8, stride=5)])
def test_a_cache_of_the_frames_a_stride_apart_serves_the_run_that_asks_for_those(
    clip: ClipSamplingSettings, tmp_path: Path
):
    # mutations tried: the frame's own number as its place in the cache; the stride of the settings where a clip is too
    # short for it (8 frames, 5 apart, of 20: the last case)
    data = write_dataset(tmp_path / "data", [3, 2], "video", num_frames=20)
    cache(data, clip=clip)
    (root,) = (data / "_dataset/latents").iterdir()
    stride = {4: 4, 5: 2}[clip.stride] if clip.stride_s is None else 3
    assert {row["frames"] for row in pq.read_table(root / "00000.parquet").to_pylist()} == {-(-20 // stride)}
    common = {"data": (data,), "max_steps": 3, "image": FramingSettings(size=64), "clip": clip}
    train(settings_for(2, tmp_path / "fresh", **common))
    loader = LoaderSettings(workers=0, block_samples=4, latents=True)
    train(settings_for(2, tmp_path / "cached", loader=loader, **common))
    assert keys(tmp_path / "cached") == keys(tmp_path / "fresh")
    for (_, fresh), (_, cached) in zip(losses(tmp_path / "fresh"), losses(tmp_path / "cached"), strict=True):
        assert float.fromhex(cached) == pytest.approx(float.fromhex(fresh), rel=1e-3)


def test_a_run_that_asks_for_frames_that_are_not_cached_is_refused_with_both(tmp_path: Path):
    # mutation tried: `_matching_caches` without the frames: a start that is not cached ends the run at some step
    data = write_dataset(tmp_path / "data", [3], "video")
    cache(data, clip=ON_STRIDE)
    run = {"stage": 2, "clip": replace(ON_STRIDE, start="any")}
    with pytest.raises(UsageError, match=r"stride 4, 3 frames\) -> every one \(--clip.start any\)"):
        use(data, tmp_path / "run", **run)
    with pytest.raises(UsageError, match=r"stride 4, 3 frames\) -> .*stride 2, 3 frames"):
        use(data, tmp_path / "run", stage=2, clip=replace(ON_STRIDE, stride=2))
    cache(data)
    use(data, tmp_path / "run", **run)  # every frame serves all clips
    use(data, tmp_path / "other", stage=2, clip=ON_STRIDE)


def test_clips_that_begin_at_multiples_of_their_stride_name_only_frames_that_are_cached():
    # mutation tried: starts drawn from all frames
    for num_frames in range(1, 40):
        plan = ClipPlan(frames=4, stride=3, on_stride=True)
        needed = set(plan.needed_frames(num_frames, 10.0).tolist())
        named = [plan.indices(num_frames, 10.0, SampleRandom(0, SampleRef(0, 0, 0, v))).tolist() for v in range(99)]
        assert {frame for frames in named for frame in frames} <= needed
        assert max(map(max, named)) < num_frames
    assert {frames[0] for frames in named} == set(range(0, 30, 3)), "every start that fits is drawn"


def test_the_cost_of_a_cache_is_told_before_it_is_written(tmp_path: Path):
    # mutation: all frames of a clip counted, whatever is cached
    data = write_dataset(tmp_path / "data", [3, 2], "video", num_frames=20)
    values = {"data": data, "base": str(small_base()), "size": 64, "batch_size": 3, "device": "cpu"}
    settings = CacheLatentsSettings(**values, clip=ON_STRIDE)  # pyright: ignore
    told = build(latents_recipe(settings, write_shard), dry_run=True)
    assert not (data / "_dataset/latents").exists()
    size, time, _ = told.notes
    assert re.match(r"to encode: 5 samples, 25 frames, \d", size)
    assert re.match(r"about .* with \d+ workers? \(measured here: [\d.]+ ms to decode a frame, [\d.]+ ms to enc", time)
    cache(data, clip=ON_STRIDE)
    num_bytes = 0
    for path in (data / "_dataset/latents").rglob("*.tar"):
        with tarfile.open(path) as tar:
            num_bytes += sum(512 + -(-member.size // 512) * 512 for member in tar)
    assert file_size(num_bytes) == size.rpartition(", ")[2]
    assert build(latents_recipe(settings, write_shard), dry_run=True).notes[0].startswith("nothing to do: all 2 shards")


def test_the_vae_that_measured_is_given_up_before_the_build_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    # mutations tried: the memory not given back; the encoder kept
    loaded: list[weakref.ref[object]] = []
    alive: list[bool] = []

    class Watched(LocalEncoder):
        def __init__(self, spec: VaeSpec) -> None:
            super().__init__(spec)
            loaded.append(weakref.ref(self._vae))

    monkeypatch.setattr(latents_module, "LocalEncoder", Watched)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: alive.append(loaded[0]() is not None))
    data = write_dataset(tmp_path / "data", [2])
    settings = CacheLatentsSettings(data=data, base=str(small_base()), size=64, batch_size=3, device="cpu")
    assert "ms to encode it" in latents_recipe(settings, write_shard).dry_run_notes()[1]
    assert alive == [False]


@pytest.mark.parametrize(("crop", "members"), [("center", ["jpg"]), ("person", ["jpg", "pose.json"])])
def test_poses_are_read_only_for_a_crop_that_needs_them(crop: Crop, members: list[str], tmp_path: Path):
    # mutation tried: read for every crop
    (dataset,) = open_catalog([write_dataset(tmp_path / "data", [2])], "image")
    files = {path.name: path.read_bytes() for path in dataset.root.glob("*.tar")}
    store = MemoryStore(files)
    reader = FrameReader(replace(dataset, source=OpenFiles(store)), Framing(64, crop))
    assert len(list(reader.frames(dataset.shards[0], 1))) == 1
    wanted = sum(dataset.shards[0].member(1, member)[1] for member in members)
    assert store.read_bytes["00000.tar"] == wanted


def test_the_build_writes_the_bytes_that_one_process_writes(tmp_path: Path):
    # mutation: batches that cross shards
    def in_another_order(recipe: Any, claim: Any, plans: Iterator[Any], *others: Any) -> RunResult:
        return execute_here(recipe, claim, reversed(list(plans)), *others)

    _same_bytes(tmp_path, execute=in_another_order)


@pytest.mark.more
@pytest.mark.usefixtures("ray_local")
@pytest.mark.parametrize("encoders", [None, 1])
def test_many_processes_write_the_bytes_that_one_writes(encoders: int | None, tmp_path: Path):
    # mutation tried: batches handed in ahead that come back in another order
    _same_bytes(tmp_path, encoders)


def _same_bytes(tmp_path: Path, encoders: int | None = None, **how: Any) -> None:
    data = write_dataset(tmp_path / "data", [3, 2, 4], "video", num_frames=10)
    cache(data)
    alone = tars(data)
    shutil.rmtree(data / "_dataset/latents")
    settings = CacheLatentsSettings(
        data=data, base=str(small_base()), size=64, batch_size=3, device="cpu", workers=2, encoders=encoders
    )
    report = build(latents_recipe(settings, write_shard, ask), **how)
    assert (report.exit_code, report.num_samples) == (0, 9)
    assert tars(data) == alone
    (root,) = (data / "_dataset/latents").iterdir()
    assert verify_dataset(root) == []


def test_a_sample_that_cannot_be_encoded_fails_its_shard_and_no_other(tmp_path: Path):
    # mutation tried: damage that ends in a row of its own: the cache would lack a sample, and say it is whole
    data = write_dataset(tmp_path / "data", [2, 2])
    tar = data / "00000.tar"
    content = tar.read_bytes()
    tar.write_bytes(content.replace(b"\xff\xd8\xff", b"junk"[:3], 1))
    with pytest.raises(LposekitError, match=r"shard 00000 .* sample 000000000 is damaged"):
        cache(data)
    assert not list((data / "_dataset/latents").rglob("*_stats.json"))
    assert not list((data / "_dataset/latents").rglob("*.partial"))


def test_the_same_command_writes_the_same_bytes_and_goes_on_after_a_kill(tmp_path: Path):
    data = write_dataset(tmp_path / "data", [3, 2])
    cache(data)
    first = tars(data)
    assert len(first) == 2
    (folder,) = (data / "_dataset/latents").iterdir()
    (folder / "00001_stats.json").unlink()
    (folder / "00001.tar").write_bytes(b"half")
    assert cache(data).new_shards == 1
    assert tars(data) == first
    assert cache(data).new_shards == 0


@pytest.mark.case(71)
def test_no_cache_is_written_or_read_where_a_link_leads(tmp_path: Path):
    # mutations tried: `cache_latents` without `refuse_links`; the caches listed through pathlib
    data = write_dataset(tmp_path / "data", [3])
    (tmp_path / "elsewhere").mkdir()
    (data / "_dataset/latents").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UsageError, match="_dataset/latents"):
        cache(data)
    assert list((tmp_path / "elsewhere").iterdir()) == []
    with pytest.raises(LposekitError, match="latents: a link"):
        use(data, tmp_path / "run")


def use(data: Path, run_dir: Path, **changes: object) -> None:
    loader = LoaderSettings(workers=0, latents=True)
    values = {"data": (data,), "max_steps": 1, "image": FramingSettings(size=64), "loader": loader}
    train(settings_for(changes.pop("stage", 1), run_dir, **{**values, **changes}))  # pyright: ignore


def test_no_cache_a_wrong_size_and_another_vae_are_refused_with_what_differs(tmp_path: Path):
    # mutation: the search of open_cache taking the first folder lets the wrong size through
    data = write_dataset(tmp_path / "data", [3])
    with pytest.raises(UsageError, match=r"has no latent cache.*It has none"):
        use(data, tmp_path / "run")
    cache(data)
    with pytest.raises(UsageError, match="size: 64 -> 128"):
        use(data, tmp_path / "run", image=FramingSettings(size=128))
    with pytest.raises(UsageError, match="vae_sha256"):
        use(data, tmp_path / "run", base="tiny")


def test_a_cache_with_a_hole_is_refused_not_mixed(tmp_path: Path):
    # mutation: without the check of absent shards, a KeyError; with a skip, a mixture
    data = write_dataset(tmp_path / "data", [3, 2])
    cache(data)
    (folder,) = (data / "_dataset/latents").iterdir()
    (folder / "00001_stats.json").unlink()
    with pytest.raises(LposekitError, match=r"lacks 1 of 2 shards .*never mixed"):
        use(data, tmp_path / "run")


def test_of_several_caches_that_fit_a_whole_one_is_taken_and_named(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    # mutation tried: the first by name, whole or not
    data = write_dataset(tmp_path / "data", [3, 2])
    cache(data)
    cache(data, batch_size=2)
    first, second = sorted((data / "_dataset/latents").iterdir())
    (first / "00001_stats.json").unlink()
    with caplog.at_level(logging.INFO):
        use(data, tmp_path / "run")
    assert f"from {second} (fp32)" in caplog.text
    (second / "00000_stats.json").unlink()
    with pytest.raises(LposekitError, match=rf"{first} lacks 1 of 2 shards"):
        use(data, tmp_path / "other")


def test_a_cache_of_shards_that_were_built_again_is_refused(tmp_path: Path):
    # mutation: without _check_origin the old latents are trained with the new captions
    data = write_dataset(tmp_path / "data", [3])
    cache(data)
    other = write_dataset(tmp_path / "other", [3], height=96)
    for name in ("00000.tar", "00000_stats.json", "_dataset/index/00000.parquet"):
        shutil.copy(other / name, data / name)
    with pytest.raises(LposekitError, match="made from another shard 00000"):
        use(data, tmp_path / "run")
    assert cache(data).new_shards == 1, "the same command brings it up to date"
    use(data, tmp_path / "run")


def test_a_cut_cache_shard_is_refused_by_its_size(tmp_path: Path):
    data = write_dataset(tmp_path / "data", [3])
    cache(data)
    (tar,) = (data / "_dataset/latents").rglob("*.tar")
    tar.write_bytes(tar.read_bytes()[:-512])
    with pytest.raises(LposekitError, match=r"shard 00000 of .*latents"):
        use(data, tmp_path / "run")


def test_a_frame_behind_the_last_cached_one_is_refused(tmp_path: Path):
    # mutation tried: `>` in place of `>=`: what lies behind the sample in the tar would be trained on
    from trainer.data.latent_cache import cache_identity, open_cache
    from trainer.model.base import load_base, weights_digest

    data = write_dataset(tmp_path / "data", [2], "video", num_frames=4)
    cache(data)
    identity = cache_identity(weights_digest(load_base(str(small_base())).vae), 64)
    opened = open_cache(open_catalog([data], "video")[0], identity)
    assert opened.read(0, 0, np.array([0, 3])).shape == (2, 8, 8, 8)
    with pytest.raises(LposekitError, match="has 4 cached frames, frame 4 is wanted"):
        opened.read(0, 0, np.array([0, 4]))


def test_moments_are_those_of_the_vae(tmp_path: Path):
    from trainer.data.decode import decode_training_image
    from trainer.data.latent_cache import cache_identity, open_cache
    from trainer.model.base import encode_images, load_base, weights_digest

    data = write_dataset(tmp_path / "data", [3])
    cache(data)
    (dataset,) = open_catalog([data], "image")
    vae = load_base(str(small_base())).vae
    cached = open_cache(dataset, cache_identity(weights_digest(vae), 64)).read(0, 1, np.zeros(1, np.int64))
    jpg = dataset.read(dataset.shards[0], 1, ["jpg"])["jpg"]
    rgb_HWC, _ = decode_training_image(jpg, Framing(64), SampleRandom(0, SampleRef(0, 0, 1, 0)))
    image = torch.from_numpy(rgb_HWC).permute(2, 0, 1)[None, None].float() / 127.5 - 1
    expected = encode_images(vae, image)[0].numpy()
    np.testing.assert_allclose(cached.astype(np.float32), expected, rtol=2e-3, atol=2e-3)


def test_a_resumed_run_goes_on_with_the_cache_that_it_began_with(tmp_path: Path):
    # mutation tried: the first by name -> the resume is refused: its latents are others
    data = write_dataset(tmp_path / "data", [3, 2])
    caches = data / "_dataset/latents"
    cache(data)
    cache(data, batch_size=2)
    first, second = sorted(caches.iterdir())
    first.rename(tmp_path / "first")
    use(data, tmp_path / "run")
    (tmp_path / "first").rename(first)
    use(data, tmp_path / "run", max_steps=2)
    assert second.is_dir()
    assert len(losses(tmp_path / "run")) == 2


def test_a_cache_that_is_not_continued_is_named_with_what_differs(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    # mutation tried: nothing said. Mutation: said of every cache there is, each time
    data = write_dataset(tmp_path / "data", [3])
    cache(data)
    (older,) = (data / "_dataset/latents").iterdir()
    card = older / "_dataset/dataset.json"
    values = json.loads(card.read_text())
    del values["fixed"]["frames"], values["fixed"]["threads"]
    card.write_text(json.dumps(values))
    older = older.rename(older.with_name("000000000000"))
    cache(data)
    assert f"{older} is of the same VAE, size and crop, but is not continued (frames: None -> 'all'" in caplog.text
    caplog.clear()
    assert cache(data).new_shards == 0
    cache(data, size=128)
    assert "not continued" not in caplog.text


def test_a_cache_goes_on_whatever_the_settings_are_that_decide_nothing_in_it(tmp_path: Path):
    # mutations tried: `threads`, then `clip.short`, as they are given -> "was built with other settings"
    data = write_dataset(tmp_path / "data", [2], "video")

    def fixed(**changes: Any) -> tuple[Path, Any]:
        values = {"data": data, "base": str(small_base()), "size": 64, "device": "cuda", "ray_address": "elsewhere:1"}
        recipe = latents_recipe(CacheLatentsSettings(**{**values, **changes}), write_shard)  # pyright: ignore
        return recipe.layout.root, dataset_card(recipe, []).fixed

    assert fixed(threads=4) == fixed(threads=1)
    assert fixed(device="cpu", threads=4) != fixed(device="cpu", threads=1)
    assert fixed(clip=replace(ON_STRIDE, short="repeat")) == fixed(clip=ON_STRIDE)
    assert fixed(clip=replace(ON_STRIDE, stride=5)) != fixed(clip=ON_STRIDE)


def test_rays_object_store_has_room_for_the_batches_on_their_way_to_shared_vaes(tmp_path: Path):
    # mutation tried: 0
    data = write_dataset(tmp_path / "data", [2])
    values = {"data": data, "base": str(small_base()), "size": 64, "batch_size": 3, "device": "cpu"}
    alone, shared = (latents_recipe(CacheLatentsSettings(**values, encoders=n), write_shard) for n in (None, 1))  # pyright: ignore
    assert (alone.bytes_in_flight, shared.bytes_in_flight) == (0, 3 * 3 * 64 * 64 * 3)


def test_a_cache_that_a_build_or_a_removal_works_on_is_left_alone(tmp_path: Path):
    # mutation tried: a lock of another name
    data = write_dataset(tmp_path / "data", [2])
    cache(data)
    (root,) = (data / "_dataset/latents").iterdir()
    with owned_folder(DatasetLayout(root)), pytest.raises(UsageError, match="another run is writing"):
        cache(data)
    assert cache(data).new_shards == 0


@pytest.mark.more
@pytest.mark.usefixtures("ray_local")
def test_a_vae_that_is_killed_encodes_what_it_had_once_it_is_back(tmp_path: Path):
    # mutation: the answer awaited once -> ActorDiedError
    import ray

    data = write_dataset(tmp_path / "data", [2])
    settings = CacheLatentsSettings(data=data, base=str(small_base()), size=64, device="cpu", encoders=1)
    recipe = latents_recipe(settings, write_shard, ask)
    actor: Any = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=0)(VaeActor).remote(recipe.vae)  # pyright: ignore
    ray.get(actor.card.remote())
    images = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), np.uint8)
    encoder = PooledEncoder([actor], ask)
    ray.kill(actor, no_restart=False)
    answers = [encoder.submit(images) for _ in range(2)]
    for answer in answers:
        np.testing.assert_array_equal(answer(), LocalEncoder(recipe.vae).encode(images))
    ray.kill(actor)
