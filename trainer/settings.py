"""Settings of `lposekit train` and `lposekit cache-latents`. Values only: how they are found is `lposekit.settings`."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from lposekit.errors import UsageError
from lposekit.setting_values import flag
from lposekit.skeleton_styles import StyleName

Stage = Literal[1, 2]
Precision = Literal["bf16", "fp16", "fp32"]

DEFAULT_MAX_STEPS: dict[int, int] = {1: 100_000, 2: 50_000}
"""The paper's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureSettings:
    """What a training picture is."""

    size: int = 512
    """Side in pixels, a multiple of 64; the shorter side is resized to it."""
    crop: Literal["center", "random"] = "center"
    """Where the square is cut from the resized picture."""
    flip: float = 0.0
    """Probability of a horizontal flip; left and right keypoints are swapped."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipSettings:
    """What a training clip is (stage 2)."""

    frames: int = 8
    """8 to 24 in the paper and in later work."""
    stride: int = 4
    """Source frames from one frame to the next. A clip too short for it takes the largest stride that fits."""
    stride_s: float | None = None
    """The same in seconds, for sources of different frame rates; overrides `stride`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PoseSettings:
    """How the skeleton is drawn (stage 1)."""

    style: StyleName = "followyourpose"
    """Palette and limbs. Stage 2 takes style and line width over from the stage-1 run that it is given."""
    score_threshold: float | None = None
    """Raw score from which a keypoint is drawn; default: the one that the dataset was built with."""
    line_width: float | None = None
    """In pixels of the training picture; default: the style's, in proportion to the size."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoaderSettings:
    """How samples are read."""

    workers: int = 4
    """Processes that read, decode and draw; 0: the training process itself."""
    prefetch: int = 4
    """Micro-batches that each worker holds ready."""
    weights: tuple[float, ...] = ()
    """How often an epoch visits each dataset of --data, in their order; default: once each."""
    block_samples: int = 4096
    """Samples shuffled together; larger mixes more shards and reads from more of them at a time."""
    verify_sha256: bool = False
    """Hash every shard before the first step. Sizes are always checked."""
    latents: bool = False
    """Take pictures from the caches that `lposekit cache-latents` wrote."""


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

    lr: float | None = None
    """Default: 1e-5 in stage 1 (T2I-Adapter's), 3e-5 in stage 2 (the released configuration)."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Decay of AdamW's averages of the gradient and of its square."""
    weight_decay: float = 1e-2
    """AdamW's, decoupled from the gradient."""
    eps: float = 1e-8
    """Added to the root in AdamW's denominator."""
    clip_norm: float = 1.0
    """Largest global norm of the gradients."""
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """After the warm-up; `linear` and `cosine` fall towards 0 up to the last step."""
    warmup_steps: int = 0
    """Steps in which the learning rate rises from 0 in a line."""
    micro_batch: int | None = None
    """Samples of one forward pass on one process; the batch is made of as many as it takes. Default: all at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LossSettings:
    """What is learned from a sample."""

    caption_dropout: float = 0.0
    """Probability that a sample is trained with the empty caption."""
    min_snr_gamma: float | None = None
    """Weight a step by min(SNR, gamma) / SNR (Hang et al. 2023)."""
    offset_noise: float = 0.0
    """Standard deviation of a shift of each channel's noise, one for all pixels of a sample."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EmaSettings:
    """A moving average of the trained weights, kept beside them."""

    decay: float | None = None
    """Per step, such as 0.9999; default: no average."""
    start_step: int = 0
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
    threads: int | None = None
    """Torch threads; default: torch's."""
    deterministic: bool = False
    """Refuse operations whose result depends on timing. On one device type and world size, runs are then equal to
    the bit."""
    timeout_s: float = 600.0
    """How long a process waits for the others before it stops."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointSettings:
    """What is kept of a run."""

    every_steps: int = 1000
    """Steps from one checkpoint to the next; the last step always has one."""
    keep: int = 3
    """Newest whole checkpoints that stay; at least 2."""
    keep_every_steps: int | None = None
    """Checkpoints of these steps are never removed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchSettings:
    """What a run shows of itself."""

    log_every: int = 1
    """Steps between lines of metrics.jsonl."""
    keys: bool = False
    """Write the keys of every step's samples to keys.jsonl, those of all processes in their order."""
    probe_every: int = 200
    """Steps between two looks at "is the pose learned?" on the fixed noise batch; 0: never."""
    probe_samples: int = 8
    """Samples of that batch."""
    sample_every: int = 2000
    """Steps between two validation grids; 0: never."""
    sample_prompts: tuple[str, ...] = ()
    """Default: captions of the first validation samples."""
    sample_count: int = 4
    """Pictures or clips of a validation grid, if no prompts are set."""
    sample_steps: int = 50
    """DDIM steps."""
    guidance: float = 12.5
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
    max_steps: int | None = None
    """Default: 100,000 in stage 1, 50,000 in stage 2."""
    batch_size: int = 64
    """Samples of one step, over all processes."""
    seed: int = 0
    """Decides the order of samples, all their random numbers, and the new weights."""
    resume: str = "auto"
    """`auto`: the newest whole checkpoint of the run folder, if any. `none`: refuse a folder that has one. Or a
    checkpoint."""
    picture: PictureSettings = field(default_factory=PictureSettings)
    clip: ClipSettings = field(default_factory=ClipSettings)
    pose: PoseSettings = field(default_factory=PoseSettings)
    loader: LoaderSettings = field(default_factory=LoaderSettings)
    model: ModelSettings = field(default_factory=ModelSettings)
    optim: OptimSettings = field(default_factory=OptimSettings)
    loss: LossSettings = field(default_factory=LossSettings)
    ema: EmaSettings = field(default_factory=EmaSettings)
    compute: ComputeSettings = field(default_factory=ComputeSettings)
    checkpoint: CheckpointSettings = field(default_factory=CheckpointSettings)
    watch: WatchSettings = field(default_factory=WatchSettings)


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheLatentsSettings:
    """Settings of `lposekit cache-latents`."""

    data: Path | None = None
    """The dataset folder; the cache goes into it."""
    base: str | None = None
    """The base whose VAE encodes: a folder, a hub id, or `tiny`. A hub id is downloaded into the hub's cache where it
    is not there yet, also by --dry-run."""
    size: int = 512
    """Side of the training pictures in pixels."""
    batch_size: int = 8
    """Pictures of one forward pass of the VAE."""
    device: str = "auto"
    """`cpu`, `cuda`, or `auto`: a GPU where there is one."""
    precision: Precision | None = None
    """Of the VAE's arithmetic; default: bf16 on a GPU, fp32 elsewhere. Stored is fp16."""
    threads: int | None = None
    """Torch threads; default: torch's."""


Range = tuple[Callable[[Any], bool], str]


def _at_least(low: float) -> Range:
    return lambda value: value >= low, f"at least {low:g}"


def _above(low: float) -> Range:
    return lambda value: low < value < float("inf"), f"a number above {low:g}"


def _from_to(low: float, high: float) -> Range:
    return lambda value: low <= value <= high, f"from {low:g} to {high:g}"


_BELOW_1: Range = (lambda value: 0 <= value < 1, "at least 0 and below 1")
_SIDE: Range = (lambda value: value >= 64 and value % 64 == 0, "a multiple of 64")
_WEIGHT: Range = (lambda value: value == 0 or 0.001 <= value < float("inf"), "each 0, or at least 0.001")
_SEED: Range = (lambda value: 0 <= value < 2**63, "from 0 to 2**63 - 1")

TRAIN_RANGES: dict[str, Range] = {
    "batch_size": _at_least(1),
    "max_steps": _at_least(1),
    "seed": _SEED,
    "picture.size": _SIDE,
    "picture.flip": _from_to(0, 1),
    "clip.frames": _at_least(1),
    "clip.stride": _at_least(1),
    "clip.stride_s": _above(0),
    "pose.line_width": _above(0),
    "loader.workers": _at_least(0),
    "loader.prefetch": _at_least(1),
    "loader.weights": _WEIGHT,
    "loader.block_samples": _at_least(1),
    "optim.lr": _above(0),
    "optim.betas": _BELOW_1,
    "optim.weight_decay": _at_least(0),
    "optim.eps": _above(0),
    "optim.clip_norm": _above(0),
    "optim.warmup_steps": _at_least(0),
    "optim.micro_batch": _at_least(1),
    "loss.caption_dropout": _from_to(0, 1),
    "loss.min_snr_gamma": _above(0),
    "loss.offset_noise": _at_least(0),
    "ema.decay": _BELOW_1,
    "ema.start_step": _at_least(0),
    "compute.threads": _at_least(1),
    "compute.timeout_s": _above(0),
    "checkpoint.every_steps": _at_least(1),
    "checkpoint.keep": (lambda value: value >= 2, "at least 2, so that one broken leaves one"),
    "checkpoint.keep_every_steps": _at_least(1),
    "watch.log_every": _at_least(1),
    "watch.probe_every": _at_least(0),
    "watch.probe_samples": (lambda value: value >= 2, "at least 2, or no pose could be another's"),
    "watch.sample_every": _at_least(0),
    "watch.sample_count": _at_least(1),
    "watch.sample_steps": _at_least(1),
    "watch.guidance": _at_least(0),
}
"""What a number may be. Outside, a run would crash in its middle or train nothing without a word."""

CACHE_RANGES: dict[str, Range] = {"size": _SIDE, "batch_size": _at_least(1), "threads": _at_least(1)}


def check_settings(settings: TrainSettings) -> None:
    """Refuse what cannot work, before anything is loaded.

    Raises:
        UsageError: names the setting and what it may be.
    """
    _refuse([*_missing(settings), *_outside(settings, TRAIN_RANGES), *_contradictions(settings)])


def check_cache_settings(settings: CacheLatentsSettings) -> None:
    """As `check_settings`, for `lposekit cache-latents`."""
    missing = []
    if settings.data is None or settings.base is None:
        missing = ["cache-latents needs --data (a dataset folder) and --base (the base whose VAE encodes)"]
    _refuse([*missing, *_outside(settings, CACHE_RANGES)])


def _refuse(problems: list[str]) -> None:
    if problems:
        raise UsageError("; ".join(problems))


def _missing(s: TrainSettings) -> Iterable[str]:
    if s.output is None:
        yield "no run folder: name one with --output"
    if s.base is None:
        yield "no base model: name one with --base (a diffusers folder, a hub id, or `tiny`)"
    if s.stage not in (1, 2):
        yield f"--stage {s.stage}: 1 or 2"


def _outside(settings: Any, ranges: Mapping[str, Range]) -> Iterable[str]:
    for name, (fits, words) in ranges.items():
        value = operator.attrgetter(name)(settings)
        each = value if isinstance(value, tuple) else () if value is None else (value,)
        if not all(fits(part) for part in each):
            yield f"{flag(name)} {' '.join(map(str, each))}: {words}"


def _contradictions(s: TrainSettings) -> Iterable[str]:
    weights = s.loader.weights
    if weights and len(weights) != len(s.data):
        yield f"--loader.weights has {len(weights)} values for {len(s.data)} datasets"
    if weights and not any(weights):
        yield "--loader.weights: not all 0"
    if s.loader.latents and (s.picture.flip > 0 or s.picture.crop != "center"):
        yield "--loader.latents: a cache holds the unflipped centre crop; leave --picture.flip and --picture.crop alone"


def max_steps(settings: TrainSettings) -> int:
    """Steps of the run."""
    return DEFAULT_MAX_STEPS.get(settings.stage, 1) if settings.max_steps is None else settings.max_steps


def learning_rate(settings: TrainSettings) -> float:
    """Learning rate after the warm-up."""
    default = {1: 1e-5, 2: 3e-5}[settings.stage]
    return default if settings.optim.lr is None else settings.optim.lr
