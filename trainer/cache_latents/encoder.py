"""The VAE that encodes: in the process that decodes, or in processes of its own that all workers share."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

from lposekit.errors import LposekitError, UsageError
from lposekit.json_values import JsonObject
from lposekit.recipe import ActorHandle, AskActor, SetupFailed
from trainer.data.batch import vae_input_BF3HW
from trainer.model.base import base_folder, encode_images, weights_digest
from trainer.model.base_check import load_part
from trainer.model.tiny import quiet_progress_bars
from trainer.run.build import DTYPES
from trainer.settings import Precision

VAE_FILES = ("vae/config.json", "vae/diffusion_pytorch_model.safetensors")
Images = npt.NDArray[np.uint8]
"""uint8 [B, H, W, 3], RGB."""
Moments = npt.NDArray[np.float16]
"""float16 [B, 2C, h, w], mean over log-variance."""


@dataclass(frozen=True, slots=True)
class VaeSpec:
    """Which VAE to load, as plain values that travel to any process. `threads`: of torch, on a CPU."""

    base: str
    vae_sha256: str
    device: str
    precision: Precision
    threads: int


class Encoder(Protocol):
    """What a worker needs: hand in a batch, and fetch its moments later. `ahead`: batches worth handing in before."""

    @property
    def ahead(self) -> int: ...

    def submit(self, rgb_BHWC: Images) -> Callable[[], Moments]: ...


class LocalEncoder:
    """The VAE in this very process.

    Raises:
        UsageError: the base cannot be loaded. LposekitError: it is another one than the driver's.
    """

    ahead = 0

    def __init__(self, spec: VaeSpec) -> None:
        if spec.device == "cpu":
            torch.set_num_threads(spec.threads)
        vae = load_vae(spec.base)
        if weights_digest(vae) != spec.vae_sha256:
            raise LposekitError(f"the VAE of the base {spec.base} is another one here than where the run was started.")
        self._device = torch.device(spec.device)
        self._vae = vae
        torch.nn.Module.to(vae, self._device, DTYPES[spec.precision])

    def submit(self, rgb_BHWC: Images) -> Callable[[], Moments]:
        moments = self.encode(rgb_BHWC)
        return lambda: moments

    def encode(self, rgb_BHWC: Images) -> Moments:
        """The moments of images.

        Raises:
            LposekitError: the GPU's memory is too small for so many.
        """
        try:
            rgb = torch.from_numpy(rgb_BHWC).to(self._device)
            moments = encode_images(self._vae, vae_input_BF3HW(rgb[:, None]))[:, 0]
            return moments.to("cpu", torch.float16).numpy()
        except torch.cuda.OutOfMemoryError as error:
            raise LposekitError(
                f"the GPU has too little memory to encode {len(rgb_BHWC)} images at a time. Lower --batch-size."
            ) from error


class VaeActor:
    """A VAE in a process of its own."""

    def __init__(self, spec: VaeSpec) -> None:
        self._failure: LposekitError | None = None
        self._encoder: LocalEncoder | None = None
        self._sha256 = spec.vae_sha256
        try:
            self._encoder = LocalEncoder(spec)
        except LposekitError as error:
            # an actor that fails while it starts reaches the driver as a dead one, its message lost in a traceback
            self._failure = error

    def card(self) -> JsonObject:
        """What was loaded. Raises SetupFailed: it could not be."""
        if self._failure is not None:
            raise SetupFailed(self._failure)
        return {"vae": {"sha256": self._sha256}}

    def encode(self, rgb_BHWC: Images) -> Moments:
        """The moments of images."""
        assert self._encoder is not None
        return self._encoder.encode(rgb_BHWC)


class PooledEncoder:
    """Batches go round the actors that all workers share; those that two are busy with come back in order. `ask`: sends
    a batch again if its actor dies.
    """

    ahead = 2

    def __init__(self, actors: Sequence[ActorHandle], ask: AskActor, first: int = 0) -> None:
        self._actors = actors
        self._ask = ask
        self._turn = itertools.count(first)

    def submit(self, rgb_BHWC: Images) -> Callable[[], Moments]:
        actor = self._actors[next(self._turn) % len(self._actors)]
        return self._ask(actor, "encode", rgb_BHWC, f"a VAE with a batch of {len(rgb_BHWC)} images")


def load_vae(name: str) -> AutoencoderKL:
    """The VAE of a base alone, in float32 on the CPU.

    Raises:
        UsageError: the base is not found, or its VAE is missing or damaged.
    """
    folder = base_folder(name, VAE_FILES) / "vae"
    if not folder.is_dir():
        raise UsageError(f"the base {name} has no VAE: there is no folder {folder}.")
    quiet_progress_bars()

    def load() -> Any:
        return AutoencoderKL.from_pretrained(folder, output_loading_info=True, torch_dtype=torch.float32)

    return load_part(f"the base {name}", folder, load).requires_grad_(False).eval()
