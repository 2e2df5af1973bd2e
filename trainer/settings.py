"""Settings of `lposekit train` and `lposekit cache-latents`. Values only: how they are found is `lposekit.settings`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from lposekit.errors import UsageError

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

    style: Literal["followyourpose", "openpose18", "dwpose133", "mmpose1"] = "followyourpose"
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
    joint_group_norm: bool | None = None
    attn_temp_init: Literal["random", "zero"] | None = None
    pose_init: Literal["random", "zero"] | None = None
    trainable: Literal["official", "paper"] | None = None
    train_norm_temp: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimSettings:
    """The optimiser: AdamW on float32 weights."""

    lr: float | None = None
    """Default: 1e-5 in stage 1 (T2I-Adapter's), 3e-5 in stage 2 (the released configuration)."""
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 1e-2
    eps: float = 1e-8
    clip_norm: float = 1.0
    """Largest global norm of the gradients."""
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """After the warm-up."""
    warmup_steps: int = 0
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
    """Write the keys of every step's samples to keys-RANK.jsonl."""
    probe_every: int = 200
    """Steps between two looks at "is the pose learned?" on the fixed noise batch; 0: never."""
    probe_samples: int = 8
    sample_every: int = 2000
    """Steps between two validation grids; 0: never."""
    sample_prompts: tuple[str, ...] = ()
    """Default: captions of the first validation samples."""
    sample_count: int = 4
    sample_steps: int = 50
    """DDIM steps."""
    guidance: float = 12.5
    tensorboard: bool = True
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
    """Stable Diffusion in diffusers layout: a folder, a hub id, or `tiny`."""
    pose_encoder: str | None = None
    """Stage 1: weights to start from. Stage 2: the trained pose encoder to carry along: a stage-1 run, a file, or
    `none`."""
    max_steps: int | None = None
    """Default: 100,000 in stage 1, 50,000 in stage 2."""
    batch_size: int = 64
    """Samples of one step, over all processes."""
    seed: int = 0
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
    """The base whose VAE encodes."""
    size: int = 512
    """Side of the training pictures in pixels."""
    batch_size: int = 8
    """Pictures of one forward pass of the VAE."""
    device: str = "auto"
    precision: Precision | None = None
    threads: int | None = None


def check_settings(settings: TrainSettings) -> None:
    """Refuse what cannot work, before anything is loaded.

    Raises:
        UsageError: names the setting and what it may be.
    """
    problems = [message for wrong, message in _checks(settings) if wrong]
    if problems:
        raise UsageError("; ".join(problems))


def _checks(s: TrainSettings) -> list[tuple[bool, str]]:
    return [
        (s.output is None, "no run folder: name one with --output"),
        (s.base is None, "no base model: name one with --base (a diffusers folder, a hub id, or `tiny`)"),
        (s.stage not in (1, 2), f"--stage {s.stage}: 1 or 2"),
        (s.batch_size < 1, f"--batch-size {s.batch_size}: at least 1"),
        (max_steps(s) < 1, f"--max-steps {s.max_steps}: at least 1"),
        (not 0 <= s.seed < 2**63, f"--seed {s.seed}: from 0 to 2**63 - 1"),
        (s.picture.size < 64 or s.picture.size % 64 != 0, f"--picture.size {s.picture.size}: a multiple of 64"),
        (not 0 <= s.picture.flip <= 1, f"--picture.flip {s.picture.flip}: from 0 to 1"),
        (not 0 <= s.loss.caption_dropout <= 1, f"--loss.caption-dropout {s.loss.caption_dropout}: from 0 to 1"),
        (s.clip.frames < 1 or s.clip.stride < 1, "--clip.frames and --clip.stride: at least 1"),
        (s.checkpoint.keep < 2, f"--checkpoint.keep {s.checkpoint.keep}: at least 2, so that one broken leaves one"),
        (s.checkpoint.every_steps < 1, f"--checkpoint.every-steps {s.checkpoint.every_steps}: at least 1"),
        (s.watch.log_every < 1, f"--watch.log-every {s.watch.log_every}: at least 1"),
        (s.loader.block_samples < 1, f"--loader.block-samples {s.loader.block_samples}: at least 1"),
        (s.loader.workers < 0 or s.loader.prefetch < 1, "--loader.workers: at least 0, --loader.prefetch: at least 1"),
        (
            bool(s.loader.weights) and len(s.loader.weights) != len(s.data),
            f"--loader.weights has {len(s.loader.weights)} values for {len(s.data)} datasets",
        ),
        (any(weight < 0 for weight in s.loader.weights), "--loader.weights: none below 0"),
        (
            s.loader.latents and (s.picture.flip > 0 or s.picture.crop != "center"),
            "--loader.latents: a cache holds the unflipped centre crop; leave --picture.flip and --picture.crop alone",
        ),
    ]


def max_steps(settings: TrainSettings) -> int:
    """Steps of the run."""
    return DEFAULT_MAX_STEPS.get(settings.stage, 1) if settings.max_steps is None else settings.max_steps


def learning_rate(settings: TrainSettings) -> float:
    """Learning rate after the warm-up."""
    default = {1: 1e-5, 2: 3e-5}[settings.stage]
    return default if settings.optim.lr is None else settings.optim.lr
