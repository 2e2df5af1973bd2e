"""Contract: the trainer's model imports on a machine that has neither Ray, MMPose, MMDet nor img2dataset."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.support.fixtures import REPOSITORY

ABSENT = ("ray", "mmpose", "mmdet", "mmengine", "mmcv", "img2dataset")
MODULES = ("trainer.stages", "trainer.inference.sample", "trainer.model.base", "trainer.model.official_weights")


@pytest.mark.timeout(120)
def test_the_model_imports_without_the_builders_packages() -> None:
    # None in sys.modules makes every import of that name fail. mutation: `import ray` anywhere in the trainer's model
    block = "; ".join(f"sys.modules[{name!r}] = None" for name in ABSENT)
    code = f"import sys; {block}; import {', '.join(MODULES)}"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=REPOSITORY, timeout=100)
