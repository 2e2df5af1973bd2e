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


READY = """
import sys
import psutil
from lposekit.sandbox.sandbox import Sandbox, SandboxCrashed
from pipelines.image.settings import BuildImagesSettings, ImageSettings
from pipelines.image.worker import load_download

def load(processes):
    download = load_download(BuildImagesSettings(image=ImageSettings(decode_processes=processes)))
    commands = [" ".join(child.cmdline()) for child in psutil.Process().children(recursive=True)]
    print("img2dataset.downloader" in sys.modules, sum("lposekit.sandbox.child" in command for command in commands))
    return download

kept = load(2)
other = load(0)
for error in (SandboxCrashed("it died"), BlockingIOError("no further process"), RuntimeError("no further thread")):
    def fails(self, error=error):
        raise error
    Sandbox.start = fails
    load(1)
"""


# Mutations tried: no engine.load, no decoder.start ("False 2", "True 0"); an error let through (fewer
# lines: a worker that cannot be made takes the build down, where the first shard would tell).
def test_a_worker_that_waits_for_its_first_shard_has_loaded_what_fetches_and_decodes() -> None:
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", READY], capture_output=True, text=True, timeout=150)
    assert done.stdout.splitlines() == ["True 2"] * 5, done.stderr[-2000:]
