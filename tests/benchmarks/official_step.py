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
import multiprocessing
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import psutil
import torch

from tests.benchmarks.official_sides import LAYOUTS, OFFICIAL_PACKAGES, PEERS, Case, Side, our_side, sd14_folder
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

logger = logging.getLogger(__name__)

PINS = ("diffusers==0.11.1", "huggingface-hub==0.13.3")
VARIABLE = "LPOSEKIT_TEST_OFFICIAL_CODE"


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
    stamp = OFFICIAL_PACKAGES / "pins.txt"
    if stamp.is_file() and stamp.read_text().split() == list(PINS):
        return
    quiet = ["--quiet", "--disable-pip-version-check"]
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        *quiet,
        "--no-deps",
        "--upgrade",
        "--target",
        str(OFFICIAL_PACKAGES),
        *PINS,
    ]
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
