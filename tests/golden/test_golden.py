"""Contract: the trainer's model computes what the released code computes, in every tensor of the golden fixtures.

The tool under test is the one that users run, `python -m tests.golden.dump DIR OUT`; its limits are those of
`meta.json`.

Mutations tried, each turning `test_every_tensor_is_within_its_limit_from_inputs_alone` red: GroupNorm per frame in the
resnets; GroupNorm over the clip in the transformers; attention keys of the own instead of the previous frame;
parameters of the pose encoder in the order of ours.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.golden.evaluate import evaluate
from tests.golden.fixture_set import digest, open_set, seeded_tensor
from tests.golden.limits import limit_of
from tests.support.fixtures import REPOSITORY, fixture_path

TIMEOUT_S = 200
pytestmark = pytest.mark.timeout(TIMEOUT_S + 40)


def dump(folder: Path, out: Path) -> dict[str, torch.Tensor]:
    """Runs the tool as a user does and reads what it wrote."""
    command = [sys.executable, "-m", "tests.golden.dump", str(folder), str(out)]
    # the cases are too small for more than one thread
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run(command, check=True, cwd=REPOSITORY, timeout=TIMEOUT_S, env=environment)
    return load_file(out)


def other(name: str) -> str:
    """Another name of a case that shares the UNet's weights: names must not matter."""
    return name.replace("unet_", "video_").replace("ddim_", "sampler_")


def original(name: str) -> str:
    return name.replace("video_", "unet_").replace("sampler_", "ddim_")


@pytest.fixture(scope="module")
def golden() -> Path:
    return fixture_path("golden")


@pytest.fixture(scope="module")
def stripped(golden: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same set without any expected tensor and without a word about them in `meta.json`, under other case names."""
    folder = tmp_path_factory.mktemp("stripped")
    meta = json.loads((golden / "meta.json").read_text())
    for entry in meta["cases"].values():
        entry["file"] = other(entry["file"])
        entry["tensors"] = {name: value for name, value in entry["tensors"].items() if name.startswith("input.")}
        for key in ("parameter_names", "grad_norm_by_parameter"):
            entry.pop(key, None)
    for path in golden.glob("*.io.safetensors"):
        inputs = {name: value for name, value in load_file(path).items() if name.startswith("input.")}
        save_file(inputs, folder / other(path.name))
    for path in golden.glob("*.weights.safetensors"):
        shutil.copyfile(path, folder / path.name)
    (folder / "meta.json").write_text(json.dumps(meta))
    return folder


@pytest.fixture(scope="module")
def computed(stripped: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    """What the tool computes from the stripped set, under the original case names."""
    out = dump(stripped, tmp_path_factory.mktemp("dump") / "out.safetensors")
    return {original(name): value for name, value in out.items()}


def kind_of(inputs: dict[str, torch.Tensor]) -> str:
    if "prompt_embeddings" in inputs:
        return "ddim"
    if "noise" in inputs:
        return "step"
    return "unet" if "sample" in inputs else "module"


def test_every_tensor_is_within_its_limit_from_inputs_alone(golden: Path, computed: dict[str, torch.Tensor]) -> None:
    fixtures = open_set(golden)
    wrong, compared = [], 0
    for case in fixtures.cases():
        for name, expected in case.expected.items():
            if ".branch." in name or ".debug." in name:
                continue
            found = computed[f"{case.name}/{name}"]
            difference = (found.double() - expected.double()).abs().max().item()
            limit = limit_of(fixtures.meta["tolerance"], kind_of(case.inputs), name, expected)
            if name == "expected.grad_norm":
                # relative for each tensor by itself, not to the largest
                difference = ((found - expected).abs() / expected).max().item()
                limit = 1e-3
            compared += 1
            if not (difference <= limit and found.shape == expected.shape and found.dtype == expected.dtype):
                wrong.append(f"{case.name}/{name}: {difference:.2e} > {limit:.2e}")
    assert not wrong
    assert compared > 50


def test_official_width_weights_follow_the_seeded_rule(golden: Path) -> None:
    fixtures = open_set(golden)
    entry = fixtures.meta["weights"]["adapter_official_width"]
    weights = fixtures.weights("adapter_official_width")
    assert digest(weights) == entry["sha256_of_sorted_names_and_le_f32_bytes"]
    assert sum(value.numel() for value in weights.values()) == entry["parameters"]


def test_a_set_of_other_sizes_is_computed(tmp_path: Path) -> None:
    # no golden values of such a set are at hand; tests/trainer/model/test_plain_unet.py compares at other sizes
    folder = tmp_path / "other"
    folder.mkdir()
    width, rank, frames = 20, 10, 7
    weights = {"down.weight": (rank, width, 3), "up.weight": (width, rank, 3)}
    save_file({k: seeded_tensor(k, s, 7) for k, s in weights.items()}, folder / "t.weights.safetensors")
    x = torch.linspace(-1, 1, 3 * width * frames).reshape(3, width, frames)
    save_file({"input.hidden_states": x}, folder / "t.io.safetensors")
    meta = {"seed": 7, "config": {}, "weights": {"t": {"file": "t.weights.safetensors"}}, "cases": {}}
    (folder / "meta.json").write_text(json.dumps(meta))
    fixtures = open_set(folder)
    (case,) = fixtures.cases()
    out = evaluate(fixtures, case)["expected.out"]
    down, up = (fixtures.weights("t")[f"{k}.weight"] for k in ("down", "up"))
    conv = torch.nn.functional.conv1d
    torch.testing.assert_close(out, x + conv(conv(x, down, padding=1), up, padding=1), atol=1e-5, rtol=1e-5)
