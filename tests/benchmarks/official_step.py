"""One training step of the official Follow-Your-Pose code against ours, alternating in one run, at SD 1.4's widths.

    python -m tests.benchmarks.official_step --official DIR        (or LPOSEKIT_TEST_OFFICIAL_CODE=DIR)

DIR: a checkout of github.com/mayuelala/FollowYourPose; nothing of it is in this repository, and without it this is
skipped. Its model code needs diffusers 0.11.1, installed into a folder of its own (`PINS`); torch is the environment's
own, the same on all sides. Each side is a process that stays alive; the parent drives them in turn, so one works while
the others wait. All start from the same weights and inputs (the first losses are printed) and train the same
parameters.

A step on every side: forward diffusion of given latents, forward pass, mean squared error, backward pass, clipping to
norm 1, AdamW (fused, over the trained parameters alone), gradients set to None. VAE, text encoder and data are left
out. float32, eager, no gradient checkpointing, no attention slices; xformers has no CPU form.

Stage 2 is what the official script trains. Its UNet computes the pose encoder and drops the result; the script feeds it
images of full size, here the smallest that pass. Stage 1 was never released: here their pose encoder learns through
their UNet, which is frozen but differentiated. Their UNet has no switch to leave its temporal layers out at one frame;
a competent user replaces the three modules of each block by empty ones, which is the row to compare with, and the row
as released stands beside it. The other peer of stage 1 is what such a user would take today: diffusers' own
T2I-Adapter on diffusers' UNet, the same function; it has rounds of its own, for three models at a time need too much
memory. Each peer runs in the memory layout that is faster here (contiguous or channels last, one step each); ours as
the trainer runs on a CPU, contiguous.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import math
import multiprocessing
import os
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import Tensor, nn

from tests.benchmarks.rounds import Timing, alternate, skip, table, timed, versions
from tests.benchmarks.step_report import (
    HEADINGS,
    MEMORY_NOTE,
    Figures,
    Memory,
    compared,
    ratio_line,
    ratios_json,
    step_memory,
)
from tests.support.fixtures import fixtures_root
from trainer.model.switches import TRAINABLE_MODULES

# Models are imported where they are built: each side has its own diffusers.

logger = logging.getLogger(__name__)

PINS = ("diffusers==0.11.1", "huggingface-hub==0.13.3")
FOLDER = Path(sys.prefix) / "bench-official"
VARIABLE = "LPOSEKIT_TEST_OFFICIAL_CODE"
LEARNING_RATE = 3e-5
LAYOUTS = {"contiguous": torch.contiguous_format, "channels last": torch.channels_last}
SMALLEST_POSE = 64
"""Height and width of the smallest image that the official pose encoder halves often enough."""


@dataclass(frozen=True)
class Case:
    """One comparison of ours with a peer. side: of the latents. code: the official checkout."""

    stage: int
    peer: str
    frames: int
    side: int
    threads: int
    code: Path

    @property
    def name(self) -> str:
        return f"stage{self.stage}_{self.peer}"

    def inputs(self) -> dict[str, Tensor]:
        """The same in every process."""
        random = torch.Generator().manual_seed(0)
        shape = (1, 4, self.frames, self.side, self.side)
        return {
            "latents": torch.randn(shape, generator=random),
            "noise": torch.randn(shape, generator=random),
            "timesteps": torch.tensor([500]),
            "text": torch.randn(1, 77, 768, generator=random),
            "pose": torch.rand(1, self.frames, 3, 8 * self.side, 8 * self.side, generator=random),
        }


@dataclass
class Side:
    """A model that can do a step. forms: ways to compute the loss, the one to compare first."""

    modules: list[nn.Module]
    trained: list[nn.Parameter]
    forms: dict[str, Callable[[], Tensor]]
    optimizer: torch.optim.Optimizer = field(init=False)

    def lay_out(self, layout: str) -> None:
        """Puts the weights into a memory layout, and starts the optimiser."""
        for module in self.modules:
            module.to(memory_format=LAYOUTS[layout])  # pyright: ignore
        self.optimizer = torch.optim.AdamW(self.trained, lr=0.0, fused=True)
        # an update by nothing: its moments are there from the first step on, so that this has the peak of all
        for parameter in self.trained:
            parameter.grad = torch.zeros_like(parameter)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.optimizer.param_groups[0]["lr"] = LEARNING_RATE

    def step(self, form: str) -> float:
        loss = self.forms[form]()
        loss.backward()
        nn.utils.clip_grad_norm_(self.trained, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return loss.item()


# ---- the sides, each in its own process


def our_side(case: Case) -> Side:
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

    from trainer.model.base import read_scheduler
    from trainer.model.switches import OFFICIAL
    from trainer.stages import build_stage

    with unset_weights():
        unet = UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(sd14_folder() / "unet"))
        stage = build_stage(case.stage, unet, read_scheduler(sd14_folder() / "scheduler"), OFFICIAL)  # pyright: ignore
    set_weights(stage.named_official())
    given = case.inputs()
    if case.stage == 2:
        del given["pose"]
    trained = list(stage.trainable().values())
    return Side([stage], trained, {"ours": lambda: stage(*given.values()).mean()})


def official_side(case: Case) -> Side:
    sys.path[:0] = [str(FOLDER), str(case.code)]
    # diffusers 0.11.1 would import from it what today's transformers lacks, for pipelines that nobody needs here
    sys.modules["transformers"] = None  # pyright: ignore
    from diffusers import DDPMScheduler
    from followyourpose.models.unet import Adapter, UNet3DConditionModel  # pyright: ignore

    config = json.loads((sd14_folder() / "unet/config.json").read_text())
    config["mid_block_type"] = "UNetMidBlock3DCrossAttn"
    for blocks in ("down_block_types", "up_block_types"):
        config[blocks] = [name.replace("2D", "3D") for name in config[blocks]]
    with unset_weights(), official_pose_file(Adapter):
        unet = UNet3DConditionModel.from_config(config)
    # at one frame ours has no temporal layers: here they do nothing, but are computed
    idle = (
        ("attn_temp.to_out.0.weight", "attn_temp.to_out.0.bias", "conv_temporal.up.weight") if case.stage == 1 else ()
    )
    set_weights(unet.named_parameters(), zero=idle)
    trained = freeze_official(unet, case)
    scheduler = DDPMScheduler.from_config(json.loads((sd14_folder() / "scheduler/scheduler_config.json").read_text()))
    given = case.inputs()
    pose = given["pose"] if case.stage == 1 else torch.full((1, case.frames, 3, SMALLEST_POSE, SMALLEST_POSE), -1.0)

    def loss() -> Tensor:
        noisy = scheduler.add_noise(given["latents"], given["noise"], given["timesteps"])
        use = "sample" if case.stage == 1 else "train"  # how their UNet is told to add the pose, or not
        predicted = unet(noisy, given["timesteps"], given["text"], skeleton=pose, train_or_sample=use).sample
        return nn.functional.mse_loss(predicted, given["noise"])

    unet.train()
    if case.stage == 2:
        return Side([unet], trained, {"official": loss})
    swap = TemporalSwap(unet)
    forms = {
        "official, temporal layers taken out": lambda: swap.without(loss),
        "official as released (weak)": lambda: swap.within(loss),
    }
    return Side([unet], trained, forms)


def diffusers_side(case: Case) -> Side:
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

    from trainer.model.base import read_scheduler
    from trainer.model.pose_encoder import POSE_PREFIX, build_pose_encoder, to_t2i_adapter
    from trainer.model.switches import OFFICIAL

    with unset_weights():
        unet = UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(sd14_folder() / "unet"))
        encoder = build_pose_encoder(unet.config["block_out_channels"], OFFICIAL)
    set_weights(unet.named_parameters())
    set_weights((POSE_PREFIX + name, parameter) for name, parameter in encoder.named_parameters())
    adapter = to_t2i_adapter(encoder)
    unet.requires_grad_(False)
    scheduler = read_scheduler(sd14_folder() / "scheduler")
    given = {name: value.squeeze(2) if value.dim() == 5 else value for name, value in case.inputs().items()}
    pose_B3HW = case.inputs()["pose"][:, 0]

    def loss() -> Tensor:
        noisy = scheduler.add_noise(given["latents"], given["noise"], given["timesteps"])  # pyright: ignore
        maps = list(adapter(pose_B3HW))
        predicted = unet(noisy, given["timesteps"], given["text"], down_intrablock_additional_residuals=maps).sample
        return nn.functional.mse_loss(predicted, given["noise"])

    return Side([unet, adapter], list(adapter.parameters()), {"diffusers' T2I-Adapter": loss})


PEERS = {"official": official_side, "diffusers": diffusers_side}


class TemporalSwap:
    """Takes the temporal layers out of the official UNet's blocks and puts them back."""

    def __init__(self, unet: nn.Module) -> None:
        empty = {"norm_temp": nn.Identity(), "attn_temp": _Nothing(), "conv_temporal": nn.Identity()}
        self.places = [
            (block, name, getattr(block, name), none)
            for block in unet.modules()
            if hasattr(block, "attn_temp")
            for name, none in empty.items()
        ]

    def without(self, loss: Callable[[], Tensor]) -> Tensor:
        for block, name, _, none in self.places:
            setattr(block, name, none)
        return loss()

    def within(self, loss: Callable[[], Tensor]) -> Tensor:
        for block, name, layer, _ in self.places:
            setattr(block, name, layer)
        return loss()


class _Nothing(nn.Module):
    """In place of a residual branch."""

    def forward(self, x: Tensor) -> float:
        return 0.0


def freeze_official(unet: Any, case: Case) -> list[nn.Parameter]:
    """As the official script does it in stage 2; in stage 1 all but the pose encoder."""
    endings = ("skeleton_adapter",) if case.stage == 1 else TRAINABLE_MODULES["official"]
    unet.requires_grad_(False)
    for name, module in unet.named_modules():
        if name.endswith(endings):
            module.requires_grad_(True)
    return [parameter for parameter in unet.parameters() if parameter.requires_grad]


def sd14_folder() -> Path:
    return fixtures_root() / "weights" / "stable-diffusion-v1-4-noweights"


@contextlib.contextmanager
def unset_weights() -> Iterator[None]:
    """Inside, modules leave their weights as the memory is: drawing them takes longer than all else."""
    names = ("kaiming_uniform_", "normal_", "uniform_", "zeros_")
    kept = {name: getattr(nn.init, name) for name in names}
    for name in names:
        setattr(nn.init, name, lambda tensor, *_, **__: tensor)
    try:
        yield
    finally:
        for name, function in kept.items():
            setattr(nn.init, name, function)


def set_weights(named: Iterable[tuple[str, nn.Parameter]], zero: tuple[str, ...] = ()) -> None:
    """Random weights that depend on their official names alone. zero: endings of the names of those that are 0."""
    for name, parameter in named:
        random = torch.Generator().manual_seed(zlib.crc32(name.encode()))
        with torch.no_grad():
            if name.endswith(zero):
                parameter.zero_()
            elif parameter.dim() > 1:
                bound = math.sqrt(3 / parameter[0].numel())
                parameter.uniform_(-bound, bound, generator=random)
            else:
                middle = 1.0 if name.endswith(".weight") else 0.0
                parameter.uniform_(middle - 0.1, middle + 0.1, generator=random)


@contextlib.contextmanager
def official_pose_file(adapter_class: Any) -> Iterator[None]:
    """Inside, the file that the official UNet loads when it is built lies where it looks for it; of no meaning here."""
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as work:
        (Path(work) / "checkpoints").mkdir()
        adapter = adapter_class(cin=192, channels=[320, 640, 1280, 1280], nums_rb=2, ksize=1, sk=True, use_conv=False)
        torch.save(adapter.state_dict(), Path(work) / "checkpoints/pose_encoder.pth")
        os.chdir(work)
        try:
            yield
        finally:
            os.chdir(before)


def serve(connection: Connection, build: Callable[[Case], Side], case: Case) -> None:
    """A process's life: build the side, then do what is asked until there is nothing more."""
    sys.stdout = sys.stderr  # what libraries print is no result
    torch.set_num_threads(case.threads)
    side = build(case)
    side.lay_out("contiguous")
    connection.send((list(side.forms), sum(parameter.numel() for parameter in side.trained)))
    while (request := connection.recv()) is not None:
        what, name = request
        if what == "lay out":
            connection.send(side.lay_out(name))
        elif what == "step":
            connection.send(side.step(name))
        else:
            losses: list[float] = []
            memory = step_memory(lambda name=name, losses=losses: losses.append(side.step(name)))
            connection.send((losses[0], memory))


# ---- the parent


class Driven:
    """A side's process, seen from the parent."""

    def __init__(self, build: Callable[[Case], Side], case: Case) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(theirs, build, case), daemon=True)
        self.process.start()
        theirs.close()

    def wait_until_built(self) -> None:
        self.forms, self.trained = self.receive()

    def ask(self, what: str, name: str) -> Any:
        self.connection.send((what, name))
        return self.receive()

    def receive(self) -> Any:
        try:
            return self.connection.recv()
        except EOFError:
            self.process.join()
            raise RuntimeError(
                f"a side's process ended with {self.process.exitcode}; its reason stands above"
            ) from None

    def end(self) -> None:
        if self.process.is_alive():
            with contextlib.suppress(OSError):
                self.connection.send(None)
        self.process.join(30)


@dataclass(frozen=True)
class First:
    """What the first steps of a form said."""

    loss: float
    memory: Memory
    layout: str = "contiguous"


def first_steps(driven: Driven, *, tune: bool) -> dict[str, First]:
    """Warms every form up. tune: then sets the layout in which the first form is faster."""
    found = {form: First(*driven.ask("memory", form)) for form in driven.forms}
    if not tune:
        return found
    form = driven.forms[0]
    tried = {layout: try_layout(driven, form, layout) for layout in reversed(LAYOUTS)}
    best = min(tried, key=lambda layout: tried[layout][0].wall_s)
    driven.ask("lay out", best)
    found = {name: First(one.loss, one.memory, best) for name, one in found.items()}
    return {**found, form: First(found[form].loss, tried[best][1], best)}


def try_layout(driven: Driven, form: str, layout: str) -> tuple[Timing, Memory]:
    driven.ask("lay out", layout)
    answers: list[tuple[float, Memory]] = []
    timing = timed(lambda: answers.append(driven.ask("memory", form)))
    logger.info("%s, %s: %.2f s", form, layout, timing.wall_s)
    return timing, answers[0][1]


def compare(case: Case, rounds: int, *, tune: bool) -> dict[str, Any]:
    """Runs a case; prints it and returns it for programs."""
    sides = [Driven(our_side, case), Driven(PEERS[case.peer], case)]
    try:
        for driven in sides:
            driven.wait_until_built()
        assert len({driven.trained for driven in sides}) == 1, "the sides train different parameters"
        first: dict[str, First] = {}
        for number, driven in enumerate(sides):
            first |= first_steps(driven, tune=tune and number > 0)
        forms: dict[str, Callable[[], Timing]] = {}
        for driven in sides:
            for form in driven.forms:
                forms[form] = lambda driven=driven, form=form: timed(lambda: driven.ask("step", form))
        timings = alternate(forms, rounds)
    finally:
        for driven in sides:
            driven.end()
    return show(case, sides[0].trained, first, {form: Figures(timings[form], first[form].memory) for form in forms})


def show(case: Case, trained: int, first: Mapping[str, First], figures: Mapping[str, Figures]) -> dict[str, Any]:
    what = "the UNet's temporal parts and query projections learn" if case.stage == 2 else "the pose encoder learns"
    sizes = f"1 x {case.frames} frames x {case.side} x {case.side} latents"
    where = f"SD 1.4 widths, random weights; {sizes}; float32; CPU, {case.threads} threads"
    print(f"\nstage {case.stage}: {where}", f"{what}: {trained} parameters on every side", MEMORY_NOTE, "", sep="\n")
    rows = [[form, first[form].layout, *one.cells()] for form, one in figures.items()]
    print(table(["step", "layout", *HEADINGS], rows), end="\n\n")
    ours = figures["ours"]
    # a process's second form starts from weights that its first one has changed
    same = [form for form in figures if "(weak)" not in form]
    print(f"losses of the same weights and inputs: {', '.join(f'{form} {first[form].loss:.6f}' for form in same)}")
    ratios = {form: compared(one, ours) for form, one in figures.items() if form != "ours"}
    for form in sorted(ratios, key=lambda form: ratios[form]["wall"].middle):  # pyright: ignore
        print(ratio_line(f"{form} / ours", ratios[form]))
    return {
        "of": where,
        "forms": {form: {"layout": first[form].layout, **one.as_json()} for form, one in figures.items()},
        "ratios": {form: ratios_json(one) for form, one in ratios.items()},
    }


def official_code(given: Path | None) -> Path:
    """The checkout; skips without one."""
    code = given or (Path(os.environ[VARIABLE]) if os.environ.get(VARIABLE) else None)
    if code is None:
        skip(f"no official code given: name a checkout of FollowYourPose by --official or {VARIABLE}")
    if not (code / "followyourpose/models/unet.py").is_file():
        skip(f"{code.name} is no checkout of FollowYourPose: it lacks followyourpose/models/unet.py")
    return code.resolve()


def install_pins() -> None:
    """The official code's diffusers, in a folder of its own; skips where it cannot be had."""
    stamp = FOLDER / "pins.txt"
    if stamp.is_file() and stamp.read_text().split() == list(PINS):
        return
    quiet = ["--quiet", "--disable-pip-version-check"]
    command = [sys.executable, "-m", "pip", "install", *quiet, "--no-deps", "--upgrade", "--target", str(FOLDER), *PINS]
    if subprocess.run(command, stdout=sys.stderr, check=False).returncode:
        skip(f"pip could not install {' '.join(PINS)}")
    stamp.write_text("\n".join(PINS))


def commit_of(code: Path) -> str:
    done = subprocess.run(["git", "-C", str(code), "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True)
    return done.stdout.strip() or "unknown"


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--official", type=Path, metavar="DIR", help=f"the checkout; else {VARIABLE}")
    parser.add_argument("--stage", type=int, choices=(1, 2), help="else both")
    parser.add_argument("--peer", choices=tuple(PEERS), help="else both; diffusers has stage 1 alone")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--stage1-side", type=int, default=64, help="height and width of stage 1's latents")
    parser.add_argument("--stage2-side", type=int, default=32)
    parser.add_argument("--frames", type=int, default=4, help="of stage 2's clip")
    parser.add_argument(
        "--no-tune", action="store_true", help="leave the peers' layout contiguous: saves two steps each"
    )
    parser.add_argument("--memory-gib", type=float, default=19, help="skip where less is free")
    return parser.parse_args()


def main() -> None:
    arguments = parse()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    code = official_code(arguments.official)
    if not sd14_folder().is_dir():
        skip(f"SD 1.4's configuration files are missing: {sd14_folder()}; set LPOSEKIT_FIXTURES to the folder above")
    free_gib = psutil.virtual_memory().available / 2**30
    if free_gib < arguments.memory_gib:
        skip(f"{free_gib:.0f} GiB are free, and the two models need {arguments.memory_gib:g}")
    install_pins()
    print(
        "peer: the official code's own modules, eager float32, no checkpointing, slices or xformers, fused AdamW over\n"
        "the trained parameters alone, the faster of two memory layouts, the pose encoder that stage 2 drops fed the\n"
        "smallest image. Their stage 1 was never released: here their pose encoder learns through their frozen UNet,\n"
        "temporal layers taken out or as released; the peer that does the same today is diffusers' T2I-Adapter"
    )
    print(f"official code at commit {commit_of(code)}, with {', '.join(PINS)}; all sides one torch")
    print(versions("torch", "diffusers", "psutil"))
    cases = [
        Case(2, "official", arguments.frames, arguments.stage2_side, arguments.threads, code),
        Case(1, "diffusers", 1, arguments.stage1_side, arguments.threads, code),
        Case(1, "official", 1, arguments.stage1_side, arguments.threads, code),
    ]
    chosen = [case for case in cases if arguments.stage in (None, case.stage) and arguments.peer in (None, case.peer)]
    print(json.dumps({case.name: compare(case, arguments.rounds, tune=not arguments.no_tune) for case in chosen}))


if __name__ == "__main__":
    main()
