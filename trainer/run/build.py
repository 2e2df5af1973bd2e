"""From settings to a model that is ready to learn."""

from __future__ import annotations

import dataclasses
import logging
import os

import torch

from lposekit.errors import UsageError
from trainer.data.order import SampleRef
from trainer.model.base import Base, encode_images, encode_text
from trainer.model.pose_encoder import PoseEncoder
from trainer.model.switches import ModelSwitches, preset
from trainer.model.winograd import use_winograd
from trainer.run.cost import forward_tflop, pass_tflop
from trainer.run.data import RunData
from trainer.run.distributed import World
from trainer.run.encoders import freeze_encoders
from trainer.run.folder import fingerprint
from trainer.run.init_weights import start_from
from trainer.run.shapes import for_counting, images_like, stage_inputs
from trainer.run.train_module import TrainModule, build_train_module
from trainer.settings import ModelSettings, Precision, TrainSettings
from trainer.stages import StageModel, build_stage, lower_frozen_precision

log = logging.getLogger(__name__)

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


def prepare_torch(settings: TrainSettings) -> None:
    """Process-wide switches: threads, matmul precision, determinism."""
    if settings.compute.threads:
        torch.set_num_threads(settings.compute.threads)
    if settings.compute.deterministic:
        # cuBLAS reads it when its first handle is made
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    # bf16 and fp16 are less exact than TF32; who asks for fp32 means all of its bits
    exact = settings.compute.deterministic or settings.compute.precision == "fp32"
    torch.set_float32_matmul_precision("highest" if exact else "high")
    torch.backends.cudnn.allow_tf32 = not exact
    torch.use_deterministic_algorithms(settings.compute.deterministic)
    # sizes do not change within a run
    torch.backends.cudnn.benchmark = not settings.compute.deterministic
    torch.manual_seed(settings.seed)


def choose_precision(settings: TrainSettings, device: torch.device) -> Precision:
    """Precision of a run on this device."""
    return settings.compute.precision or ("bf16" if device.type == "cuda" else "fp32")


def choose_dtype(settings: TrainSettings, device: torch.device) -> torch.dtype:
    """Type of the frozen weights and the arithmetic."""
    return DTYPES[choose_precision(settings, device)]


def is_compiled(settings: TrainSettings, device: torch.device) -> bool:
    """Whether a run is compiled: as the settings say, else on a GPU."""
    return device.type == "cuda" if settings.compute.compile is None else settings.compute.compile


def is_winograd(settings: TrainSettings, device: torch.device) -> bool:
    """Whether a run's frozen convolutions use Winograd's algorithm: as set, by default where it is available.

    Raises:
        UsageError: it is asked for where it is not.
    """
    available = (
        device.type == "cpu" and choose_precision(settings, device) == "fp32" and not is_compiled(settings, device)
    )
    if settings.compute.winograd and not available:
        raise UsageError(
            "--compute.winograd is for float32 on a CPU, without --compute.compile, and this run is on "
            f"{device.type}, in {choose_precision(settings, device)}"
            f"{', compiled' if is_compiled(settings, device) else ''}: leave it out."
        )
    return available if settings.compute.winograd is None else settings.compute.winograd


def model_switches(settings: ModelSettings) -> ModelSwitches:
    """The preset with the switches that are set."""
    chosen = {
        name: value for name, value in dataclasses.asdict(settings).items() if name != "preset" and value is not None
    }
    return dataclasses.replace(preset(settings.preset), **chosen)


def build_model(
    settings: TrainSettings, base: Base, pose_encoder: PoseEncoder | None, world: World, init: str = ""
) -> StageModel:
    """The stage's model on the device: trained weights in float32, frozen ones in the precision of the settings."""
    switches = model_switches(settings.model)
    base_unet = fingerprint(base.unet) if init else ""  # before it becomes part of the stage
    stage = build_stage(
        settings.stage, base.unet, base.scheduler, switches, pose_encoder, settings.loss.min_snr_gamma, settings.seed
    )
    if init:
        start_from(init, stage, base_unet)
    lower_frozen_precision(stage, choose_dtype(settings, world.device))
    stage.unet.checkpointed = settings.compute.gradient_checkpointing
    stage.to(world.device)
    if is_winograd(settings, world.device):
        use_winograd(stage.unet)
    if world.device.type == "cuda":
        stage.to(memory_format=torch.channels_last)  # pyright: ignore
        # diffusers moves the betas at every call otherwise, and waits for the device each time
        stage.scheduler.alphas_cumprod = stage.scheduler.alphas_cumprod.to(world.device)
    return stage


def build(
    settings: TrainSettings, base: Base, pose_encoder: PoseEncoder | None, world: World, init: str = ""
) -> TrainModule:
    """The train module: model, frozen encoders and optimiser on the device. `init`: where its weights start from."""
    stage = build_model(settings, base, pose_encoder, world, init)
    encoders = freeze_encoders(base, world.device, choose_dtype(settings, world.device))
    return build_train_module(stage, encoders, world, settings)


def step_tflop(train_module: TrainModule, data: RunData, ref: SampleRef | None = None) -> float:
    """Arithmetic of one step on one process, in TFLOP, from the shapes of samples like that of `ref` (None: the first);
    nothing is computed.

    What gradient checkpointing does again is not counted: it is not progress. Convolutions count as direct ones,
    however they are computed.
    """
    split, encoders, reader = data.loader.split, train_module.encoders, data.loader.reader
    ref = ref or reader.ref(0, 0)
    sample = reader.read(ref)
    with for_counting(train_module.stage, checkpointed=False):
        tflop = pass_tflop(train_module.stage, stage_inputs(train_module, data, split.micro_batch, ref))
    ids = torch.empty(split.micro_batch, encoders.text_encoder.config.max_position_embeddings, dtype=torch.int64)
    tflop += forward_tflop(encode_text, encoders.text_encoder, ids)
    if sample.rgb_FHWC is not None:
        tflop += forward_tflop(encode_images, encoders.vae, images_like(sample.rgb_FHWC.shape, split.micro_batch))
    return tflop * split.passes


def tflop_of_steps(train_module: TrainModule, data: RunData) -> dict[int, float]:
    """`step_tflop` of each kind of step, by the frames of its samples: clips, and images beside them."""
    refs = {data.loader.reader.read(ref).noise_CFHW.shape[1]: ref for ref in data.loader.reader.kinds()}
    return {frames: step_tflop(train_module, data, ref) for frames, ref in refs.items()}
