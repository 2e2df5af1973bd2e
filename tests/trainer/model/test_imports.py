"""Contract: the trainer imports and trains on a machine that has neither Ray, MMPose, MMDet nor img2dataset."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.fixtures import REPOSITORY

CHILD = """
import sys

# None in sys.modules makes every import of that name fail
for name in ("ray", "mmpose", "mmdet", "mmengine", "mmcv", "img2dataset", "decord", "decord2", "scenedetect"):
    sys.modules[name] = None

import trainer.cache_latents.run
import trainer.inference.sample
import trainer.model.official_weights
import trainer.run.view
import trainer.sample
import trainer.train
from pathlib import Path
from tests.support.train_runs import settings_for

for stage in (1, 2):
    report = trainer.train.run(settings_for(stage, Path(sys.argv[1]) / str(stage), max_steps=1))
    assert report.step == 1 and report.last["loss"] > 0
    trainer.run.view.write_report(Path(sys.argv[1]) / str(stage))
"""


@pytest.mark.timeout(240)
def test_the_trainer_imports_and_trains_without_the_builders_packages(tmp_path: Path) -> None:
    # mutations tried: `import ray` in a module of the page, `import decord` in the function that decodes an image
    child = [sys.executable, "-c", CHILD, str(tmp_path)]
    done = subprocess.run(child, check=False, cwd=REPOSITORY, timeout=100, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
