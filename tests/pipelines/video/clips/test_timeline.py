"""Contract of the clock: the rate is measured from time stamps, and each tick shows the frame nearest in time.

At the source's own constant rate every frame appears exactly once, in order, whatever the rounding of its time stamp.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import pytest

from pipelines.video.clips.timeline import measured_rate, rate_from_settings, resampled

RATES = [Fraction(24000, 1001), Fraction(25), Fraction(30000, 1001), Fraction(60), Fraction(5), Fraction(120)]


@dataclass(frozen=True)
class Shown:
    number: int
    pts: int


def stamps(rate: Fraction, count: int, time_base: Fraction, start: int = 0) -> list[int]:
    return [start + round(number / rate / time_base) for number in range(count)]


def ticks(pts: list[int], fps: Fraction, time_base: Fraction) -> list[tuple[int, bool]]:
    frames = (Shown(number, stamp) for number, stamp in enumerate(pts))
    interval = float(np.median(np.diff(pts))) if len(pts) > 1 else float(1 / (fps * time_base))
    return [(tick.frame.number, tick.repeated) for tick in resampled(frames, fps, time_base, interval)]


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("time_base", [Fraction(1, 1000), Fraction(1, 90000), Fraction(1, 15360)])
@pytest.mark.parametrize("stated", [None, Fraction(25), Fraction(100_000), "right"])
def test_rate_is_measured_and_a_lying_header_changes_nothing(rate, time_base, stated) -> None:
    stated = rate if stated == "right" else stated
    measured = measured_rate(np.array(stamps(rate, 300, time_base, start=7)), time_base, stated)
    assert measured is not None
    assert measured.fps == rate
    assert not measured.variable


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("time_base", [Fraction(1, 1000), Fraction(1, 90000)])
def test_own_rate_shows_every_frame_once(rate: Fraction, time_base: Fraction) -> None:
    shown = ticks(stamps(rate, 500, time_base, start=33), rate, time_base)
    assert shown == [(number, False) for number in range(500)]


@pytest.mark.parametrize(("source", "target", "every"), [(60, 30, 2), (50, 25, 2), (120, 24, 5), (60, 20, 3)])
def test_whole_fractions_take_every_nth_frame(source: int, target: int, every: int) -> None:
    shown = ticks(stamps(Fraction(source), 240, Fraction(1, 90000)), Fraction(target), Fraction(1, 90000))
    assert [number for number, _ in shown] == list(range(0, 240, every))


def test_lower_rate_never_repeats_a_frame() -> None:
    for target in (Fraction(24), Fraction(25), Fraction(24000, 1001), Fraction(29)):
        shown = ticks(stamps(Fraction(30), 300, Fraction(1, 1000)), target, Fraction(1, 1000))
        numbers = [number for number, _ in shown]
        assert len(set(numbers)) == len(numbers)
        assert len(numbers) == pytest.approx(300 * target / 30, abs=1)


def test_held_image_is_repeated_and_said_to_be() -> None:
    # 25 per second, but frame 3 stays for five intervals
    pts = [0, 40, 80, 120, 320, 360]
    shown = ticks(pts, Fraction(25), Fraction(1, 1000))
    assert [number for number, _ in shown] == [0, 1, 2, 3, 3, 3, 4, 4, 4, 5]
    assert sum(repeated for _, repeated in shown) == 4


def test_variable_rate_is_told_apart_and_gaps_do_not_slow_the_clock() -> None:
    pts = [number * 33 for number in range(100) if number % 10 not in (4, 5)]
    measured = measured_rate(np.array(pts), Fraction(1, 1000), None)
    assert measured is not None
    assert measured.variable
    assert float(measured.fps) == pytest.approx(30.3, abs=0.4)


def test_time_that_stands_still_has_no_rate() -> None:
    assert measured_rate(np.array([5, 5, 5]), Fraction(1, 1000), Fraction(25)) is None


def test_nominal_rates_mean_the_broadcast_ones() -> None:
    assert rate_from_settings(23.976) == Fraction(24000, 1001)
    assert rate_from_settings(29.97) == Fraction(30000, 1001)
    assert rate_from_settings(8) == 8


# mutation tried: np.median in place of the lower one raises (mean of no interval): red
def test_rate_is_that_of_an_interval_which_occurs() -> None:
    measured = measured_rate(np.array([0, 33, 100, 133, 200]), Fraction(1, 1000), None)
    assert measured is not None
    assert (measured.fps, measured.variable) == (30, True)


# mutations tried: `<` at half of the way, `<=` at the end
def test_half_way_between_two_frames_the_earlier_one_is_shown_and_the_end_is_no_tick() -> None:
    # 25 frames a second at 50 ticks: every second tick lies half-way, and the last one at the very end
    shown = ticks([0, 40, 80], Fraction(50), Fraction(1, 1000))
    assert shown == [(0, False), (0, True), (1, False), (1, True), (2, False)]
