"""What the training step is given: one micro-batch of samples with all of their randomness.

Shape letters: B samples, F frames (1 for images), C latent channels, H and W of images or of their latents.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import numpy.typing as npt
import torch
from einops import rearrange
from torch import Tensor
from torch.utils.data import default_collate

SMALL_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class Sample:
    """One draw of one sample, as arrays. passed_over: clips that were too short, in whose place it came."""

    key: str
    caption: str
    timestep: int
    noise_CFHW: npt.NDArray[np.float32]
    latent_noise_FCHW: npt.NDArray[np.float32]
    rgb_FHWC: npt.NDArray[np.uint8] | None = None
    skeleton_FHWC: npt.NDArray[np.uint8] | None = None
    moments_FCHW: npt.NDArray[np.float16] | None = None
    passed_over: int = 0


@dataclass(frozen=True, slots=True)
class Batch:
    """Samples stacked. `rgb` and `skeleton` are uint8 RGB; `moments` are the VAE's mean and log-variance,
    float16.

    keys: name of each sample (with its dataset's number in front if there are several). captions: empty where dropped.
    timesteps: int64 [B]. noise: what the model learns to predict. latent_noise: draws the latent from its distribution.
    Exactly one of `rgb_BFHWC` and `moments_BFCHW` is there; `skeleton_BFHWC` in stage 1 only.
    """

    keys: list[str]
    captions: list[str]
    timesteps_B: Tensor
    noise_BCFHW: Tensor
    latent_noise_BFCHW: Tensor
    rgb_BFHWC: Tensor | None = None
    skeleton_BFHWC: Tensor | None = None
    moments_BFCHW: Tensor | None = None
    passed_over: int = 0

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def frames(self) -> int:
        return self.noise_BCFHW.shape[2]

    def packed(self) -> dict[str, object]:
        """For the way from a worker: small arrays go through its pipe, only large ones through shared memory.

        A tensor in shared memory costs a handshake between the processes, whatever its size.
        """
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        small = {n: v.numpy() for n, v in values.items() if isinstance(v, Tensor) and v.nbytes < SMALL_BYTES}
        return {**values, **small}

    @staticmethod
    def unpacked(values: Mapping[str, object]) -> Batch:
        """What `packed` packed."""
        opened = {n: torch.from_numpy(v) if isinstance(v, np.ndarray) else v for n, v in values.items()}
        return Batch(**opened)  # pyright: ignore

    def to(self, device: torch.device) -> Batch:
        return self._map(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> Batch:
        """Called by torch's loader, for asynchronous copies to a GPU."""
        return self._map(lambda tensor: tensor.pin_memory())

    def _map(self, change: Callable[[Tensor], Tensor]) -> Batch:
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return replace(self, **{name: change(value) for name, value in values.items() if isinstance(value, Tensor)})

    def images_BF3HW(self) -> Tensor:
        """Images as float32 in [-1, 1], what the VAE encodes."""
        assert self.rgb_BFHWC is not None, "this batch holds latents"
        return vae_input_BF3HW(self.rgb_BFHWC)

    def pose_BF3HW(self) -> Tensor:
        """Skeletons as float32 in [0, 1], what the pose encoder takes."""
        assert self.skeleton_BFHWC is not None, "this batch has no pose"
        return rearrange(self.skeleton_BFHWC, "b f h w c -> b f c h w").float() / 255


def vae_input_BF3HW(rgb_BFHWC: Tensor) -> Tensor:
    """uint8 RGB as float32 in [-1, 1]."""
    return rearrange(rgb_BFHWC, "b f h w c -> b f c h w").float() / 127.5 - 1


def stack_samples(samples: Sequence[Sample]) -> Batch:
    """One batch of samples of equal shapes."""

    def stack(arrays: Sequence[npt.NDArray | None]) -> Tensor | None:
        if arrays[0] is None:
            return None
        if arrays[0].nbytes * len(arrays) < SMALL_BYTES:
            return torch.from_numpy(np.stack(arrays))  # pyright: ignore
        # in a worker it stacks into shared memory, so the batch is not copied once more on its way out
        return default_collate([torch.from_numpy(array) for array in arrays])

    return Batch(
        keys=[sample.key for sample in samples],
        captions=[sample.caption for sample in samples],
        timesteps_B=torch.tensor([sample.timestep for sample in samples]),
        noise_BCFHW=stack([sample.noise_CFHW for sample in samples]),  # pyright: ignore
        latent_noise_BFCHW=stack([sample.latent_noise_FCHW for sample in samples]),  # pyright: ignore
        rgb_BFHWC=stack([sample.rgb_FHWC for sample in samples]),
        skeleton_BFHWC=stack([sample.skeleton_FHWC for sample in samples]),
        moments_BFCHW=stack([sample.moments_FCHW for sample in samples]),
        passed_over=sum(sample.passed_over for sample in samples),
    )
