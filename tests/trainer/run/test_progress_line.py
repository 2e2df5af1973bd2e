"""Contract of the line that a run logs while it trains: what was measured, the time left, nothing unknown."""

from __future__ import annotations

import pytest

from trainer.run.watch import progress_line

VALUES = {
    "step": 1200,
    "loss": 0.12345,
    "steps_per_s": 2.0,
    "samples_per_s": 8.0,
    "tflops": 1.234,
    "mfu": 0.31,
    "data_wait": 0.05,
    "peak_memory_gib": 3.21,
}


@pytest.mark.case(91)
def test_a_line_tells_the_place_in_the_run_and_the_time_left() -> None:
    # Mutation: the time of the whole run.
    assert progress_line(VALUES, 100_000) == (
        "step 1,200 of 100,000  loss 0.1235  2.00 steps/s  8.0 samples/s  1.23 TFLOP/s  MFU 31%  waiting for data 5%  "
        "memory 3.2 GiB  13 h 43 min left"
    )
    assert "left" not in progress_line(VALUES, 1200)


@pytest.mark.case(91)
def test_what_was_not_measured_is_left_out() -> None:
    # Mutation: no look at `mfu`: "0 TFLOP/s  MFU 0%".
    line = progress_line({**VALUES, "tflops": 0.0, "mfu": 0.0}, 100_000)
    assert "TFLOP" not in line
    assert "MFU" not in line
