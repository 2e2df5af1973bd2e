"""The clock of a video, measured from its time stamps, and the constant-rate clock of its clips.

Time stamps are whole ticks of a time base (as in the container), so that every comparison is exact.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Generic, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

_STANDARD_RATES = tuple(
    Fraction(rate) for rate in (5, 10, 12, 15, 20, 24, 25, 30, 48, 50, 60, 90, 100, 120, 144, 240)
) + tuple(Fraction(rate * 1000, 1001) for rate in (12, 24, 30, 48, 60, 120))
_VARIABLE = 0.25  # an interval off by this share of the usual one is a change of rate; rounded time stamps are not


@dataclass(frozen=True, slots=True)
class FrameRate:
    """Frames per second as measured, and whether the intervals vary."""

    fps: Fraction
    variable: bool


def measured_rate(pts: npt.NDArray[np.int64], time_base: Fraction, stated: Fraction | None) -> FrameRate | None:
    """The rate of sorted time stamps; None when they do not advance (or there is only one).

    Constant rate: frames over duration. Variable rate: the mean of the usual intervals, so that a gap (a dropped frame,
    a held image) does not slow the clip's clock down. `stated`, the header's rate, only decides between values that
    the rounding of the time stamps leaves open.
    """
    intervals = np.diff(pts)
    intervals = intervals[intervals > 0]
    if intervals.size == 0:
        return None
    usual = float(np.percentile(intervals, 50, method="lower"))  # one that occurs: a mean of two may be near to none
    tolerance = max(_VARIABLE * usual, 1.0)
    regular = intervals[np.abs(intervals - usual) <= tolerance]
    variable = bool(regular.size < pts.size - 1)
    ticks = float(regular.mean())
    rounding = 1.0 / max(float(regular.size), 1.0)  # both ends of the sum of intervals are rounded by up to half a tick
    measured = 1.0 / (ticks * float(time_base))
    open_share = max(rounding / ticks, 5e-4)
    return FrameRate(_nearest_rate(measured, stated, open_share), variable)


def _nearest_rate(measured: float, stated: Fraction | None, tolerance: float) -> Fraction:
    if stated and abs(float(stated) / measured - 1.0) <= tolerance:
        return stated
    nearest = min(_STANDARD_RATES, key=lambda rate: abs(float(rate) - measured))
    if abs(float(nearest) / measured - 1.0) <= tolerance:
        return nearest
    return max(Fraction(measured).limit_denominator(1001), Fraction(1, 1001))


def rate_from_settings(fps: float) -> Fraction:
    """23.976 means 24000/1001."""
    return _nearest_rate(fps, None, 1e-4)


class Timed(Protocol):
    """Anything with a time stamp in ticks."""

    @property
    def pts(self) -> int: ...


FrameT = TypeVar("FrameT", bound=Timed)


@dataclass(frozen=True, slots=True)
class Tick(Generic[FrameT]):
    """One frame of the clip's clock: number `index`, showing `frame`. `repeated`: the tick before showed it too."""

    index: int
    frame: FrameT
    repeated: bool


def resampled(
    frames: Iterable[FrameT], fps: Fraction, time_base: Fraction, last_interval: float
) -> Iterator[Tick[FrameT]]:
    """Each tick k, at time k / fps from the first frame, shows the frame nearest in time (the earlier one of two).

    `last_interval`: how long the last frame is shown, in ticks of the time base. At the source's own constant rate
    every frame appears once, whatever the rounding of its time stamp. Memory: one frame.
    """
    ticks_per_frame = 1 / (fps * time_base)
    shown: FrameT | None = None
    origin = index = 0
    for frame in frames:
        if shown is None:
            origin = frame.pts
        else:
            half_way = Fraction(shown.pts + frame.pts, 2) - origin
            first = index
            while index * ticks_per_frame <= half_way:
                yield Tick(index, shown, index > first)
                index += 1
        shown = frame
    if shown is None:
        return
    end = shown.pts - origin + Fraction(last_interval) / 2
    first = index
    while index * ticks_per_frame < end:
        yield Tick(index, shown, index > first)
        index += 1
