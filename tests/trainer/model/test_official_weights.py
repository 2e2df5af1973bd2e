"""Contract: weight files of the official release load strictly, both ways, and never run code.

Faults: 52 (a pickle that runs code, damaged safetensors) is refused with advice; 53 (a pose encoder of another model
size) names the first differing tensors.
"""

from __future__ import annotations

import json
import os
import pickle
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lposekit.errors import UsageError
from tests.trainer.model.small import WIDTHS, small_encoder, small_video_unet
from trainer.model.official_weights import (
    load_official_unet,
    load_pose_encoder,
    official_state_dict,
    read_weights,
    write_official_unet,
    write_pose_encoder,
)
from trainer.model.pose_encoder import OFFICIAL_WIDTHS, build_pose_encoder, to_t2i_adapter
from trainer.model.switches import OFFICIAL
from trainer.model.tensor_files import differences, write_weights
from trainer.model.unet import VideoUNet, inflate

pytestmark = pytest.mark.timeout(180)


@pytest.mark.parametrize("name", ["pose_encoder.pth", "pose_encoder.safetensors"])
def test_pose_encoder_comes_back_as_it_was_written(tmp_path: Path, name: str) -> None:
    encoder = small_encoder()
    write_pose_encoder(encoder, tmp_path / name)
    found = load_pose_encoder(tmp_path / name, WIDTHS).state_dict()
    assert list(found) == list(encoder.state_dict())
    assert all(torch.equal(value, encoder.state_dict()[key]) for key, value in found.items())


@pytest.mark.parametrize("file", ["pytorch_model.bin", "diffusion_pytorch_model.safetensors"])
def test_whole_unet_comes_back_from_an_accelerate_folder(tmp_path: Path, file: str) -> None:
    unet, encoder = small_video_unet(), small_encoder()
    write_official_unet(unet, encoder, tmp_path / file)
    other, other_encoder = inflate_blank(), build_pose_encoder(WIDTHS, OFFICIAL, seed=9)
    load_official_unet(tmp_path, other, other_encoder)
    expected, found = official_state_dict(unet, encoder), official_state_dict(other, other_encoder)
    assert len(found) == 868
    assert all(torch.equal(found[key], value) for key, value in expected.items())


def inflate_blank() -> VideoUNet:
    unet = small_video_unet()
    for parameter in unet.parameters():
        parameter.data.zero_()
    return unet


def test_pose_encoder_is_read_out_of_a_whole_unet_and_out_of_a_diffusers_adapter(tmp_path: Path) -> None:
    encoder = small_encoder()
    write_official_unet(small_video_unet(), encoder, tmp_path / "unet.safetensors")
    save_file(to_t2i_adapter(encoder).state_dict(), tmp_path / "diffusers.safetensors")
    for name in ("unet.safetensors", "diffusers.safetensors"):
        found = load_pose_encoder(tmp_path / name, WIDTHS).state_dict()
        assert all(torch.equal(value, encoder.state_dict()[key]) for key, value in found.items())


def test_prefix_of_several_processes_is_taken_off(tmp_path: Path) -> None:
    write_weights({f"module.{k}": v for k, v in small_encoder().state_dict().items()}, tmp_path / "p.pth")
    load_pose_encoder(tmp_path / "p.pth", WIDTHS)


def test_names_at_official_widths_are_the_868_of_the_release() -> None:
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

    with torch.device("meta"):
        unet = inflate(UNet2DConditionModel(cross_attention_dim=768), OFFICIAL)
        state = official_state_dict(unet, build_pose_encoder(OFFICIAL_WIDTHS, OFFICIAL))
    assert len(state) == 868
    assert sum(value.numel() for value in state.values()) == 998_470_084
    block = "up_blocks.3.attentions.2.transformer_blocks.0."
    assert state[f"{block}conv_temporal.down.weight"].shape == (160, 320, 3)
    assert state[f"{block}attn_temp.to_out.0.bias"].shape == (320,)


def test_pose_encoder_of_another_size_names_the_first_differing_tensors(tmp_path: Path) -> None:
    # fault 53. mutation: load with strict=False and this is red
    write_pose_encoder(small_encoder(), tmp_path / "pose_encoder.pth")
    with pytest.raises(UsageError) as caught:
        load_pose_encoder(tmp_path / "pose_encoder.pth", (16, 40, 32, 32))
    message = str(caught.value)
    assert "pose_encoder.pth" in message
    assert "body.2.block1.weight is (24, 24, 3, 3) instead of (40, 40, 3, 3)" in message
    assert "16, 40, 32, 32" in message


def test_missing_and_unknown_tensors_are_named(tmp_path: Path) -> None:
    state = small_encoder().state_dict()
    state["stranger"] = state.pop("conv_in.bias")
    write_weights(state, tmp_path / "p.safetensors")
    with pytest.raises(UsageError, match=r"conv_in.bias is missing; stranger is not known"):
        load_pose_encoder(tmp_path / "p.safetensors", WIDTHS)
    assert differences({}, {}) == []


def test_unet_of_another_size_is_refused_before_anything_is_changed(tmp_path: Path) -> None:
    unet = small_video_unet()
    state = official_state_dict(unet, small_encoder())
    state["conv_out.weight"] = state["conv_out.weight"][:2]
    write_weights(state, tmp_path / "u.safetensors")
    other = inflate_blank()
    with pytest.raises(UsageError, match=r"conv_out\.weight is"):
        load_official_unet(tmp_path / "u.safetensors", other, None)
    assert not any(parameter.any() for parameter in other.parameters())


class Malicious:
    """Runs a command when a naive unpickler meets it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("form", ["torch", "bare pickle"])
def test_a_pickle_that_would_run_code_is_refused_unrun(tmp_path: Path, form: str) -> None:
    # fault 52. mutation: weights_only=False and this is red
    file, trace = tmp_path / "pose_encoder.pth", tmp_path / "ran"
    if form == "torch":
        torch.save({"conv_in.weight": Malicious(trace)}, file)
    else:
        file.write_bytes(pickle.dumps(Malicious(trace)))
    with pytest.raises(UsageError, match="refused"):
        read_weights(file)
    assert not trace.exists()


def overlapping() -> bytes:
    entry = {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}
    header = json.dumps({"a": entry, "b": {**entry, "data_offsets": [8, 24]}}).encode()
    return struct.pack("<Q", len(header)) + header + bytes(24)


DAMAGED = {
    "overlapping offsets": overlapping(),
    "header of 2^63 bytes": struct.pack("<Q", 2**63) + b"{}",
    "empty": b"",
    "half a header": struct.pack("<Q", 100) + b'{"a":',
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_damaged_safetensors_are_refused(tmp_path: Path, damage: str) -> None:
    (tmp_path / "w.safetensors").write_bytes(DAMAGED[damage])
    with pytest.raises(UsageError, match="not a valid safetensors file"):
        read_weights(tmp_path / "w.safetensors")


@pytest.mark.parametrize("content", [b"", b"not a torch file", b"PK\x03\x04 half a zip"])
def test_damaged_torch_files_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "w.pth").write_bytes(content)
    with pytest.raises(UsageError, match=r"w\.pth"):
        read_weights(tmp_path / "w.pth")


def test_cut_torch_file_is_refused(tmp_path: Path) -> None:
    write_pose_encoder(small_encoder(), tmp_path / "w.pth")
    whole = (tmp_path / "w.pth").read_bytes()
    (tmp_path / "w.pth").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UsageError, match=r"w\.pth"):
        read_weights(tmp_path / "w.pth")


def test_anything_but_tensors_is_refused(tmp_path: Path) -> None:
    torch.save({"step": 3}, tmp_path / "w.pth")
    with pytest.raises(UsageError, match="flat state dict"):
        read_weights(tmp_path / "w.pth")
    torch.save([torch.zeros(1)], tmp_path / "l.pth")
    with pytest.raises(UsageError, match="not a state dict"):
        read_weights(tmp_path / "l.pth")
    with pytest.raises(UsageError, match="no weights at"):
        read_weights(tmp_path / "absent")


def test_written_files_hold_float32(tmp_path: Path) -> None:
    write_pose_encoder(small_encoder().to(torch.bfloat16), tmp_path / "p.safetensors")
    assert {value.dtype for value in load_file(tmp_path / "p.safetensors").values()} == {torch.float32}
