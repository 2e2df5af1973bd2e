"""Contract of what a step is made of: rates without the time for looking."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch

from trainer.run.metrics import Clock, JsonLines, measure_peak_tflops, read_metrics, rewind


def test_time_for_looking_is_not_training_time():
    clock = Clock()
    with clock.spending("looking"):
        time.sleep(0.2)
    with clock.spending("data"):
        time.sleep(0.02)
    clock.tick()
    rates = clock.report(8, 1.0, 4.0)
    assert rates["steps_per_s"] > 10
    assert rates["samples_per_s"] == pytest.approx(8 * rates["steps_per_s"])
    assert rates["mfu"] == pytest.approx(rates["tflops"] / 4)
    assert 0.3 < rates["data_wait"] <= 1


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
