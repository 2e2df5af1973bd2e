"""Contract: `lposekit cache-latents`, killed at whatever moment, goes on when the same command is run again, and ends
with the bytes of a run that nobody disturbed.

Killed is the process that runs the build's loop, its worker and its writer (SIGKILL); moments are told by what is on
the disk.
"""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest

from lposekit.shards.layout import DatasetLayout
from pipelines.build import build
from pipelines.job.shard import write_shard
from tests.support.build_process import content_digest
from tests.support.children import children
from tests.support.execute_here import execute_here
from tests.support.train_data import write_dataset
from tests.support.train_runs import small_base
from trainer.cache_latents.recipe import latents_recipe
from trainer.settings import CacheLatentsSettings

SHARDS, SAMPLES, SIZE, KILLS = 12, 8, 256, 10
TAR_BYTES = SAMPLES * 17_000


def _build(data: Path, base: Path) -> None:
    settings = CacheLatentsSettings(data=data, base=str(base), size=SIZE, batch_size=2, device="cpu")
    build(latents_recipe(settings, write_shard), execute=execute_here)


def _folder(data: Path) -> DatasetLayout:
    (folder,) = (data / "_dataset/latents").iterdir()
    return DatasetLayout(folder)


def _bytes_written(data: Path) -> int:
    return sum(path.stat().st_size for path in data.glob("_dataset/latents/*/*.tar*") if path.exists())


@pytest.mark.more
@pytest.mark.case(84)
@pytest.mark.timeout(1200)
def test_a_cache_killed_ten_times_at_random_has_the_bytes_of_an_undisturbed_one(tmp_path: Path) -> None:
    # Mutations tried: `plans` that leaves out every shard with a tar -> shards are lacking; `build` without
    # `owned_folder` -> partial files are left.
    sizes = [SAMPLES] * SHARDS
    _build(write_dataset(tmp_path / "undisturbed", sizes, height=300, width=256), small_base())
    data = write_dataset(tmp_path / "data", sizes, height=300, width=256)
    rng, killed = random.Random(0), 0
    for _ in range(KILLS):
        wanted = _bytes_written(data) + rng.randrange(TAR_BYTES)
        process = children().Process(target=_build, args=(data, small_base()))
        process.start()
        while process.is_alive() and _bytes_written(data) <= wanted:
            time.sleep(0.002)
        process.kill()
        process.join()
        killed += process.exitcode == -9
    assert killed == KILLS, "each run was under way when it was killed"
    _build(data, small_base())
    assert content_digest(_folder(data)) == content_digest(_folder(tmp_path / "undisturbed"))
    assert not list(data.rglob("*.partial"))
