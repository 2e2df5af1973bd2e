"""torch.compile over a run: what is compiled, and that it happens before any process waits for another's step."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch._dynamo.exc import TorchDynamoException

from lposekit.errors import LposekitError
from trainer.model.unet import compile_blocks
from trainer.run.data import RunData
from trainer.run.rehearsal import rehearse
from trainer.run.train_module import TrainModule


def compile_parts(train_module: TrainModule, **options: Any) -> None:
    """`torch.compile` of all that a step runs, in place and part by part; `options` as for `torch.compile`.

    The text encoder stays as it is: it takes half a percent of a step's arithmetic.
    """
    stage = train_module.stage
    compile_blocks(stage.unet, **options)
    parts: list[nn.Module] = [train_module.encoders.vae.encoder]
    if stage.number == 1 and stage.pose_encoder is not None:
        parts.append(stage.pose_encoder)
    for part in parts:
        part.compile(**{"dynamic": False, **options})


def warm_up(train_module: TrainModule, data: RunData) -> None:
    """A step of each kind, of clips and of images, before the first, on every process: compiling takes longer than they
    wait for one another in a collective. Probe, validation and sampling have other shapes, and run uncompiled.

    Raises:
        LposekitError: nothing can be compiled here.
    """
    try:
        for ref in data.loader.reader.kinds():
            rehearse(train_module, data, data.loader.split.micro_batch, ref=ref)
    except TorchDynamoException as error:
        # the second line is the compiler's own
        reason = " ".join(str(error).strip().split("\n")[:2])
        raise LposekitError(
            f"the model cannot be compiled here ({type(error).__name__}: {reason}). torch.compile needs a C compiler, "
            "and Triton on a GPU: install them, or train without it, --compute.no-compile."
        ) from error
