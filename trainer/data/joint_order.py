"""Batches of clips, and now and then one of images: a pure function of the seed and of how many batches went before.

Clips and images have an order of their own each, and both go on where they stopped; so the share may decide which kind
comes next, and nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from trainer.data.order import OrderState, SampleOrder, SampleRef

_KIND = 2


@dataclass(frozen=True, slots=True)
class JointOrder:
    """`images_from`: number of the first dataset of images, behind those of clips. share: of the batches that are
    images."""

    clips: SampleOrder
    images: SampleOrder
    images_from: int
    share: float
    seed: int

    def draw(self, state: OrderState, count: int) -> tuple[list[SampleRef], OrderState]:
        """The next batch of `count` samples after `state`, all of one kind, and the state behind it."""
        if not self.is_images(state.batches):
            refs, behind = self.clips.draw(state, count)
            return refs, replace(state, epoch=behind.epoch, consumed=behind.consumed, batches=state.batches + 1)
        refs, behind = self.images.draw(OrderState(state.image_epoch, state.image_consumed), count)
        refs = [ref._replace(dataset=ref.dataset + self.images_from) for ref in refs]
        return refs, self._behind_images(state, behind)

    def advance(self, state: OrderState, count: int) -> OrderState:
        """The state behind the next batch of `count` samples, without looking them up."""
        if not self.is_images(state.batches):
            behind = self.clips.advance(state, count)
            return replace(state, epoch=behind.epoch, consumed=behind.consumed, batches=state.batches + 1)
        return self._behind_images(
            state, self.images.advance(OrderState(state.image_epoch, state.image_consumed), count)
        )

    def is_images(self, batch: int) -> bool:
        """Whether batch number `batch` of the run, from 0, is one of images."""
        return bool(np.random.default_rng([self.seed, _KIND, batch]).random() < self.share)

    @staticmethod
    def _behind_images(state: OrderState, behind: OrderState) -> OrderState:
        return replace(state, image_epoch=behind.epoch, image_consumed=behind.consumed, batches=state.batches + 1)
