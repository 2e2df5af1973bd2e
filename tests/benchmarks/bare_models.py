"""The pose stage's two models in the forms that a competent user runs on a CPU, over prepared tensors.

Every form computes the same float32 network from the same weights and offers several settings (batch size, memory
layout, streams). A stream is a pass of one thread beside others: two streams of one thread instead of one of two.
"""

# pyright: reportArgumentType=false, reportCallIssue=false
from __future__ import annotations

import copy
import io
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from queue import SimpleQueue
from typing import Any

import torch
from torch import Tensor, nn

from lposekit.pose.fuse import fuse_conv_norm

BATCHES = (1, 4, 8, 16, 32)
LAYOUTS = {"nchw": torch.contiguous_format, "nhwc": torch.channels_last}
COMPILED_BATCH = 16
Outputs = list[Any]
_COMPILED: dict[str, Any] = {}


class RawDetector(nn.Module):
    """MMDet's detector up to its raw outputs: class scores of all levels, then box distances of all levels."""

    def __init__(self, detector: nn.Module) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        scores, distances = self.detector(images)
        return (*scores, *distances)


class RawPose(nn.Module):
    """MMPose's estimator up to its raw outputs: heatmaps, or two vectors for each keypoint."""

    def __init__(self, estimator: Any) -> None:
        super().__init__()
        self.estimator = estimator

    def forward(self, crops: Tensor) -> tuple[Tensor, ...]:
        output = self.estimator.head(self.estimator.extract_feat(crops))
        return output if isinstance(output, tuple) else (output,)


@dataclass(frozen=True)
class Model:
    """One of the two: as MMDet or MMPose build it, as we ready it, and prepared inputs, float32 [N, 3, H, W]."""

    name: str
    stock: nn.Module
    ours: nn.Module
    inputs: Tensor

    @cached_property
    def onnx(self) -> bytes:
        """The stock module, exported once; the batch size stays open. The runtimes fold the norms themselves."""
        file = io.BytesIO()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # the older exporter: the newer one needs two more packages and writes the same network
            torch.onnx.export(
                self.stock,
                (self.inputs[:2].clone(),),
                file,
                dynamo=False,
                opset_version=17,
                input_names=["input"],
                dynamic_axes={"input": {0: "batch"}},
            )
        return file.getvalue()

    def named(self, passes: list[Outputs]) -> dict[str, Tensor]:
        """All outputs of one pass over the inputs, in comparable units."""
        whole = [torch.cat([torch.as_tensor(o) for o in column]) for column in zip(*passes, strict=True)]
        if self.name != "detector":
            return {"heatmaps": torch.cat([output.flatten() for output in whole])}
        levels = len(whole) // 2
        scores, distances = (torch.cat([o.flatten() for o in half]) for half in (whole[:levels], whole[levels:]))
        return {"scores": scores.sigmoid(), "boxes, px": distances}


@dataclass(frozen=True)
class Candidate:
    """A form of a model at one setting. `forward` takes one of `parts`; `streams` of them run at the same time."""

    setting: str
    forward: Callable[[Any], Outputs]
    parts: list[Any]
    streams: int = 1

    def run(self) -> list[Outputs]:
        """One pass over all parts."""
        if self.streams == 1:
            return [self.forward(part) for part in self.parts]
        with ThreadPoolExecutor(self.streams) as pool:
            return list(pool.map(self.forward, self.parts))


Candidates = Iterator[Candidate]


def eager(model: Model, threads: int) -> Candidates:
    """The modules exactly as MMDet and MMPose build them."""
    for layout in LAYOUTS:
        yield from _torch(model.stock, model.inputs, layout)


def folded(model: Model, threads: int) -> Candidates:
    """The same with every BatchNorm folded into its convolution: the usual step before inference."""
    module = copy.deepcopy(model.stock)
    fuse_conv_norm(module, model.inputs[:1])
    for layout in LAYOUTS:
        yield from _torch(module, model.inputs, layout)


def ours(model: Model, threads: int) -> Candidates:
    """Our modules: folded, and with a channel shuffle that keeps the memory layout."""
    yield from _torch(model.ours, model.inputs, "nhwc")


def _torch(module: nn.Module, inputs: Tensor, layout: str) -> Candidates:
    laid_out = copy.deepcopy(module).to(memory_format=LAYOUTS[layout])  # type: ignore[call-overload]
    prepared = inputs.contiguous(memory_format=LAYOUTS[layout])
    for batch in BATCHES:
        yield Candidate(f"{batch}, {layout}", laid_out, list(prepared.split(batch)))


def compiled(model: Model, threads: int) -> Candidates:
    """torch.compile with frozen weights: it folds norms and chooses layouts itself. Needs a C++ compiler.

    One batch size only, for it compiles long. The number of threads is not compiled in: one compilation serves all.
    """
    if model.name not in _COMPILED:
        from torch._inductor import config

        config.freezing, config.cpp.dynamic_threads = True, True
        _COMPILED[model.name] = torch.compile(copy.deepcopy(model.stock), dynamic=False)
    yield Candidate(f"{COMPILED_BATCH}", _COMPILED[model.name], list(model.inputs.split(COMPILED_BATCH)))


def onnxruntime(model: Model, threads: int) -> Candidates:
    """onnxruntime's CPU provider with all graph optimisations; the batch size is fixed when it loads."""
    import onnxruntime as runtime

    for batch, streams in product(BATCHES, sorted({1, threads})):
        options = runtime.SessionOptions()
        options.intra_op_num_threads = threads // streams
        options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_ENABLE_ALL
        # as in our process: threads that wait sleep, for they share the cores
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.add_free_dimension_override_by_name("batch", batch)
        options.log_severity_level = 3
        session = runtime.InferenceSession(model.onnx, options, providers=["CPUExecutionProvider"])
        parts = [part.numpy() for part in model.inputs.split(batch)]
        yield Candidate(_setting(batch, streams), _onnxruntime_pass(session), parts, streams)


def _onnxruntime_pass(session: Any) -> Callable[[Any], Outputs]:
    return lambda part: session.run(None, {"input": part})


def openvino(model: Model, threads: int) -> Candidates:
    """OpenVINO's CPU plugin on the same ONNX file, the batch size fixed, in float32.

    By itself it would compute in bfloat16 where the CPU has it, which moves keypoints.
    """
    import openvino as runtime

    core = runtime.Core()
    for batch, streams in product(BATCHES, sorted({1, threads})):
        network = core.read_model(io.BytesIO(model.onnx))
        network.reshape({"input": [batch, *model.inputs.shape[1:]]})
        settings = {"INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": streams, "INFERENCE_PRECISION_HINT": "f32"}
        compiled = core.compile_model(network, "CPU", settings)
        parts = [part.numpy() for part in model.inputs.split(batch)]
        yield Candidate(_setting(batch, streams), _openvino_pass(compiled, streams), parts, streams)


def _openvino_pass(compiled: Any, streams: int) -> Callable[[Any], Outputs]:
    free: SimpleQueue[Any] = SimpleQueue()
    for _ in range(streams):
        free.put(compiled.create_infer_request())

    def forward(part: Any) -> Outputs:
        request = free.get()
        outputs = list(request.infer([part], share_inputs=True).values())
        free.put(request)
        return outputs

    return forward


def _setting(batch: int, streams: int) -> str:
    return f"{batch}" if streams == 1 else f"{batch}, {streams} streams"
