"""Contract of the trainer under real kills: a run that dies anywhere, resumed by the same command, ends with the
losses, keys and weights of the run that was never disturbed, bit for bit; nothing half written is ever taken for a
checkpoint."""

from __future__ import annotations

import functools
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from lposekit.errors import Interrupted
from tests.support.train_runs import keys, losses, settings_for, start, train_in_child
from trainer.run.checkpoint import list_steps
from trainer.settings import CheckpointSettings, LoaderSettings

POINTS = [
    "train:in_step",
    "train:after_step",
    "checkpoint:after_trainable",
    "checkpoint:after_optimizer",
    "checkpoint:before_rename",
    "checkpoint:after_rename",
]
KILLED = -signal.SIGKILL


STEPS = 40


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Path]:
    """The folder of an undisturbed run of a stage, made when it is first asked for."""
    folder = tmp_path_factory.mktemp("undisturbed")

    @functools.cache
    def run_of(stage: int) -> Path:
        assert train_in_child(settings_for(stage, folder / str(stage), max_steps=STEPS)).exit_code == 0
        return folder / str(stage)

    return run_of


def assert_equal_runs(run: Path, whole: Path) -> None:
    assert losses(run) == losses(whole)
    assert keys(run) == keys(whole)
    newest = f"checkpoints/step-{list_steps(whole)[0]:06d}/trainable.safetensors"
    assert (run / newest).read_bytes() == (whole / newest).read_bytes()
    assert not list((run / "checkpoints").glob("*.tmp"))


@pytest.mark.more  # `tests/trainer/test_train.py` resumes a run that was stopped
@pytest.mark.timeout(300)
@pytest.mark.parametrize("stage", [1, 2])
@pytest.mark.case(41)
def test_a_run_killed_at_every_named_point_ends_as_if_it_never_was(
    stage: int, undisturbed: Callable[[int], Path], tmp_path: Path
):
    # one run, killed at each point in turn, each time resumed by the same command
    # mutations: no rewind of metrics.jsonl (steps twice), restoring no optimiser state, saving into the final folder
    checkpoint = CheckpointSettings(every_steps=2, keep=2)
    settings = settings_for(stage, tmp_path / "run", max_steps=STEPS, checkpoint=checkpoint)
    for number, point in enumerate(POINTS):
        fault = {"LPOSEKIT_FAULT": f"{point}@{tmp_path / f'marker-{number}'}"}
        assert train_in_child(settings, fault).exit_code == KILLED, point
    result = train_in_child(settings)
    assert result.exit_code == 0, result.message
    assert_equal_runs(tmp_path / "run", undisturbed(stage))


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("stage", [1, 2])
@pytest.mark.case(40)
def test_a_run_of_40_steps_killed_at_20_moments_ends_as_if_it_never_was(stage: int, tmp_path: Path):
    often = CheckpointSettings(every_steps=2, keep=2)
    assert train_in_child(settings_for(stage, tmp_path / "whole", max_steps=STEPS, checkpoint=often)).exit_code == 0
    torn = settings_for(stage, tmp_path / "torn", max_steps=STEPS, checkpoint=often)
    moments, kills = random.Random(stage), 0
    for _ in range(20):
        # some steps on from where the last one got, or while it still starts; then a moment later
        target = len(losses(tmp_path / "torn")) + moments.randint(-1, 3)
        child = start(torn)
        while child.process.is_alive() and len(losses(tmp_path / "torn")) < target:
            time.sleep(0.002)
        time.sleep(moments.uniform(0, 0.2))
        child.process.kill()
        kills += child.join().exit_code == KILLED
    assert train_in_child(torn).exit_code == 0
    assert kills >= 15, "the moments must hit running processes"
    assert_equal_runs(tmp_path / "torn", tmp_path / "whole")


def everyone_in(group: int) -> list[psutil.Process]:
    """The processes of a group, its first one last."""
    main = psutil.Process(group)
    return [*main.children(recursive=True), main]


def ctrl_c(group: int) -> None:
    os.killpg(group, signal.SIGINT)


def terminate_group(group: int) -> None:
    os.killpg(group, signal.SIGTERM)


def terminate_workers_first(group: int) -> None:
    for process in everyone_in(group):
        # long enough for the training process to see a dead worker
        time.sleep(0.2)
        process.terminate()


@pytest.mark.timeout(240)
@pytest.mark.parametrize(
    "stop",
    [
        pytest.param(ctrl_c, marks=pytest.mark.more),
        terminate_group,
        pytest.param(terminate_workers_first, marks=pytest.mark.more),
    ],
)
@pytest.mark.case(57)
def test_a_request_to_stop_writes_a_checkpoint_exits_130_and_loses_nothing(
    stop: Callable[[int], None], undisturbed: Callable[[int], Path], tmp_path: Path
):
    # a terminal, torchrun and schedulers signal every process, loader workers too
    # mutation: without the handler the child dies of KeyboardInterrupt and no checkpoint of its step is there
    # mutation tried: without _end_with_parent the workers die of SIGTERM, and the training process with them
    settings = settings_for(
        1,
        tmp_path / "run",
        max_steps=STEPS,
        checkpoint=CheckpointSettings(every_steps=100, keep=2),
        loader=LoaderSettings(workers=2, block_samples=4),
    )
    child = start(settings)
    wait_for_steps(tmp_path / "run", 2)
    group = everyone_in(child.process.pid)
    assert len(group) >= 3
    stop(child.process.pid)
    result = child.join()
    assert result.exit_code == Interrupted.exit_code, result.message
    assert 2 <= result.report["step"] < STEPS
    assert list_steps(tmp_path / "run") == [result.report["step"]]
    assert not psutil.wait_procs(group, timeout=10)[1], "no process stays behind"
    assert train_in_child(settings).exit_code == 0
    assert_equal_runs(tmp_path / "run", undisturbed(1))


def wait_for_steps(run: Path, steps: int) -> None:
    """Until the run has logged that many steps."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if (run / "metrics.jsonl").exists() and len(losses(run)) >= steps:
            return
        time.sleep(0.01)
    raise AssertionError(f"no {steps} steps within a minute")
