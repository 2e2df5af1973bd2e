"""Estimate keypoints for batches of persons cut out of images, with an MMPose top-down model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from lposekit.errors import LposekitError
from lposekit.pose.decode import decode_heatmaps, decode_simcc
from lposekit.pose.preprocess import Crops, Cutter, Normalizer

CutRequest = tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32]]
"""An image (rgb_HWC) and a person's box in it (xyxy, float32 [4])."""


class TopDownPose:
    """A built MMPose model behind batched cropping and decoding that equals `inference_topdown`."""

    def __init__(
        self,
        module: torch.nn.Module,
        config: Any,
        input_size_wh: tuple[int, int],
        normalizer: Normalizer,
        flip_indices: list[int],
    ) -> None:
        self.module: Any = module
        self.input_size_wh = input_size_wh
        self.normalizer = normalizer
        self.flip_test = bool(config.model.test_cfg.get("flip_test", False))
        self.test_cfg = config.model.test_cfg
        self.flip_indices = flip_indices
        self.cutter = Cutter.from_pipeline(
            config.test_dataloader.dataset.pipeline,
            input_size_wh,
            bgr=not config.model.data_preprocessor.get("bgr_to_rgb", False),
        )
        _check_codec(self.module.head.decoder)

    def prepare(self, persons: Sequence[CutRequest]) -> Crops:
        """Work that needs no model; may run in a thread ahead of it."""
        return self.cutter.cut(persons)

    def estimate(self, crops: Crops) -> npt.NDArray[np.float32]:
        """Keypoints float32 [N, K, 3] in pixels of the images: x, y, raw score.

        Raises:
            ArithmeticError: some are not finite. They must not pass for keypoints that were not detected.
        """
        inputs = self.normalizer(crops.pixels_NHWC)
        keypoints_NK3 = self._decode(self._forward(inputs)).float().cpu().numpy()
        size_N12, center_N12 = crops.size_N2[:, None], crops.center_N2[:, None]
        places = keypoints_NK3[..., :2] / np.array(self.input_size_wh, np.float32) * size_N12
        keypoints_NK3[..., :2] = places + center_N12 - 0.5 * size_N12
        if not np.isfinite(keypoints_NK3).all():
            raise ArithmeticError("the pose model gave keypoints that are not finite")
        return keypoints_NK3

    def _forward(self, inputs: torch.Tensor) -> Any:
        from mmpose.models.utils.tta import flip_heatmaps, flip_vectors

        output = self.module.head(self.module.extract_feat(inputs))
        if not self.flip_test:
            return output
        mirrored = self.module.head(self.module.extract_feat(inputs.flip(-1)))
        if isinstance(output, tuple):
            mirrored = flip_vectors(*mirrored, flip_indices=self.flip_indices)
            return tuple((a + b) * 0.5 for a, b in zip(output, mirrored, strict=True))
        mode, shift = self.test_cfg.get("flip_mode", "heatmap"), self.test_cfg.get("shift_heatmap", False)
        mirrored = flip_heatmaps(mirrored, flip_mode=mode, flip_indices=self.flip_indices, shift_heatmap=shift)
        return (output + mirrored) * 0.5

    def _decode(self, output: Any) -> torch.Tensor:
        if isinstance(output, tuple):
            x_NKX, y_NKY = output
            return decode_simcc(x_NKX.float(), y_NKY.float(), self.module.head.decoder.simcc_split_ratio)
        return decode_heatmaps(output.float(), self.input_size_wh)


def _check_codec(codec: Any) -> None:
    """Only the codecs that `lposekit.pose.decode` knows; the refinements that it does not do must be off."""
    refinements = ("unbiased", "use_dark", "decode_visibility")
    if type(codec).__name__ not in ("MSRAHeatmap", "SimCCLabel") or any(getattr(codec, r, False) for r in refinements):
        raise LposekitError(
            f"keypoints of {type(codec).__name__} with {vars(codec)} cannot be decoded by lposekit.pose"
        )
