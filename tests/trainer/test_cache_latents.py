"""Contract of the latent cache: a run that uses it sees the latents that it would have computed; the same command
writes the same bytes; a killed one goes on; a cache of another VAE, size or dataset, or one with holes, is
refused."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import numpy as np
import pytest

from lposekit.errors import LposekitError, UsageError
from tests.support.train_data import write_dataset
from tests.support.train_runs import keys, losses, settings_for, small_base
from trainer.cache_latents.run import run as cache_latents
from trainer.settings import CacheLatentsSettings, FramingSettings, LoaderSettings
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
    train(settings_for(1, run_dir, **{**values, **changes}))


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
    from trainer.data.catalog import open_catalog
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
    import torch

    from trainer.data.catalog import open_catalog
    from trainer.data.decode import Framing, decode_training_image
    from trainer.data.latent_cache import cache_identity, open_cache
    from trainer.data.order import SampleRef
    from trainer.data.random import SampleRandom
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
