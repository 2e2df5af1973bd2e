"""Computes the `expected.*` tensors of a golden case with the trainer's model, from weights and inputs alone."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, Literal

import torch
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.attention_processor import Attention
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from einops import rearrange
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from tests.golden.fixture_set import HEAD_KEYS, Case, FixtureSet, Weights
from trainer.inference.sample import GUIDANCE, ddim_scheduler, ddim_steps
from trainer.model.attention import sparse_causal_attention
from trainer.model.blocks import ConvTemporal, inflate_resnet, inflate_transformer, inflate_transformer_block
from trainer.model.pose_encoder import BLOCKS_PER_LEVEL, POSE_PREFIX, PoseEncoder, build_pose_encoder
from trainer.model.switches import OFFICIAL
from trainer.model.unet import VideoUNet, inflate
from trainer.stages import StageModel, StageNumber, freeze_all_but_trained

Tensors = dict[str, Tensor]

SD_HEADS, SD_GROUPS = 8, 32
SD_SCHEDULER = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
"""Of Stable Diffusion 1.x: what holds where a set does not state its own."""


def evaluate(fixtures: FixtureSet, case: Case) -> Tensors:
    """The tensors `expected.*` of a case. Which computation it is follows from its weights and inputs."""
    weights = fixtures.weights_of(case)
    if "prompt_embeddings" in case.inputs:
        return evaluate_ddim(fixtures, case, weights)
    if "noise" in case.inputs:
        return evaluate_step(fixtures, case, weights)
    if "sample" in case.inputs:
        return evaluate_unet(fixtures, case, weights)
    with torch.no_grad():
        return module_evaluator(weights)(fixtures, case, weights)


def module_evaluator(weights: Weights) -> Callable[[FixtureSet, Case, Weights], Tensors]:
    """The evaluator for the module that these weights belong to."""
    kinds = {
        "body.0.block1.weight": evaluate_adapter,
        "proj_in.weight": evaluate_transformer,
        "attn_temp.to_q.weight": evaluate_transformer_block,
        "to_q.weight": evaluate_attention,
        "conv1.weight": evaluate_resnet,
        "down.weight": evaluate_temporal_conv,
    }
    for name, evaluator in kinds.items():
        if name in weights:
            return evaluator
    raise ValueError(f"weights of no known module: {', '.join(list(weights)[:5])}, ...")


def evaluate_adapter(fixtures: FixtureSet, case: Case, weights: Weights) -> Tensors:
    features = load_encoder(weights)(case.inputs["pose"])
    return {f"expected.features.{i}": feature for i, feature in enumerate(features)}


def evaluate_attention(fixtures: FixtureSet, case: Case, weights: Weights) -> Tensors:
    inner, width = weights["to_q.weight"].shape
    heads = stated_heads(fixtures, case, width)
    attn = Attention(query_dim=width, heads=heads, dim_head=inner // heads, bias=False)
    attn.load_state_dict(weights)
    return per_frame_count(case, lambda inputs, frames: sparse_causal_attention(attn, inputs["hidden_states"], frames))


def evaluate_transformer_block(fixtures: FixtureSet, case: Case, weights: Weights) -> Tensors:
    inner, width = weights["attn1.to_q.weight"].shape
    heads = stated_heads(fixtures, case, width)
    text_width = weights["attn2.to_k.weight"].shape[1]
    block = inflate_transformer_block(
        BasicTransformerBlock(width, heads, inner // heads, cross_attention_dim=text_width), OFFICIAL
    )
    block.load_state_dict(weights)
    return per_frame_count(
        case, lambda inputs, frames: block(inputs["hidden_states"], inputs["encoder_hidden_states"], frames)
    )


def evaluate_temporal_conv(fixtures: FixtureSet, case: Case, weights: Weights) -> Tensors:
    conv = ConvTemporal(weights["down.weight"].shape[1])
    conv.load_state_dict(weights)

    def run(x: Tensor) -> Tensor:
        out = conv(rearrange(x, "b c f -> (b f) 1 c"), frames=x.shape[2])
        return rearrange(out, "(b f) 1 c -> b c f", f=x.shape[2])

    return with_quiet(case, run)


def evaluate_resnet(fixtures: FixtureSet, case: Case, weights: Weights) -> Tensors:
    out_channels, in_channels = weights["conv1.weight"].shape[:2]
    config = fixtures.section(case, ("groups",), in_channels)
    resnet = ResnetBlock2D(
        in_channels=in_channels,
        out_channels=out_channels,
        temb_channels=weights["time_emb_proj.weight"].shape[1],
        groups=config.get("groups", config.get("norm_num_groups", SD_GROUPS)),
        eps=config.get("eps", 1e-5),
    )
    inflate_resnet(resnet, OFFICIAL).load_state_dict(weights)
    return with_quiet(case, lambda x: clipwise(x, lambda folded, frames: resnet(folded, case.inputs["temb"], frames)))


def evaluate_transformer(fixtures: FixtureSet, case: Case, weights: Weights) -> Tensors:
    in_channels = weights["norm.weight"].shape[0]
    inner = weights["transformer_blocks.0.attn1.to_q.weight"].shape[0]
    config = fixtures.section(case, ("num_attention_heads",), in_channels)
    heads = stated_heads(fixtures, case, in_channels)
    transformer = Transformer2DModel(
        num_attention_heads=heads,
        attention_head_dim=inner // heads,
        in_channels=in_channels,
        norm_num_groups=config.get("norm_num_groups", config.get("groups", SD_GROUPS)),
        cross_attention_dim=weights["transformer_blocks.0.attn2.to_k.weight"].shape[1],
        num_layers=len({name.split(".")[1] for name in weights if name.startswith("transformer_blocks.")}),
        use_linear_projection=weights["proj_in.weight"].ndim == 2,
    )
    inflate_transformer(transformer, OFFICIAL).load_state_dict(weights)
    text = case.inputs["encoder_hidden_states"]
    return with_quiet(case, lambda x: clipwise(x, lambda folded, frames: transformer(folded, text, frames)))


def evaluate_unet(fixtures: FixtureSet, case: Case, weights: Weights) -> Tensors:
    unet, encoder = load_models(fixtures, weights)
    inputs = (case.inputs["sample"], case.inputs["timestep"], case.inputs["encoder_hidden_states"])
    with torch.no_grad():
        out = {"expected.train.out": unet(*inputs)}
        if "pose" in case.inputs:
            out["expected.sample.out"] = unet(*inputs, encoder(case.inputs["pose"]))
    return out


def evaluate_step(fixtures: FixtureSet, case: Case, weights: Weights) -> Tensors:
    """One training step: with pose it is a stage-1 step (the UNet keeps its temporal layers), without a stage-2 one."""
    unet, encoder = load_models(fixtures, weights)
    number: StageNumber = 1 if "pose" in case.inputs else 2
    stage = StageModel(number, unet, encoder, noise_scheduler(fixtures))
    freeze_all_but_trained(stage)
    x = case.inputs
    inputs = (x["latents"], x["noise"], x["timesteps"], x["encoder_hidden_states"], x.get("pose"))
    loss = stage(*inputs).mean()
    loss.backward()
    with torch.no_grad():
        noisy = stage.noisy_latents(*inputs[:3])
        prediction = stage.unet(noisy, inputs[2], inputs[3], stage.pose_features(inputs[4]))
    trained = in_stated_order(stage.trainable(), fixtures, case)
    out = {"expected.noisy_latents": noisy, "expected.model_pred": prediction, "expected.loss": loss.detach()[None]}
    out |= gradients(trained, case)
    optimizer = torch.optim.AdamW(list(trained.values()), lr=3e-5, betas=(0.9, 0.999), weight_decay=1e-2, eps=1e-8)
    out["expected.grad_norm_total"] = clip_grad_norm_(list(trained.values()), 1.0)[None]
    optimizer.step()
    with torch.no_grad():
        out["expected.loss_after_one_step"] = stage(*inputs).mean()[None]
    return out


def gradients(trained: dict[str, torch.nn.Parameter], case: Case) -> Tensors:
    """Norms of all gradients, and the full ones that the case names (all of them where it names none)."""
    grads = {name: parameter.grad.clone() for name, parameter in trained.items() if parameter.grad is not None}
    wanted = {f"expected.grad.{name}" for name in grads}
    wanted = wanted & case.expected_names or wanted
    norms = torch.stack([grads[name].norm() for name in trained])
    full = {f"expected.grad.{name}": grad for name, grad in grads.items() if f"expected.grad.{name}" in wanted}
    return {"expected.grad_norm": norms, **full}


def in_stated_order(
    trained: dict[str, torch.nn.Parameter], fixtures: FixtureSet, case: Case
) -> dict[str, torch.nn.Parameter]:
    """The trained parameters in the order of `parameter_names` in `meta.json`, which must be the same set; without it
    in the order in which the released code has them."""
    names = stated_names(fixtures.meta.get("cases", {}).get(case.meta_key, {})) or sorted(trained, key=official_place)
    if set(names) != set(trained):
        different = sorted(set(names) ^ set(trained))
        raise ValueError(f"{case.name}: trained parameters differ from meta.json, first: {different[:5]}")
    return {name: trained[name] for name in names}


def stated_names(entry: dict[str, Any]) -> list[str]:
    """The parameter names of a case, in their order; empty if it states none."""
    return list(find_key(entry, "parameter_names") or find_key(entry, "grad_norm_by_parameter") or [])


def official_place(name: str) -> tuple[bool, bool, int, bool]:
    """Sorts parameter names as the released code has them, from the order of ours: its pose encoder has the input
    convolution last, and a block's change of width first."""
    part, _, rest = name.removeprefix(POSE_PREFIX).partition(".")
    if not name.startswith(POSE_PREFIX) or part != "body":
        return name.startswith(POSE_PREFIX), True, 0, True
    return True, False, int(rest.split(".")[0]), "in_conv" not in rest


def find_key(tree: Any, key: str) -> Any:
    """The value of a key anywhere in nested dictionaries; None if there is none."""
    if not isinstance(tree, dict):
        return None
    if key in tree:
        return tree[key]
    return next((found for value in tree.values() if (found := find_key(value, key)) is not None), None)


def evaluate_ddim(fixtures: FixtureSet, case: Case, weights: Weights) -> Tensors:
    unet, encoder = load_models(fixtures, weights)
    config = fixtures.section(case, ("guidance", "steps"))
    x = case.inputs
    ddim = ddim_scheduler(noise_scheduler(fixtures), config.get("steps") or named_steps(case))
    with torch.no_grad():
        pose = encoder(x["pose"]) if "pose" in x else None
    guidance = config.get("guidance", GUIDANCE)
    steps = list(ddim_steps(unet, ddim, x["latents"], x["prompt_embeddings"], x["negative_embeddings"], pose, guidance))
    out = {f"expected.latents_after_step.{i}": step.latents_BCFHW for i, step in enumerate(steps)}
    out["expected.final_latents"] = steps[-1].latents_BCFHW.clone()
    out["expected.unet_out_step0"] = steps[0].prediction
    out["expected.timesteps"] = torch.tensor([int(step.timestep) for step in steps])
    return out


def named_steps(case: Case) -> int:
    """Number of DDIM steps that a case names results of."""
    count = sum(name.startswith("expected.latents_after_step.") for name in case.expected_names)
    if not count:
        raise ValueError(f"{case.name}: neither `config` in meta.json nor expected tensors say how many steps")
    return count


def load_models(fixtures: FixtureSet, weights: Weights) -> tuple[VideoUNet, PoseEncoder]:
    """UNet and pose encoder of a whole state dict with official names, loaded strictly."""
    pose_weights = {
        name.removeprefix(POSE_PREFIX): value for name, value in weights.items() if name.startswith(POSE_PREFIX)
    }
    unet_weights = {name: value for name, value in weights.items() if not name.startswith(POSE_PREFIX)}
    unet = inflate(UNet2DConditionModel(**unet_configuration(fixtures, unet_weights)), OFFICIAL)
    unet.load_state_dict(unet_weights)
    return unet.eval(), load_encoder(pose_weights)


def unet_configuration(fixtures: FixtureSet, weights: Weights) -> dict[str, Any]:
    """Widths and levels from the weights; heads, groups and the rest from `meta.json`."""
    levels = 1 + max(int(name.split(".")[1]) for name in weights if name.startswith("down_blocks."))
    widths = [weights[f"down_blocks.{i}.resnets.0.conv1.weight"].shape[0] for i in range(levels)]
    attention = [f"down_blocks.{i}.attentions.0.proj_in.weight" in weights for i in range(levels)]
    layers = len({name.split(".")[3] for name in weights if name.startswith("down_blocks.0.resnets.")})
    parts = [part for part in fixtures.meta.get("config", {}).values() if isinstance(part, dict)]
    # a set may have several UNets: the one of these widths, or else the only one that is described
    described = [part for part in parts if "block_out_channels" in part]
    section = next((part for part in described if list(part["block_out_channels"]) == widths), {})
    section = section or next(iter(described), {})
    known = inspect.signature(UNet2DConditionModel.__init__).parameters
    stated = {key: value for key, value in section.items() if key in known}
    return {
        "attention_head_dim": section.get("heads", SD_HEADS),
        "norm_num_groups": section.get("groups", SD_GROUPS),
        **stated,
        "in_channels": weights["conv_in.weight"].shape[1],
        "out_channels": weights["conv_out.weight"].shape[0],
        "block_out_channels": widths,
        "layers_per_block": layers,
        "cross_attention_dim": weights["mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight"].shape[1],
        "use_linear_projection": weights["mid_block.attentions.0.proj_in.weight"].ndim == 2,
        "down_block_types": ["CrossAttnDownBlock2D" if has else "DownBlock2D" for has in attention],
        "up_block_types": ["CrossAttnUpBlock2D" if has else "UpBlock2D" for has in reversed(attention)],
    }


def load_encoder(weights: Weights) -> PoseEncoder:
    """A pose encoder as wide as the weights say, loaded strictly."""
    levels = len({name.split(".")[1] for name in weights if name.startswith("body.")}) // BLOCKS_PER_LEVEL
    widths = [weights[f"body.{i * BLOCKS_PER_LEVEL}.block1.weight"].shape[0] for i in range(levels)]
    encoder = build_pose_encoder(widths, OFFICIAL)
    encoder.load_state_dict(weights)
    return encoder


def noise_scheduler(fixtures: FixtureSet) -> DDPMScheduler:
    """The forward diffusion of the set."""
    stated = {**SD_SCHEDULER, **fixtures.meta.get("scheduler", {})}
    keys = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "prediction_type")
    return DDPMScheduler(**{key: stated[key] for key in keys if key in stated}, clip_sample=False)


def stated_heads(fixtures: FixtureSet, case: Case, width: int) -> int:
    """Number of heads of a block-level case."""
    config = fixtures.section(case, HEAD_KEYS, width)
    return next((config[key] for key in HEAD_KEYS if key in config), SD_HEADS)


def per_frame_count(case: Case, run: Callable[[Tensors, int], Tensor]) -> Tensors:
    """Runs a case that has one set of inputs for each frame count: `f3.hidden_states` -> `expected.f3.out`."""
    prefixes = sorted({name.split(".")[0] for name in case.inputs}, key=lambda prefix: int(prefix[1:]))
    out = {}
    for prefix in prefixes:
        inputs = {name.partition(".")[2]: value for name, value in case.inputs.items() if name.startswith(f"{prefix}.")}
        out[f"expected.{prefix}.out"] = run(inputs, int(prefix[1:]))
    return out


def with_quiet(case: Case, run: Callable[[Tensor], Tensor]) -> Tensors:
    """`expected.out` of the input and, where there is one, `expected.quiet.out` of the quiet input."""
    out: Tensors = {}
    stems: tuple[Literal["", "quiet."], ...] = ("", "quiet.")
    for stem in stems:
        if f"{stem}hidden_states" in case.inputs:
            out[f"expected.{stem}out"] = run(case.inputs[f"{stem}hidden_states"])
    return out


def clipwise(x_BCFHW: Tensor, run: Callable[[Tensor, int], Tensor]) -> Tensor:
    """Runs a module for folded frames on BCFHW."""
    frames = x_BCFHW.shape[2]
    return rearrange(run(rearrange(x_BCFHW, "b c f h w -> (b f) c h w"), frames), "(b f) c h w -> b c f h w", f=frames)
