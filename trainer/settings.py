"""Settings of `lposekit train` and `lposekit cache-latents`. Values only: how they are found is `lposekit.settings`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, ClassVar, Literal

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
class FramingSettings:
    """How training images are cropped and sized."""

    size: Side = 512
    """Side length in pixels, a multiple of 64; the shorter side is resized to it."""
    crop: Literal["center", "random"] = "center"
    """Position of the square crop in the resized image."""
    flip: Fraction = 0.0
    """Probability of a horizontal flip; left and right keypoints are swapped."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipSamplingSettings:
    """How training clips are sampled (stage 2)."""

    frames: Positive = 8
    """Frames per clip; 8 to 24 in the paper and in later work."""
    stride: Positive = 4
    """Distance between two frames, in source frames. A clip that is too short uses the largest stride that fits."""
    stride_s: Seconds | None = None
    """The same in seconds, for sources with different frame rates; overrides `stride`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SkeletonSettings:
    """How the skeleton is drawn (stage 1)."""

    style: StyleName = "followyourpose"
    """Colours and limbs. Stage 2 uses the style and line width of the stage-1 run that it is given."""
    score_threshold: float | None = None
    """Raw score from which a keypoint is drawn; default: the threshold with which the dataset was built."""
    line_width: Annotated[float, Gt(0)] | None = None
    """Line width in pixels of the training image; default: that of the style, scaled to the size."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoaderSettings:
    """How samples are read."""

    workers: NotNegative = 4
    """Processes that read, decode and draw; 0: use the training process itself."""
    prefetch: Positive = 4
    """Micro-batches that each worker loads in advance."""
    weights: tuple[Annotated[float, Ge(0)], ...] = ()
    """How often an epoch visits each dataset of --data, in the same order; default: once each."""
    block_samples: Positive = 4096
    """Samples that are shuffled together; larger blocks mix more shards and read from more shards at a time."""
    verify_sha256: bool = False
    """Check the hash of every shard before the first step. Sizes are always checked."""
    latents: bool = False
    """Read latents from the caches that `lposekit cache-latents` wrote, instead of encoding images."""

    def problems(self) -> Iterable[tuple[str, str]]:
        if not all(weight == 0 or weight >= SMALLEST_WEIGHT for weight in self.weights):
            yield "weights", f"each 0, or at least {SMALLEST_WEIGHT}."
        if self.weights and not any(self.weights):
            yield "weights", "not all 0."


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSettings:
    """Which of the two versions of Follow-Your-Pose is trained; each switch can override the preset."""

    preset: Literal["official", "paper"] = "official"
    """`official`: what the released code computes. `paper`: zero-initialised pose and temporal output; only cross-frame
    and temporal attention are trained."""
    temporal_layers: bool | None = None
    """In stage 2, add temporal attention and convolution to every transformer block."""
    cross_frame: bool | None = None
    """Let the self-attention of a frame look at the first frame and the one before, not at itself."""
    pose_at: Literal["levels", "first_level", "input"] | None = None
    """Where pose features are added: after each down level of the UNet, after the first alone, or to the output of its
    first convolution (what concatenating them to the latents computes). Stage 2 needs the same as its stage 1."""
    joint_group_norm: bool | None = None
    """Compute the statistics of the resnets' and the output's norms over all frames of a clip, not per frame."""
    attn_temp_init: Literal["random", "zero"] | None = None
    """Initial output of the temporal attention; with `zero`, stage 2 starts out identical to its base."""
    pose_init: Literal["random", "zero"] | None = None
    """Initial features of the pose encoder; with `zero`, stage 1 starts out identical to its base."""
    trainable: Literal["official", "paper"] | None = None
    """What stage 2 trains. `official`: the queries of both attentions, the temporal attention and the temporal
    convolution; `paper`: the whole cross-frame and temporal attention."""
    train_norm_temp: bool | None = None
    """In stage 2, also train the norm before the temporal attention."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimSettings:
    """The optimiser: AdamW on float32 weights."""

    lr: Annotated[float, Gt(0)] | None = None
    """Learning rate; default: 1e-5 in stage 1 (as T2I-Adapter), 3e-5 in stage 2 (as the released configuration)."""
    betas: tuple[Decay, Decay] = (0.9, 0.999)
    """Decay rates of AdamW's moving averages of the gradient and its square."""
    weight_decay: Annotated[float, Ge(0)] = 1e-2
    """Weight decay of AdamW, decoupled from the gradient."""
    eps: Annotated[float, Gt(0)] = 1e-8
    """Term added to the denominator of AdamW for numerical stability."""
    clip_norm: Annotated[float, Gt(0)] = 1.0
    """Maximum global norm of the gradients; larger ones are clipped."""
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """Learning rate schedule after the warm-up; `linear` and `cosine` decay towards 0 until the last step."""
    warmup_steps: NotNegative = 0
    """Steps during which the learning rate rises linearly from 0."""
    micro_batch: Positive | None = None
    """Samples per forward pass and process; a batch uses as many passes as needed. Default: all in one pass."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LossSettings:
    """The training loss."""

    caption_dropout: Fraction = 0.0
    """Probability of replacing the caption of a sample with the empty one."""
    min_snr_gamma: Annotated[float, Gt(0)] | None = None
    """Weight the loss of a timestep by min(SNR, gamma) / SNR (Hang et al. 2023); default: no weighting."""
    offset_noise: Annotated[float, Ge(0)] = 0.0
    """Standard deviation of an offset added to the noise: one value per sample and channel, for all pixels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EmaSettings:
    """An exponential moving average (EMA) of the trained weights, stored beside them."""

    decay: Decay | None = None
    """Decay per step, such as 0.9999; default: no average."""
    start_step: NotNegative = 0
    """Updates before averaging begins; until then, the average equals the weights."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ComputeSettings:
    """Device, precision and speed."""

    device: str = "auto"
    """`cpu`, `cuda`, or `auto`: a GPU if there is one."""
    precision: Precision | None = None
    """Precision of frozen weights and compute; trained weights are float32. Default: bf16 on a GPU, fp32 elsewhere."""
    compile: bool = False
    """Compile each block with torch.compile."""
    gradient_checkpointing: bool = False
    """Recompute each block in the backward pass: less memory, more time."""
    threads: Positive | None = None
    """Torch threads; default: the default of torch."""
    deterministic: bool = False
    """Refuse non-deterministic operations. Runs on the same device type and world size are then bit-identical."""
    timeout_s: Seconds = 600.0
    """How long a process waits for the others before it gives up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointSettings:
    """When checkpoints are written, and which are kept."""

    every_steps: Positive = 1000
    """Steps from one checkpoint to the next; the last step always has one."""
    keep: Annotated[int, Ge(2)] = 3
    """Number of newest intact checkpoints to keep; at least 2, so that one is left if another is damaged."""
    keep_every_steps: Positive | None = None
    """Checkpoints at multiples of this number of steps are never removed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchSettings:
    """Logging, probes and validation images."""

    log_every: Positive = 1
    """Steps between two lines of metrics.jsonl."""
    keys: bool = False
    """Write the keys of the samples of every step, of all processes in order, to keys.jsonl."""
    probe_every: NotNegative = 200
    """Steps between two measurements of "Is the pose learned?" on the fixed noise batch; 0: never."""
    probe_samples: Annotated[int, Ge(2)] = 8
    """Samples of that batch; at least 2, since poses are swapped between samples."""
    sample_every: NotNegative = 2000
    """Steps between two validation grids; 0: never."""
    sample_prompts: tuple[str, ...] = ()
    """Prompts of the validation images; default: the captions of the first validation samples."""
    sample_count: Positive = 4
    """Images or clips per validation grid, if no prompts are set."""
    sample_steps: Positive = 50
    """DDIM steps for validation images."""
    guidance: Annotated[float, Ge(0)] = 12.5
    """Scale of the classifier-free guidance for validation images."""
    tensorboard: bool = True
    """Also write scalars and validation images for TensorBoard."""
    mfu: bool = True
    """Report MFU: count the FLOPs of a step, and measure peak matmul throughput at start-up (a few seconds)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainSettings:
    """Settings of `lposekit train`."""

    FORMER_GROUPS: ClassVar[Mapping[str, str]] = {"picture": "image"}
    stage: Stage = 1
    """1: the pose encoder, on images. 2: the temporal layers, on clips without pose."""
    data: tuple[Path, ...] = ()
    """Dataset folders."""
    output: Path | None = None
    """The run folder."""
    base: str | None = None
    """Stable Diffusion in diffusers layout: a folder, a hub id, or `tiny`. A hub id is downloaded into the cache of the
    hub if it is not there yet, even with --dry-run."""
    pose_encoder: str = ""
    """Stage 1: initial weights. Stage 2: the trained pose encoder to keep: a stage-1 run, a file, or `none`."""
    max_steps: Positive | None = None
    """Steps of the run; default: 100,000 in stage 1, 50,000 in stage 2."""
    batch_size: Positive = 64
    """Samples per step, over all processes."""
    seed: Annotated[int, Interval(ge=0, lt=2**63)] = 0
    """Determines the order of samples, all their random numbers, and the initialisation of new weights."""
    resume: str = "auto"
    """`auto`: resume from the newest intact checkpoint of the run folder, if any. `none`: refuse a folder that has
    checkpoints. Otherwise: the path of a checkpoint."""
    image: FramingSettings = field(default_factory=FramingSettings)
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
        weights, image = self.loader.weights, self.image
        if weights and len(weights) != len(self.data):
            yield "loader.weights", f"one for each dataset of --data, which has {len(self.data)}."
        if self.loader.latents and (image.flip > 0 or image.crop != "center"):
            text = "a cache holds the unflipped centre crop; leave --image.flip and --image.crop alone."
            yield "loader.latents", text


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheLatentsSettings:
    """Settings of `lposekit cache-latents`."""

    data: Path | None = None
    """The dataset folder; the cache is written into it."""
    base: str | None = None
    """The base model whose VAE is used: a folder, a hub id, or `tiny`. A hub id is downloaded into the cache of the hub
    if it is not there yet, even with --dry-run."""
    size: Side = 512
    """Side length of the training images in pixels."""
    batch_size: Positive = 8
    """Images per forward pass of the VAE."""
    device: str = "auto"
    """`cpu`, `cuda`, or `auto`: a GPU if there is one."""
    precision: Precision | None = None
    """Precision of the VAE; default: bf16 on a GPU, fp32 elsewhere. Latents are stored as fp16."""
    threads: Positive | None = None
    """Torch threads; default: the default of torch."""


NEEDED_TO_TRAIN = {
    "output": "name the run folder.",
    "base": "name the base model: a diffusers folder, a hub id, or `tiny`.",
}
NEEDED_TO_CACHE = {
    "data": "name the dataset folder.",
    "base": "name the base whose VAE encodes: a diffusers folder, a hub id, or `tiny`.",
}
"""Required settings that have no sensible default."""


def max_steps(settings: TrainSettings) -> int:
    """Steps of the run."""
    return DEFAULT_MAX_STEPS.get(settings.stage, 1) if settings.max_steps is None else settings.max_steps


def learning_rate(settings: TrainSettings) -> float:
    """Learning rate after the warm-up."""
    default = {1: 1e-5, 2: 3e-5}[settings.stage]
    return default if settings.optim.lr is None else settings.optim.lr
