"""Contract of what a build's processes load before they work: nothing that they do not use."""

from __future__ import annotations

import subprocess
import sys

WORKER = """
import importlib.util, sys
from pipelines.job.crew import without_torch
without_torch()
from pipelines.image.recipe import ImageRecipe
from pipelines.image.engine import load
load()
import webdataset
webdataset.TarWriter
print([name for name in ("torch", "wandb", "albumentations", "transformers", "mmpose") if name in sys.modules])
print([importlib.util.find_spec(name).loader is not None for name in ("torch", "wandb", "albumentations")])
"""


# Mutations tried: `without_torch` left out of the code above (torch is loaded); `stood_in_for` left out of engine.py
# (wandb and albumentations are); `_instead` without its end (the packages cannot be found later).
def test_a_worker_loads_neither_torch_nor_what_is_unused_of_img2dataset() -> None:
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", WORKER], capture_output=True, text=True, timeout=150)
    assert done.stdout.splitlines() == ["[]", "[True, True, True]"], done.stderr[-2000:]
