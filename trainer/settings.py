"""Settings of `lposekit train` and `lposekit cache-latents`. Values only: how they are found is `lposekit.settings`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Interval, MultipleOf

from lposekit.setting_values import Fraction, NotNegative, Positive, Seconds
from lposekit.skeleton_styles import StyleName

Side = Annotated[int, Ge(64), MultipleOf(64)]
Decay = Annotated[float, Interval(ge=0, lt=1)]
Stage = Literal[1, 2]
Precision = Literal["bf16", "fp16", "fp32"]

DEFAULT_MAX_STEPS: dict[int, int] = {1: 100_000, 2: 50_000}
"""The paper's."""
SMALLEST_WEIGHT = 0.001
"""The sample order takes weights in thousandths: a smaller one would be none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureSettings:
    """What a training picture is."""

    size: Side = 512
    """Side in pixels, a multiple of 64; the shorter side is resized to it."""
    crop: Literal["center", "random"] = "center"
    """Where the square is cut from the resized picture."""
    flip: Fraction = 0.0
    """Probability of a horizontal flip; left and right keypoints are swapped."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipSamplingSettings:
    """What a training clip is (stage 2)."""

    frames: Positive = 8
    """8 to 24 in the paper and in later work."""
    stride: Positive = 4
    """Source frames from one frame to the next. A clip too short for it takes the largest stride that fits."""
    stride_s: Seconds | None = None
    """The same in seconds, for sources of different frame rates; overrides `stride`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SkeletonSettings:
    """How the skeleton is drawn (stage 1)."""

    style: StyleName = "followyourpose"
    """Palette and limbs. Stage 2 takes style and line width over from the stage-1 run that it is given."""
    score_threshold: float | None = None
    """Raw score from which a keypoint is drawn; default: the one that the dataset was built with."""
    line_width: Annotated[float, Gt(0)] | None = None
    """In pixels of the training picture; default: the style's, in proportion to the size."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoaderSettings:
    """How samples are read."""

    workers: NotNegative = 4
    """Processes that read, decode and draw; 0: the training process itself."""
    prefetch: Positive = 4
    """Micro-batches that each worker holds ready."""
    weights: tuple[Annotated[float, Ge(0)], ...] = ()
    """How often an epoch visits each dataset of --data, in their order; default: once each."""
    block_samples: Positive = 4096
    """Samples shuffled together; larger mixes more shards and reads from more of them at a time."""
    verify_sha256: bool = False
    """Hash every shard before the first step. Sizes are always checked."""
    latents: bool = False
    """Take pictures from the caches that `lposekit cache-latents` wrote."""

    def problems(self) -> Iterable[tuple[str, str]]:
        if not all(weight == 0 or weight >= SMALLEST_WEIGHT for weight in self.weights):
            yield "weights", f"each 0, or at least {SMALLEST_WEIGHT}."
        if self.weights and not any(self.weights):
            yield "weights", "not all 0."


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSettings:
    """Which of the two readings of Follow-Your-Pose is trained; single switches override the preset."""

    preset: Literal["official", "paper"] = "official"
    """`official`: what the released code computes. `paper`: zero-initialised pose and temporal output, only cross-frame
    and temporal attention trained."""
    joint_group_norm: bool | None = None
    """Norms of resnets and output take their statistics over all frames of a clip together, not frame by frame."""
    attn_temp_init: Literal["random", "zero"] | None = None
    """Output of the temporal attention at the start: `zero` makes stage 2 begin as its base."""
    pose_init: Literal["random", "zero"] | None = None
    """The pose encoder at the start: `zero` makes all its features zero, and stage 1 begin as its base."""
    trainable: Literal["official", "paper"] | None = None
    """What stage 2 trains. `official`: both attentions' queries, temporal attention and temporal convolution; `paper`:
    all of the cross-frame and of the temporal attention."""
    train_norm_temp: bool | None = None
    """Stage 2 trains the norm before the temporal attention as well."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimSettings:
    """The optimiser: AdamW on float32 weights."""

    lr: Annotated[float, Gt(0)] | None = None
    """Default: 1e-5 in stage 1 (T2I-Adapter's), 3e-5 in stage 2 (the released configuration)."""
    betas: tuple[Decay, Decay] = (0.9, 0.999)
    """Decay of AdamW's averages of the gradient and of its square."""
    weight_decay: Annotated[float, Ge(0)] = 1e-2
    """AdamW's, decoupled from the gradient."""
    eps: Annotated[float, Gt(0)] = 1e-8
    """Added to the root in AdamW's denominator."""
    clip_norm: Annotated[float, Gt(0)] = 1.0
    """Largest global norm of the gradients."""
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """After the warm-up; `linear` and `cosine` fall towards 0 up to the last step."""
    warmup_steps: NotNegative = 0
    """Steps in which the learning rate rises from 0 in a line."""
    micro_batch: Positive | None = None
    """Samples of one forward pass on one process; the batch is made of as many as it takes. Default: all at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LossSettings:
    """What is learned from a sample."""

    caption_dropout: Fraction = 0.0
    """Probability that a sample is trained with the empty caption."""
    min_snr_gamma: Annotated[float, Gt(0)] | None = None
    """Weight a step by min(SNR, gamma) / SNR (Hang et al. 2023)."""
    offset_noise: Annotated[float, Ge(0)] = 0.0
    """Standard deviation of a shift of each channel's noise, one for all pixels of a sample."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EmaSettings:
    """A moving average of the trained weights, kept beside them."""

    decay: Decay | None = None
    """Per step, such as 0.9999; default: no average."""
    start_step: NotNegative = 0
    """Updates before the average begins; until then it follows the weights."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ComputeSettings:
    """Where and in which precision."""

    device: str = "auto"
    """`cpu`, `cuda`, or `auto`: a GPU where there is one."""
    precision: Precision | None = None
    """Of the frozen weights and the arithmetic; trained weights are float32. Default: bf16 on a GPU, fp32 elsewhere."""
    compile: bool = False
    """torch.compile of each block."""
    gradient_checkpointing: bool = False
    """Compute each block's forward pass again in the backward pass: less memory, more time."""
    threads: Positive | None = None
    """Torch threads; default: torch's."""
    deterministic: bool = False
    """Refuse operations whose result depends on timing. On one device type and world size, runs are then equal to
    the bit."""
    timeout_s: Seconds = 600.0
    """How long a process waits for the others before it stops."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointSettings:
    """What is kept of a run."""

    every_steps: Positive = 1000
    """Steps from one checkpoint to the next; the last step always has one."""
    keep: Annotated[int, Ge(2)] = 3
    """Newest whole checkpoints that stay; at least 2, so that one broken leaves one."""
    keep_every_steps: Positive | None = None
    """Checkpoints of these steps are never removed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchSettings:
    """What a run shows of itself."""

    log_every: Positive = 1
    """Steps between lines of metrics.jsonl."""
    keys: bool = False
    """Write the keys of every step's samples to keys.jsonl, those of all processes in their order."""
    probe_every: NotNegative = 200
    """Steps between two looks at "is the pose learned?" on the fixed noise batch; 0: never."""
    probe_samples: Annotated[int, Ge(2)] = 8
    """Samples of that batch; at least 2, or no pose could be another's."""
    sample_every: NotNegative = 2000
    """Steps between two validation grids; 0: never."""
    sample_prompts: tuple[str, ...] = ()
    """Default: captions of the first validation samples."""
    sample_count: Positive = 4
    """Pictures or clips of a validation grid, if no prompts are set."""
    sample_steps: Positive = 50
    """DDIM steps."""
    guidance: Annotated[float, Ge(0)] = 12.5
    """Weight of classifier-free guidance in the validation pictures."""
    tensorboard: bool = True
    """Write scalars and validation pictures for TensorBoard as well."""
    mfu: bool = True
    """Count the arithmetic of a step and measure the device's matmul peak at start-up, which takes some seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainSettings:
    """Settings of `lposekit train`."""

    stage: Stage = 1
    """1: the pose encoder, on pictures. 2: the temporal layers, on clips without pose."""
    data: tuple[Path, ...] = ()
    """Dataset folders."""
    output: Path | None = None
    """The run folder."""
    base: str | None = None
    """Stable Diffusion in diffusers layout: a folder, a hub id, or `tiny`. A hub id is downloaded into the hub's cache
    where it is not there yet, also by --dry-run."""
    pose_encoder: str = ""
    """Stage 1: weights to start from. Stage 2: the trained pose encoder to carry along: a stage-1 run, a file, or
    `none`."""
    max_steps: Positive | None = None
    """Default: 100,000 in stage 1, 50,000 in stage 2."""
    batch_size: Positive = 64
    """Samples of one step, over all processes."""
    seed: Annotated[int, Interval(ge=0, lt=2**63)] = 0
    """Decides the order of samples, all their random numbers, and the new weights."""
    resume: str = "auto"
    """`auto`: the newest whole checkpoint of the run folder, if any. `none`: refuse a folder that has one. Or a
    checkpoint."""
    picture: PictureSettings = field(default_factory=PictureSettings)
    clip: ClipSamplingSettings = field(default_factory=ClipSamplingSettings)
    pose: SkeletonSettings = field(default_factory=SkeletonSettings)
    loader: LoaderSettings = field(default_factory=LoaderSettings)
    model: ModelSettings = field(default_factory=ModelSettings)
    optim: OptimSettings = field(default_factory=OptimSettings)
    loss: LossSettings = field(default_factory=LossSettings)
    ema: EmaSettings = field(default_factory=EmaSettings)
    compute: ComputeSettings = field(default_factory=ComputeSettings)
    checkpoint: CheckpointSettings = field(default_factory=CheckpointSettings)
    watch: WatchSettings = field(default_factory=WatchSettings)

    def problems(self) -> Iterable[tuple[str, str]]:
        weights, picture = self.loader.weights, self.picture
        if weights and len(weights) != len(self.data):
            yield "loader.weights", f"one for each dataset of --data, which has {len(self.data)}."
        if self.loader.latents and (picture.flip > 0 or picture.crop != "center"):
            text = "a cache holds the unflipped centre crop; leave --picture.flip and --picture.crop alone."
            yield "loader.latents", text


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheLatentsSettings:
    """Settings of `lposekit cache-latents`."""

    data: Path | None = None
    """The dataset folder; the cache goes into it."""
    base: str | None = None
    """The base whose VAE encodes: a folder, a hub id, or `tiny`. A hub id is downloaded into the hub's cache where it
    is not there yet, also by --dry-run."""
    size: Side = 512
    """Side of the training pictures in pixels."""
    batch_size: Positive = 8
    """Pictures of one forward pass of the VAE."""
    device: str = "auto"
    """`cpu`, `cuda`, or `auto`: a GPU where there is one."""
    precision: Precision | None = None
    """Of the VAE's arithmetic; default: bf16 on a GPU, fp32 elsewhere. Stored is fp16."""
    threads: Positive | None = None
    """Torch threads; default: torch's."""


NEEDED_TO_TRAIN = {
    "output": "name the run folder.",
    "base": "name the base model: a diffusers folder, a hub id, or `tiny`.",
}
NEEDED_TO_CACHE = {
    "data": "name the dataset folder.",
    "base": "name the base whose VAE encodes: a diffusers folder, a hub id, or `tiny`.",
}
"""What no run can do without, and no default can stand for."""


def max_steps(settings: TrainSettings) -> int:
    """Steps of the run."""
    return DEFAULT_MAX_STEPS.get(settings.stage, 1) if settings.max_steps is None else settings.max_steps


def learning_rate(settings: TrainSettings) -> float:
    """Learning rate after the warm-up."""
    default = {1: 1e-5, 2: 3e-5}[settings.stage]
    return default if settings.optim.lr is None else settings.optim.lr
