"""A network that OpenVINO runs on a CPU: one item a call, in float32, one thread a stream.

An item's numbers depend on nothing but its pixels: neither on the items beside it nor on the number of threads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from queue import SimpleQueue
from typing import Any

import numpy as np
import numpy.typing as npt

from lposekit.pose.openvino_core import core

Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
Finish = Callable[[Sequence[Floats]], Floats]
"""From the network's outputs for some items to what is asked of it."""


class OpenVinoNetwork:
    """A compiled network.

    Args:
        model: `openvino.Model` with an input uint8 [B, H, W, 3], its outputs [B, ...].
        streams: threads that may call it at the same time; each call runs in one thread.
        finish: applied to the outputs of a whole call.
    """

    device = "cpu"
    batch_size = 4
    """Items of a call: enough to decode several at once, few enough to keep all streams busy to the end."""

    def __init__(self, model: Any, streams: int, finish: Finish) -> None:
        self.streams = streams
        self._finish = finish
        compiled = _compile(model, streams)
        self._shapes = [tuple(output.shape[1:]) for output in compiled.outputs]
        self._free: SimpleQueue[Any] = SimpleQueue()
        for _ in range(streams):
            self._free.put(compiled.create_infer_request())

    def __call__(self, pixels_BHWC: Pixels) -> Floats:
        outputs = [np.empty((len(pixels_BHWC), *shape), np.float32) for shape in self._shapes]
        request = self._free.get()
        try:
            for i in range(len(pixels_BHWC)):
                request.infer([pixels_BHWC[i : i + 1]], share_inputs=True)
                for k, output in enumerate(outputs):
                    output[i] = request.get_output_tensor(k).data[0]
        finally:
            self._free.put(request)
        return self._finish(outputs)


def _compile(model: Any, streams: int) -> Any:
    _, height, width, channels = model.inputs[0].partial_shape
    model.reshape([1, height, width, channels])
    settings = {
        "INFERENCE_NUM_THREADS": streams,
        "NUM_STREAMS": streams,
        # By itself it computes in bfloat16 where the CPU has it, which moves keypoints.
        "INFERENCE_PRECISION_HINT": "f32",
        # Several processes share the cores: each would pin its only thread to the first of them.
        "ENABLE_CPU_PINNING": False,
    }
    return core().compile_model(model, "CPU", settings)
