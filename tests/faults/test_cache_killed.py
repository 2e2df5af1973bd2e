"""Contract: `lposekit cache-latents`, killed at whatever moment, driver or worker, goes on when the same command is run
again, and ends with the bytes of a run that nobody disturbed.
"""

from __future__ import annotations

import random
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from pipelines.job.shard import write_shard
from tests.support.build_process import (
    BuildProcess,
    actor_processes,
    content_digest,
    kill_group,
    wait_for_random_progress,
)
from tests.support.train_data import write_dataset
from tests.support.train_runs import small_base
from trainer.cache_latents.recipe import latents_recipe
from trainer.cache_latents.run import run as cache_here
from trainer.settings import CacheLatentsSettings

SHARDS, SAMPLES, SIZE = 8, 12, 256
KILLS = 10


@dataclass
class CacheProcess(BuildProcess):
    """`lposekit cache-latents`; ``list_path`` is the dataset, ``output`` the cache's folder in it."""

    def arguments(self) -> list[str]:
        return [
            *("cache-latents", str(self.list_path), "--base", str(small_base()), "--size", str(SIZE)),
            *("--batch-size", "2", "--device", "cpu", "--workers", "2"),
        ]

    def command(self) -> list[str]:
        return [sys.executable, "-m", "lposekit.cli", *self.arguments()]


def _settings(data: Path) -> CacheLatentsSettings:
    return CacheLatentsSettings(data=data, base=str(small_base()), size=SIZE, batch_size=2, device="cpu")


@pytest.mark.slow
@pytest.mark.case(84)
@pytest.mark.timeout(3000)
def test_a_cache_killed_ten_times_at_random_has_the_bytes_of_an_undisturbed_one(tmp_path: Path) -> None:
    # Mutations tried: `plans` that leaves out every shard with a tar; the cache's folder named after the run.
    sizes = [SAMPLES] * SHARDS
    undisturbed = cache_here(_settings(write_dataset(tmp_path / "undisturbed", sizes, height=300, width=256))).output
    data = write_dataset(tmp_path / "data", sizes, height=300, width=256)
    layout = latents_recipe(_settings(data), write_shard).layout
    build, rng, killed = CacheProcess(data, layout.root), random.Random(0), 0
    layout.root.parent.mkdir()
    for _ in range(KILLS):
        with build.started() as process:
            committed = len(layout.committed_shards()) if layout.root.exists() else 0
            wait_for_random_progress(build, process, rng, shards=min(SHARDS, committed + 1), tar_bytes=90_000)
            victims = actor_processes(process, "ShardWorker")
            if victims and rng.random() < 0.5:
                rng.choice(victims).kill()
            kill_group(process)
            killed += process.poll() != 0
    assert killed >= KILLS // 2, "most runs were under way when they were killed"
    assert build.finish() == 0, build.log_path.read_text()
    assert content_digest(layout) == content_digest(type(layout)(undisturbed))
