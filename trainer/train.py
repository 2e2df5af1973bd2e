"""Train one stage: build, resume, loop, close. Read this first; each line's work is in the module that it names.

All randomness of a sample is a function of the sample (`trainer.data.random`), and the order of samples is a
function of the seed (`trainer.data.order`). So a run that is killed and resumed goes on to the bit as if nothing
had happened.
"""

from __future__ import annotations

import contextlib
import logging
import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from lposekit.errors import LposekitError, UsageError
from lposekit.faults import fault_point
from lposekit.interrupts import Interrupts
from lposekit.setting_values import check_values
from trainer.data.batch import Batch
from trainer.data.order import OrderState
from trainer.model.base import Base, load_base
from trainer.model.kernels import Kernel, use_kernels
from trainer.run.attention_choice import FACT, choose_kernels
from trainer.run.background import CheckpointWriter
from trainer.run.build import build, is_compiled, is_winograd, model_switches, prepare_torch
from trainer.run.checkpoint import (
    Checkpoint,
    list_steps,
    load_checkpoint,
    newest_whole,
    remove_leftovers,
    set_aside_newer,
    step_folder,
)
from trainer.run.compiling import compile_parts, warm_up
from trainer.run.continuing import (
    as_begun,
    computed_as_begun,
    facts_of,
    logged_changes,
    recorded_values,
    refuse_changes,
    values_of_before,
    with_batches,
)
from trainer.run.data import RunData, open_data
from trainer.run.distributed import World, choose_device, open_world
from trainer.run.folder import fingerprint, own_folder, refuse_other_run, write_settings
from trainer.run.init_weights import with_its_pose_encoder
from trainer.run.memory import named_out_of_memory, refuse_too_large, with_micro_batch
from trainer.run.outcome import DryRunReport, TrainReport, describe_run
from trainer.run.pose_style import drawn_as_learned, refuse_undrawable
from trainer.run.pose_weights import FoundEncoder, find_pose_encoder, keep_pose_encoder
from trainer.run.rehearsal import find_micro_batch
from trainer.run.run_card import BaseFacts, RunCard, write_run_card
from trainer.run.train_module import TrainModule
from trainer.run.watch import Watch, open_watch
from trainer.settings import NEEDED_TO_TRAIN, CheckpointSettings, TrainSettings, max_steps

log = logging.getLogger(__name__)

STOP_MESSAGE = "stopping after this step, with a checkpoint; Ctrl-C to stop now"


@dataclass(slots=True)
class Run:
    """One run, ready to train: where it stands, and everything it needs. `settings`: with all that was found out of
    the pose encoder. `checkpoint`: the folder to go on from. `kernels`: of attention, by width of a head."""

    settings: TrainSettings
    output: Path
    world: World
    data: RunData
    train_module: TrainModule
    card: RunCard
    pose_encoder: FoundEncoder | None
    checkpoint: Path | None
    step: int = 0
    order: OrderState = field(default_factory=OrderState)
    kernels: dict[int, Kernel] = field(default_factory=dict)


def run(settings: TrainSettings, *, dry_run: bool = False) -> TrainReport | DryRunReport:
    """Train as the settings say, or, with `dry_run`, only say what that would cost.

    Starts where the run folder's newest whole checkpoint is. Under torchrun, all processes call this alike.

    Raises:
        UsageError: the settings cannot work, or do not fit the checkpoint. LposekitError: data or checkpoint are
        damaged, the loss is not finite, the disk is full, a worker or another process died.
    """
    check_values(settings, required=NEEDED_TO_TRAIN)
    started = time.monotonic()
    device = choose_device(settings.compute.device)
    with open_world(device, settings.compute.timeout_s) as world:
        prepare_torch(settings)
        with named_out_of_memory(settings):
            prepared = build_run(settings, world)
        if dry_run:
            return describe_run(prepared.settings, prepared.train_module, prepared.data)
        with named_out_of_memory(prepared.settings):
            return start(prepared, started)


def start(run: Run, started: float) -> TrainReport:
    """Everything that writes, on the main process; the loop, on all of them."""
    make_room(run)
    if not run.world.is_main:
        resume(run)
        return train(run, None, started)
    with own_folder(run.output):
        remove_leftovers(run.output)
        resume(run)
        with open_watch(run.settings, run.train_module, run.data, run.step) as watch:
            describe_folder(run)
            return train(run, watch, started)


def make_room(run: Run) -> None:
    """Settle the micro-batch and the kernels, refuse what will not fit, and compile, before any process waits for
    another's step."""
    settings, loader = run.settings, run.data.loader
    if settings.optim.micro_batch == "auto":
        found = find_micro_batch(run.train_module, run.data, run.world)
        run.settings = with_micro_batch(settings, found)
        loader.split = replace(loader.split, micro_batch=found)
    else:
        refuse_too_large(settings, run.train_module, run.data, run.world)
    loader.check_shared_memory()
    run.kernels = choose_kernels(settings, facts_of(run.checkpoint), run.train_module, run.data, run.world)
    use_kernels(run.kernels)
    if is_compiled(settings, run.world.device):
        compile_parts(run.train_module)
        warm_up(run.train_module, run.data)


def build_run(settings: TrainSettings, world: World) -> Run:
    """Choose the checkpoint (the same one on all processes), open the data, load the base, put the model together."""
    is_winograd(settings, world.device)  # refuses what is not available before anything is loaded
    name, output = settings.base, settings.output
    assert name is not None
    assert output is not None
    checkpoint = world.from_main(choose_checkpoint(settings.resume, output) if world.is_main else None)
    facts = facts_of(checkpoint)
    settings = with_batches(as_begun(settings, facts), facts, world)
    base = load_base(name)
    if checkpoint is None:
        settings = with_its_pose_encoder(settings)
    else:
        settings = computed_as_begun(settings, values_of_before(facts, checkpoint.parent.parent), world.device)
    found = find_pose_encoder(settings, base.unet.config["block_out_channels"], checkpoint)
    settings = drawn_as_learned(settings, found.run_card if found and settings.stage == 2 else None)
    data = open_data(settings, base, world, facts.get("fixed", {}).get("latents", ()))
    refuse_undrawable(settings, data.datasets)
    card = run_card(settings, base, data, found)
    init = settings.init if checkpoint is None else ""
    train_module = build(settings, base, found.encoder if found else None, world, init)
    return Run(settings, output, world, data, train_module, card, found, checkpoint)


def run_card(settings: TrainSettings, base: Base, data: RunData, found: FoundEncoder | None) -> RunCard:
    """What `run.json` says: enough to sample from the run, and to refuse a checkpoint of something else."""
    unet, switches = fingerprint(base.unet), asdict(model_switches(settings.model))
    weights = {"unet": unet, "vae": fingerprint(base.vae), "pose_encoder": found.digest if found else None}
    return RunCard(
        stage=settings.stage,
        base=BaseFacts(settings.base, base.source, unet),
        data=[str(dataset.root) for dataset in (*data.datasets, *data.images)],
        switches=switches,
        size=settings.image.size,
        frames=settings.clip.frames if settings.stage == 2 else 1,
        pose_style=settings.pose.style,
        pose_line_width=settings.pose.line_width,
        fixed={**data.facts, **weights, "switches": switches},
    )


def resume(run: Run) -> None:
    """Put the run where its checkpoint left it; at step 0 if there is none."""
    folder, device = run.checkpoint, run.world.device
    if folder is None:
        return
    checkpoint = load_checkpoint(folder)
    if run.settings.stage == 1 and not run.settings.pose_encoder:
        # what stage 1 started from is no longer needed to go on
        begun_with = checkpoint.facts["fixed"].get("pose_encoder")
        run.card = replace(run.card, fixed={**run.card.fixed, "pose_encoder": begun_with})
    refuse_other_run(checkpoint.facts["fixed"], run.card.fixed, folder)
    before, now = values_of_before(checkpoint.facts, folder.parent.parent), recorded_values(run.settings, device)
    refuse_changes(before, now, folder)
    run.train_module.restore(checkpoint, f"checkpoint {folder}")
    run.step, run.order = checkpoint.step, OrderState(**checkpoint.facts["order"])
    if run.world.is_main and run.settings.resume != "auto":
        set_aside_newer(run.output, run.step)
    log.info("resuming after step %d from %s", run.step, folder)
    changed = logged_changes(before, now)
    if changed and run.world.is_main:
        log.warning("from step %d on, the run has other settings than before: %s", run.step + 1, ", ".join(changed))


def choose_checkpoint(resume: str, output: Path) -> Path | None:
    """The checkpoint to start from.

    Raises:
        UsageError: `--resume none` meets a run folder with checkpoints.
        LposekitError: there are checkpoints and none of them is whole; to start anew would wipe the run's history.
    """
    if resume not in ("auto", "none"):
        return Path(resume)
    found = newest_whole(output) if resume == "auto" else None
    if found is None and list_steps(output):
        if resume == "none":
            raise UsageError(f"{output} has checkpoints, and --resume none wants a new run: name another --output.")
        raise LposekitError(
            f"{output}: none of its {len(list_steps(output))} checkpoints is whole (see the warnings). Restore one, go "
            "on from a copy with --resume PATH, or start a new run in another --output."
        )
    return found


def describe_folder(run: Run) -> None:
    """Write what the run is made from, and the pose encoder that it carries along."""
    write_settings(run.output, run.settings)
    if run.settings.stage == 2:
        run.card = replace(run.card, pose_encoder=keep_pose_encoder(run.pose_encoder, run.output))
    write_run_card(run.output, run.card)
    # the weights as they were read are of no more use
    run.pose_encoder = None


def train(run: Run, watch: Watch | None, started: float) -> TrainReport:
    """The loop. `watch` is there on the main process only."""
    first, last = run.step, max_steps(run.settings)
    loader, train_module, interrupted = run.data.loader, run.train_module, False
    batches = loader.batches(run.order, max(0, last - run.step))
    with (
        Interrupts(STOP_MESSAGE, second_raises=True).installed() as interrupts,
        loader.named_worker_deaths(),
        checkpoint_writer(run) as writer,
    ):
        train_module.before_change = writer.settle
        if watch and run.step == 0:
            watch.validate(run.step)
        while run.step < last and not interrupted:
            with watch.waiting() if watch else contextlib.nullcontext():
                passes = [next(batches) for _ in range(loader.split.passes)]
            outcome = train_module.step(run.step + 1, passes, interrupts.stop.is_set())
            run.step, run.order = run.step + 1, loader.advance(run.order)
            interrupted = outcome.stop and run.step < last
            keys = keys_of_all(run.world, passes) if run.settings.watch.keys else None
            if watch:
                watch.record(run.step, outcome, run.order, keys, passes)
                watch.validate(run.step, last=run.step == last)
            writer.check()
            if run.world.is_main and (interrupted or is_due(run.step, last, run.settings.checkpoint)):
                writer.save(snapshot(run))
            fault_point("train:after_step")
    measured = watch.last if watch else {}
    seconds = time.monotonic() - started
    return TrainReport(run.settings.stage, run.output, first, run.step, last, interrupted, seconds, measured)


def keys_of_all(world: World, passes: list[Batch]) -> list[str]:
    """Keys of a step's samples, over all processes, in their order."""
    return [key for keys in world.gather([key for batch in passes for key in batch.keys]) for key in keys]


def is_due(step: int, last: int, settings: CheckpointSettings) -> bool:
    """Whether a step ends with a checkpoint."""
    return step == last or step % settings.every_steps == 0


def checkpoint_writer(run: Run) -> CheckpointWriter:
    """Writes the run's checkpoints; the one that it goes on from was read whole."""
    settings = run.settings.checkpoint
    every = settings.keep_every_steps
    whole = {run.step} if run.step and run.checkpoint == step_folder(run.output, run.step) else set()
    return CheckpointWriter(run.output, settings.keep, lambda step: every is not None and step % every == 0, whole)


def snapshot(run: Run) -> Checkpoint:
    """The checkpoint of the step, of tensors that the next update changes."""
    tensors, facts = run.train_module.state()
    split = run.data.loader.split
    facts = {
        **facts,
        "order": asdict(run.order),
        "fixed": run.card.fixed,
        "batch_size": split.batch_size,
        "micro_batch": split.micro_batch,
        "settings": recorded_values(run.settings, run.world.device),
        FACT: {str(width): kernel for width, kernel in run.kernels.items()},
    }
    return Checkpoint(run.step, tensors, facts)
