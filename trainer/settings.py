"""Settings of `lposekit train` and `lposekit cache-latents`. Values only: how they are found is `lposekit.settings`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from annotated_types import Ge, Gt, Interval, MultipleOf

from lposekit.setting_values import LOGGED, MAY_CHANGE, MUST_STAY, Fraction, Minutes, NotNegative, Positive, Seconds
from lposekit.skeleton_styles import StyleName

Side = Annotated[int, Ge(64), MultipleOf(64)]
Decay = Annotated[float, Interval(ge=0, lt=1)]
Stage = Literal[1, 2]
Precision = Literal["bf16", "fp16", "fp32"]

DEFAULT_MAX_STEPS: dict[int, int] = {1: 100_000, 2: 50_000}
"""The paper's."""
DEFAULT_BATCH_SIZES: dict[int, int] = {1: 64, 2: 8}
MICRO_BATCH_PIXELS = 32 * 512 * 512
"""Of all frames of a default micro-batch: at 512 px, 32 images in stage 1, 4 clips of 8 frames in stage 2."""
SMALLEST_WEIGHT = 0.001
"""The sample order takes weights in thousandths: a smaller one would be none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FramingSettings:
    """How training images are cropped and sized."""

    size: Annotated[Side, MUST_STAY] = 512
    """Side length in pixels, a multiple of 64; the shorter side is resized to it."""
    crop: Annotated[Literal["center", "random", "person"], MUST_STAY] = "center"
    """Position of the square crop in the resized image. `person` (stage 1): where it holds the most detected
    keypoints, so that heads and feet stay."""
    flip: Annotated[Fraction, MUST_STAY] = 0.0
    """Probability of a horizontal flip; left and right keypoints are swapped."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipSamplingSettings:
    """How training clips are sampled (stage 2)."""

    frames: Annotated[Positive, MUST_STAY] = 8
    """Frames per clip; 8 to 24 in the paper and in later work."""
    stride: Annotated[Positive, MUST_STAY] = 4
    """Distance between two frames, in source frames. A clip that is too short uses the largest stride that fits."""
    stride_s: Annotated[Seconds | None, MUST_STAY] = None
    """The same in seconds, for sources with different frame rates; overrides `stride`."""
    start: Annotated[Literal["any", "stride"], MUST_STAY] = "any"
    """Where a clip may begin. `any`: at every frame; `stride`: at multiples of the stride, so that a latent cache needs
    no frames but those."""
    short: Annotated[Literal["next", "repeat"], MUST_STAY] = "next"
    """A clip with fewer frames than asked for. `next`: the next one of its shard that is long enough takes its place,
    and is counted (`short_clips`); `repeat`: its last frame is repeated."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SkeletonSettings:
    """How the skeleton is drawn (stage 1)."""

    style: Annotated[StyleName, MUST_STAY] = "followyourpose"
    """Colours and limbs. Stage 2 uses the style and line width of the stage-1 run that it is given."""
    score_threshold: Annotated[float | None, MUST_STAY] = None
    """Raw score from which a keypoint is drawn; default: the threshold with which the dataset was built."""
    line_width: Annotated[Annotated[float, Gt(0)] | None, MUST_STAY] = None
    """Line width in pixels of the training image; default: that of the style, scaled to the size."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoaderSettings:
    """How samples are read."""

    workers: Annotated[NotNegative, MAY_CHANGE] = 4
    """Processes that read, decode and draw; 0: use the training process itself."""
    prefetch: Annotated[Positive, MAY_CHANGE] = 4
    """Micro-batches that each worker loads in advance."""
    weights: Annotated[tuple[Annotated[float, Ge(0)], ...], MUST_STAY] = ()
    """How often an epoch visits each dataset of --data, in the same order; default: once each."""
    block_samples: Annotated[Positive, MUST_STAY] = 4096
    """Samples that are shuffled together; larger blocks mix more shards and read from more shards at a time."""
    verify_sha256: Annotated[bool, MAY_CHANGE] = False
    """Check the hash of every shard before the first step. Sizes are always checked."""
    held_out: Annotated[NotNegative, MUST_STAY] = 2048
    """Samples that are never trained on, for probe, validation loss and validation images: about so many, at most one
    in a hundred, all clips of a video together. A dataset that is too small for that holds out nothing."""
    image_share: Annotated[Fraction, MUST_STAY] = 0.2
    """With `images`: fraction of the batches that are images, all of their samples; the others are clips."""
    latents: Annotated[bool, MUST_STAY] = False
    """Read latents from the caches that `lposekit cache-latents` wrote, instead of encoding images."""

    def problems(self) -> Iterable[tuple[str, str]]:
        if not all(weight == 0 or weight >= SMALLEST_WEIGHT for weight in self.weights):
            yield "weights", f"each 0, or at least {SMALLEST_WEIGHT}."
        if self.weights and not any(self.weights):
            yield "weights", "not all 0."


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSettings:
    """Which of the two versions of Follow-Your-Pose is trained; each switch can override the preset."""

    preset: Annotated[Literal["official", "paper"], MUST_STAY] = "official"
    """`official`: what the released code computes. `paper`: zero-initialised pose and temporal output; only cross-frame
    and temporal attention are trained."""
    temporal_layers: Annotated[bool | None, MUST_STAY] = None
    """In stage 2, add temporal attention and convolution to every transformer block."""
    cross_frame: Annotated[bool | None, MUST_STAY] = None
    """Let the self-attention of a frame look at the first frame and the one before, not at itself."""
    pose_at: Annotated[Literal["levels", "first_level", "input"] | None, MUST_STAY] = None
    """Where pose features are added: after each down level of the UNet, after the first alone, or to the output of its
    first convolution (what concatenating them to the latents computes). Stage 2 needs the same as its stage 1."""
    joint_group_norm: Annotated[bool | None, MUST_STAY] = None
    """Compute the statistics of the resnets' and the output's norms over all frames of a clip, not per frame."""
    attn_temp_init: Annotated[Literal["random", "zero"] | None, MUST_STAY] = None
    """Initial output of the temporal attention; with `zero`, stage 2 starts out identical to its base."""
    pose_init: Annotated[Literal["random", "zero"] | None, MUST_STAY] = None
    """Initial features of the pose encoder; with `zero`, stage 1 starts out identical to its base."""
    trainable: Annotated[Literal["official", "paper"] | None, MUST_STAY] = None
    """What stage 2 trains. `official`: the queries of both attentions, the temporal attention and the temporal
    convolution; `paper`: the whole cross-frame and temporal attention."""
    train_norm_temp: Annotated[bool | None, MUST_STAY] = None
    """In stage 2, also train the norm before the temporal attention."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimSettings:
    """The optimiser: AdamW on float32 weights."""

    lr: Annotated[Annotated[float, Gt(0)] | None, LOGGED] = None
    """Learning rate; default: 1e-5 in stage 1 (as T2I-Adapter), 3e-5 in stage 2 (as the released configuration)."""
    betas: Annotated[tuple[Decay, Decay], LOGGED] = (0.9, 0.999)
    """Decay rates of AdamW's moving averages of the gradient and its square."""
    weight_decay: Annotated[float, Ge(0), LOGGED] = 1e-2
    """Weight decay of AdamW, decoupled from the gradient."""
    eps: Annotated[float, Gt(0), LOGGED] = 1e-8
    """Term added to the denominator of AdamW for numerical stability."""
    clip_norm: Annotated[float, Gt(0), LOGGED] = 1.0
    """Maximum global norm of the gradients; larger ones are clipped."""
    schedule: Annotated[Literal["constant", "linear", "cosine"], LOGGED] = "constant"
    """Learning rate schedule after the warm-up; `linear` and `cosine` decay towards 0 until the last step."""
    warmup_steps: Annotated[NotNegative, LOGGED] = 0
    """Steps during which the learning rate rises linearly from 0."""
    micro_batch: Annotated[Positive | Literal["auto"] | None, LOGGED] = None
    """Samples per forward pass and process; a batch takes as many passes as needed. Default: as many as have the pixels
    of 32 images of 512 px. `auto`: on a GPU, the largest that fits, found before the first step."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LossSettings:
    """The training loss."""

    caption_dropout: Annotated[Fraction, MUST_STAY] = 0.0
    """Probability of replacing the caption of a sample with the empty one."""
    min_snr_gamma: Annotated[Annotated[float, Gt(0)] | None, MUST_STAY] = None
    """Weight the loss of a timestep by min(SNR, gamma) / SNR (Hang et al. 2023); default: no weighting."""
    offset_noise: Annotated[float, Ge(0), MUST_STAY] = 0.0
    """Standard deviation of an offset added to the noise: one value per sample and channel, for all pixels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EmaSettings:
    """An exponential moving average (EMA) of the trained weights, stored beside them."""

    decay: Annotated[Decay | None, MUST_STAY] = None
    """Decay per step, such as 0.9999; default: no average."""
    start_step: Annotated[NotNegative, MUST_STAY] = 0
    """Updates before averaging begins; until then, the average equals the weights."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ComputeSettings:
    """Device, precision and speed."""

    device: Annotated[str, LOGGED] = "auto"
    """`cpu`, `cuda`, or `auto`: a GPU if there is one."""
    precision: Annotated[Precision | None, MUST_STAY] = None
    """Precision of frozen weights and compute; trained weights are float32. Default: bf16 on a GPU, fp32 elsewhere."""
    compile: Annotated[bool | None, LOGGED] = None
    """Compile each block of the UNet, the pose encoder and the VAE with torch.compile. Default: on a GPU only, and not
    if the run that is resumed was not compiled."""
    winograd: Annotated[bool | None, LOGGED] = None
    """Use Winograd's algorithm for the UNet's wide frozen 3x3 convolutions: faster steps. Transforms take 3.5 GiB per
    process at Stable Diffusion 1.4, and a pass keeps up to a tenth less. In float32 on a CPU, without
    `compile`. Default: on where available, unless the run being resumed did not use it."""
    attention: Annotated[Literal["auto", "flash", "cudnn", "efficient", "math"], LOGGED] = "auto"
    """Attention kernel. `auto`: on a GPU, the fastest for each width of a head, measured before the first step and kept
    when the run is resumed; on a CPU or with `deterministic`, torch's choice. A CPU has `flash` and `math`."""
    gradient_checkpointing: Annotated[bool, LOGGED] = False
    """Recompute each block in the backward pass: less memory, more time."""
    threads: Annotated[Positive | None, LOGGED] = None
    """Torch threads; default: the default of torch."""
    deterministic: Annotated[bool, LOGGED] = False
    """Refuse non-deterministic operations. Runs on the same device type and world size are then bit-identical."""
    timeout_s: Annotated[Seconds, MAY_CHANGE] = 600.0
    """How long a process waits for the others before it gives up."""
    memory_gib: Annotated[Annotated[float, Gt(0)] | None, MAY_CHANGE] = None
    """Memory that a run may take on its device; one that is estimated to need more is refused before the first step.
    Default: what the GPU has; on a CPU there is no limit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointSettings:
    """When checkpoints are written, and which are kept."""

    every_steps: Annotated[Positive, MAY_CHANGE] = 1000
    """Steps from one checkpoint to the next; the last step always has one."""
    keep: Annotated[int, Ge(2), MAY_CHANGE] = 3
    """Number of newest intact checkpoints to keep; at least 2, so that one is left if another is damaged."""
    keep_every_steps: Annotated[Positive | None, MAY_CHANGE] = None
    """Checkpoints at multiples of this number of steps are never removed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchSettings:
    """Logging, probes and validation images."""

    log_every: Annotated[Positive, MAY_CHANGE] = 1
    """Steps between two lines of metrics.jsonl."""
    keys: Annotated[bool, MAY_CHANGE] = False
    """Write the keys of the samples of every step, of all processes in order, to keys.jsonl."""
    probe_every: Annotated[NotNegative, MAY_CHANGE] = 200
    """Steps between two measurements of "Is the pose learned?" on the fixed noise batch; 0: never."""
    probe_samples: Annotated[int, Ge(2), MAY_CHANGE] = 8
    """Samples of that batch; at least 2, since poses are swapped between samples."""
    sample_every: Annotated[NotNegative, MAY_CHANGE] = 2000
    """Steps between two validation grids; 0: never."""
    sample_prompts: Annotated[tuple[str, ...], MAY_CHANGE] = ()
    """Prompts of the validation images; default: the captions of the first validation samples."""
    sample_count: Annotated[Positive, MAY_CHANGE] = 4
    """Images or clips per validation grid, if no prompts are set."""
    sample_steps: Annotated[Positive, MAY_CHANGE] = 50
    """DDIM steps for validation images."""
    guidance: Annotated[float, Ge(0), MAY_CHANGE] = 12.5
    """Scale of the classifier-free guidance for validation images."""
    validation_samples: Annotated[NotNegative, MAY_CHANGE] = 64
    """Samples of those held out of which the validation loss is taken, as often as the probe; 0: never."""
    wandb: Annotated[bool, MAY_CHANGE] = False
    """Also send scalars and validation images to Weights & Biases, as a run of the output folder's name and an id that
    the folder keeps (the extra `wandb`; its own variables, such as WANDB_PROJECT and WANDB_MODE, apply)."""
    tensorboard: Annotated[bool, MAY_CHANGE] = True
    """Also write scalars and validation images for TensorBoard."""
    mfu: Annotated[bool, MAY_CHANGE] = True
    """Report MFU: count the FLOPs of a step, and measure peak matmul throughput at start-up (a few seconds)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainSettings:
    """Settings of `lposekit train`."""

    FORMER_GROUPS: ClassVar[Mapping[str, str]] = {"picture": "image"}
    stage: Annotated[Stage, MUST_STAY] = 1
    """1: the pose encoder, on images. 2: the temporal layers, on clips without pose."""
    data: Annotated[tuple[Path, ...], MAY_CHANGE] = ()
    """Dataset folders."""
    images: Annotated[tuple[Path, ...], MAY_CHANGE] = ()
    """Stage 2: image datasets that are trained on as well, as clips of one frame (see `loader.image_share`)."""
    output: Annotated[Path | None, MAY_CHANGE] = None
    """The run folder."""
    base: Annotated[str | None, MAY_CHANGE] = None
    """Stable Diffusion in diffusers layout: a folder, a hub id, or `tiny`. A hub id is downloaded into the cache of the
    hub if it is not there yet, even with --dry-run."""
    pose_encoder: Annotated[str, MAY_CHANGE] = ""
    """Stage 1: initial weights. Stage 2: the trained pose encoder to keep: a stage-1 run, a file, or `none`."""
    init: Annotated[str, MAY_CHANGE] = ""
    """What a new run starts from: a run of the same stage, the UNet or `pose_encoder.pth` of the official release, or a
    T2I-Adapter for keypose. A run that goes on from a checkpoint has no more use for it."""
    max_steps: Annotated[Positive | None, MAY_CHANGE] = None
    """Steps of the run; default: 100,000 in stage 1, 50,000 in stage 2."""
    batch_size: Annotated[Positive | None, LOGGED] = None
    """Samples per step, over all processes; default: 64 in stage 1, 8 in stage 2."""
    seed: Annotated[int, Interval(ge=0, lt=2**63), MUST_STAY] = 0
    """Determines the order of samples, all their random numbers, and the initialisation of new weights."""
    resume: Annotated[str, MAY_CHANGE] = "auto"
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
        if self.init and self.stage == 1 and self.pose_encoder:
            yield "init", "in stage 1, --pose-encoder names what to start from as well; leave one of them out."
        if self.loader.latents and (image.flip > 0 or image.crop == "random"):
            yield "loader.latents", "a cache holds unflipped crops, none drawn; leave --image.flip and --image.crop."
        if self.stage == 1 and self.images:
            yield "images", "only in stage 2, beside clips; in stage 1 name them with --data."
        if self.stage == 2 and image.crop == "person":
            yield "image.crop", "in stage 2 center or random, for clips have no poses beside them."


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheLatentsSettings:
    """Settings of `lposekit cache-latents`."""

    data: Annotated[Path | None, MAY_CHANGE] = None
    """The dataset folder; the cache is written into it."""
    base: Annotated[str | None, MAY_CHANGE] = None
    """The base model whose VAE is used: a folder, a hub id, or `tiny`. A hub id is downloaded into the cache of the hub
    if it is not there yet, even with --dry-run."""
    size: Side = 512
    """Side length of the training images in pixels."""
    crop: Literal["center", "person"] = "center"
    """As the run's `image.crop`."""
    clip: ClipSamplingSettings = field(default_factory=ClipSamplingSettings)
    """As the run will have them. They decide which frames of a clip are cached: with `start` `any` every one, with
    `stride` those that lie a stride apart."""
    batch_size: Positive = 8
    """Images per forward pass of the VAE."""
    device: Annotated[str, MAY_CHANGE] = "auto"
    """`cpu`, `cuda`, or `auto`: a GPU if there is one."""
    precision: Precision | None = None
    """Precision of the VAE; default: bf16 on a GPU, fp32 elsewhere. Latents are stored as fp16."""
    threads: Positive = 1
    """Torch threads of each VAE on a CPU."""
    workers: Annotated[Positive | None, MAY_CHANGE] = None
    """Processes that decode, one shard each at a time; default: one per core. On a CPU, each also has the VAE."""
    encoders: Annotated[Positive | None, MAY_CHANGE] = None
    """Processes with a VAE that all workers share; default: one per GPU, and none on a CPU."""
    ray_address: Annotated[str | None, MAY_CHANGE] = None
    """Address of a running Ray cluster; default: start a local one."""
    shard_attempts: Annotated[Positive, MAY_CHANGE] = 3
    """Attempts at a shard whose worker process dies."""
    stall_minutes: Annotated[Minutes, MAY_CHANGE] = 60.0
    """End (exit code 1) after so many minutes without any progress, and say what was waited for."""
    worker_memory_bytes: Annotated[Positive, MAY_CHANGE] = 16 * 2**30
    """Memory limit of a worker process, beyond what its start takes; a shard that exceeds it fails, and is named."""


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


def batch_size(settings: TrainSettings) -> int:
    """Samples of a step, over all processes."""
    return settings.batch_size or DEFAULT_BATCH_SIZES.get(settings.stage, 1)


def default_micro_batch(settings: TrainSettings, share: int) -> int:
    """The largest part of a process's share of a batch that has at most `MICRO_BATCH_PIXELS`; at least 1."""
    frames = settings.clip.frames if settings.stage == 2 else 1
    return largest_part(share, MICRO_BATCH_PIXELS // (frames * settings.image.size**2))


def largest_part(share: int, most: int) -> int:
    """The largest divisor of `share` that is at most `most`; at least 1."""
    return next(part for part in range(max(1, min(share, most)), 0, -1) if share % part == 0)


def learning_rate(settings: TrainSettings) -> float:
    """Learning rate after the warm-up."""
    default = {1: 1e-5, 2: 3e-5}[settings.stage]
    return default if settings.optim.lr is None else settings.optim.lr
