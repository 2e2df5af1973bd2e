"""The panel "is the pose learned?": losses on a batch that never changes, with the matching pose, another's pose,
and none.

While the first two are equal, the model ignores the pose, whatever the training loss does. In stage 2, which sees
no pose, the panel asks the same of time: clips in order against the same clips with their frames shuffled.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from trainer.data.batch import Batch, stack_samples
from trainer.data.order import SampleRef
from trainer.data.reader import SampleReader
from trainer.run.train_module import TrainModule

PROBE_SEED = 20230403


@dataclass(frozen=True, slots=True)
class PoseProbe:
    """The fixed micro-batches: their timesteps are spread evenly, so that few samples tell much."""

    batches: list[Batch]
    seed: int

    def measure(self, train_module: TrainModule) -> dict[str, float]:
        """Mean losses of the panel's cases, with the moving average's weights if there is one."""
        totals: dict[str, float] = {}
        count = 0
        with torch.no_grad(), train_module.averaged():
            for batch in self.batches:
                for name, losses_B in self._losses(train_module, batch).items():
                    totals[name] = totals.get(name, 0.0) + float(losses_B.double().sum())
                count += len(batch)
        return {f"probe/{name}": total / count for name, total in totals.items()}

    def _losses(self, train_module: TrainModule, batch: Batch) -> dict[str, Tensor]:
        latents, noise, timesteps, text, pose = train_module.inputs(batch)
        stage = train_module.stage
        if pose is not None:
            return {
                "matching_pose": stage.losses(latents, noise, timesteps, text, pose),
                "shuffled_pose": stage.losses(latents, noise, timesteps, text, pose.roll(1, 0)),
                "no_pose": stage.losses(latents, noise, timesteps, text, None),
            }
        shuffled = latents[:, :, _derangement(latents.shape[2], self.seed)]
        return {
            "frames_in_order": stage.losses(latents, noise, timesteps, text),
            "frames_shuffled": stage.losses(shuffled, noise, timesteps, text),
        }


def _derangement(frames: int, seed: int) -> Tensor:
    """A fixed order of the frames in which none stands where it was (with one frame there is no other)."""
    generator = torch.Generator().manual_seed(seed)
    while frames > 1:
        order = torch.randperm(frames, generator=generator)
        if not (order == torch.arange(frames)).any():
            return order
    return torch.arange(frames)


def build_probe(reader: SampleReader, refs: Sequence[SampleRef], micro_batch: int, num_timesteps: int) -> PoseProbe:
    """The probe over these samples."""
    count = len(refs)
    samples = [reader.read(ref) for ref in refs]
    spread = spread_timesteps(count, num_timesteps)
    samples = [replace(sample, timestep=t) for sample, t in zip(samples, spread, strict=True)]
    # a last batch of one could not shuffle its pose
    size = max(2, micro_batch)
    groups = [samples[i : i + size] for i in range(0, count, size)]
    if len(groups) > 1 and len(groups[-1]) == 1:
        groups[-2:] = [groups[-2] + groups[-1]]
    return PoseProbe([stack_samples(group) for group in groups], PROBE_SEED)


def spread_timesteps(count: int, num_timesteps: int) -> list[int]:
    """Timesteps spread evenly over all of them."""
    return [round((i + 0.5) * num_timesteps / count) for i in range(count)]


@dataclass(frozen=True, slots=True)
class ValidationLoss:
    """The training loss of samples that are held out, each at one timestep, the same every time. They are read anew
    each time: there may be many."""

    reader: SampleReader
    refs: Sequence[SampleRef]
    micro_batch: int
    num_timesteps: int

    def measure(self, train_module: TrainModule) -> dict[str, float]:
        """The mean, with the moving average's weights if there is one."""
        timesteps = spread_timesteps(len(self.refs), self.num_timesteps)
        draws, total = list(zip(self.refs, timesteps, strict=True)), 0.0
        with torch.no_grad(), train_module.averaged():
            for first in range(0, len(draws), self.micro_batch):
                part = draws[first : first + self.micro_batch]
                group = [replace(self.reader.read(ref), timestep=timestep) for ref, timestep in part]
                inputs = train_module.inputs(stack_samples(group))
                total += float(train_module.stage.losses(*inputs).double().sum())
        return {"validation/loss": total / len(draws)}
