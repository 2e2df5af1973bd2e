"""Contract of what a run writes down: rates without the time for validation; nothing of a step that is made again
stays; a full disk ends the run with words that name the file, not with a traceback."""

from __future__ import annotations

import resource
import time
from pathlib import Path

import pytest
import torch

from lposekit.errors import LposekitError
from trainer.run.metrics import Clock, JsonLines, ScalarBoard, measure_peak_tflops, read_metrics, rewind


def test_a_run_that_starts_over_keeps_not_even_its_validation_before_the_first_step(tmp_path: Path):
    # mutation tried: keeping what is of step <= 0 leaves the probe's line of the killed run beside the new one
    path = tmp_path / "metrics.jsonl"
    lines = JsonLines(path)
    for step in (0, 1):
        lines.write({"step": step})
    lines.close()
    rewind(path, 1)
    assert [line["step"] for line in read_metrics(path)] == [0, 1]
    rewind(path, 0)
    assert read_metrics(path) == []


def test_a_full_disk_is_named_when_a_line_is_written(tmp_path: Path):
    # mutation tried: without the except clause, OSError
    lines = JsonLines(tmp_path / "metrics.jsonl")
    # a limit on the size of files makes the kernel refuse the write, as a full disk does
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4, limits[1]))
    try:
        with pytest.raises(LposekitError, match=r"metrics\.jsonl: the disk is full.*Free space"):
            lines.write({"step": 1})
        lines.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_tensorboard_in_a_folder_that_cannot_be_made_is_named(tmp_path: Path):
    (tmp_path / "file").write_text("")
    board = ScalarBoard(tmp_path / "file" / "tensorboard", True, 0)
    with pytest.raises(LposekitError, match="tensorboard"):
        board.write({"step": 1, "loss": 1.0}, 1)


def test_every_line_is_strict_json(tmp_path: Path):
    # Mutation tried: written as it is, an infinite gradient makes `Infinity`, which strict readers refuse.
    path = tmp_path / "metrics.jsonl"
    lines = JsonLines(path)
    lines.write({"step": 1, "loss": 0.5, "grad_norm": float("inf"), "lr": 1e-3})
    lines.close()
    assert path.read_text() == '{"step": 1, "loss": 0.5, "lr": 0.001}\n'


def test_time_for_validation_is_not_training_time():
    clock = Clock()
    with clock.spending("validation"):
        time.sleep(0.2)
    with clock.spending("data"):
        time.sleep(0.02)
    clock.tick(1.0)
    rates = clock.report(8, 4.0)
    assert rates["steps_per_s"] > 10
    assert rates["samples_per_s"] == pytest.approx(8 * rates["steps_per_s"])
    assert rates["mfu"] == pytest.approx(rates["tflops"] / 4)
    assert 0.3 < rates["data_wait"] <= 1


def test_the_arithmetic_of_a_report_is_that_of_its_own_steps():
    # mutations tried: the last step's for all; what came before the last report counted again
    clock = Clock()
    for tflop in (4.0, 1.0, 1.0):
        clock.tick(tflop)
    rates = clock.report(8, 4.0)
    assert rates["tflops"] == pytest.approx(rates["steps_per_s"] * 2)
    clock.tick(1.0)
    rates = clock.report(8, 4.0)
    assert rates["tflops"] == pytest.approx(rates["steps_per_s"])


def test_the_matmul_peak_is_a_rate_of_this_device():
    assert 1e-4 < measure_peak_tflops(torch.device("cpu"), torch.float32) < 100


def test_lines_after_the_resumed_step_and_torn_ones_are_dropped(tmp_path: Path):
    path = tmp_path / "metrics.jsonl"
    lines = JsonLines(path)
    for step in (1, 2, 3):
        lines.write({"step": step, "loss": 0.1 * step})
    lines.close()
    with path.open("a") as stream:
        stream.write('{"step": 4, "lo')
    assert [line["step"] for line in read_metrics(path)] == [1, 2, 3]
    rewind(path, 2)
    assert [line["step"] for line in read_metrics(path)] == [1, 2]
    assert path.read_text().endswith("}\n")
