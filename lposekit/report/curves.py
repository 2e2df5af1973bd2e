"""The charts of a training run's page: curves over steps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from lposekit.report.svg import PlotArea, points, text

AREA = PlotArea(width=560, height=250, left=58, right=12, top=14, bottom=34)
MAX_POINTS = 400


@dataclass(frozen=True, slots=True)
class Curve:
    """One line: values over steps. `faint`: drawn thin, behind the others."""

    name: str
    steps: Sequence[int]
    values: Sequence[float]
    faint: bool = False


@dataclass(frozen=True, slots=True)
class Panel:
    """A chart with its words."""

    title: str
    hint: str
    svg: Markup


def smooth(values: Sequence[float], share: float = 0.05) -> list[float]:
    """Running mean over this share of all values before each one; a training loss says little without it."""
    window = max(1, round(share * len(values)))
    total, smoothed = 0.0, []
    for i, value in enumerate(values):
        total += value - (values[i - window] if i >= window else 0.0)
        smoothed.append(total / min(i + 1, window))
    return smoothed


def chart(
    title: str,
    curves: Sequence[Curve],
    *,
    from_zero: bool = False,
    percent: bool = False,
    least_span: float = 0.0,
    mark: int | None = None,
) -> Markup:
    """The curves over one another; the names of more than one stand below. Zero is a line of its own where it is shown,
    and an axis that does not reach it says so: a small change fills the whole height then.

    Args:
        least_span: what the axis spans at least, so that noise does not look like a trend.
        mark: a step at which a line stands.
    """
    curves = [thin_out(curve) for curve in curves if curve.steps]
    values = [value for curve in curves for value in curve.values if math.isfinite(value)]
    if not values:
        return Markup('<p class="hint">Not measured.</p>')
    lowest, highest = min([*values, 0.0] if from_zero else values), max([*values, 0.0] if from_zero else values)
    missing = max(least_span - (highest - lowest), 0.0) if math.isfinite(least_span) else 0.0
    ticks = nice_ticks(lowest - missing / 2 if lowest or not from_zero else lowest, highest + missing / 2)
    first, last = min(curve.steps[0] for curve in curves), max(curve.steps[-1] for curve in curves)
    low, span = ticks[0], ticks[-1] - ticks[0]
    axis = AREA.y_axis(zip(((tick - low) / span for tick in ticks), tick_labels(ticks, percent), strict=True))
    body = [axis, *_zero_line(ticks), *_step_labels(first, last)]
    shown = [curve for curve in curves if not curve.faint]
    for curve in curves:
        css = "faint" if curve.faint else f"curve c{shown.index(curve)}"
        body.append(_line(curve, css, (first, last), (ticks[0], ticks[-1])))
    if mark is not None and first <= mark <= last:
        x = AREA.left + AREA.plot_width * (mark - first) / ((last - first) or 1)
        line = Markup('<line class="mark" x1="{0:.1f}" x2="{0:.1f}" y1="{1}" y2="{2}"><title>step {3}</title></line>')
        body.append(line.format(x, AREA.top, AREA.height - AREA.bottom, f"{mark:,}"))
    svg = AREA.drawing("curves", title, body)
    names = [Markup('<span class="key c{}">{}</span>').format(i, curve.name) for i, curve in enumerate(shown)]
    keys = Markup('<p class="keys">{}</p>').format(Markup(" ").join(names)) if len(names) > 1 else ""
    return svg + keys + _cut_axis_note(ticks, percent)


def thin_out(curve: Curve) -> Curve:
    """At most `MAX_POINTS` points, the mean of what lies between; a long run's page stays small."""
    size = math.ceil(len(curve.steps) / MAX_POINTS)
    if size <= 1:
        return curve
    starts = range(0, len(curve.steps), size)
    values = [sum(curve.values[i : i + size]) / len(curve.values[i : i + size]) for i in starts]
    steps = [curve.steps[min(i + size, len(curve.steps)) - 1] for i in starts]
    return Curve(curve.name, steps, values, curve.faint)


def nice_ticks(low: float, high: float) -> list[float]:
    """Three to six round values that span low..high: multiples of 1, 2, 2.5 or 5 times a power of ten."""
    span = (high - low) or abs(high) or 1.0
    power = 10.0 ** math.floor(math.log10(span / 4))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if span / (power * factor) <= 4)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [i * step for i in range(first, max(last, first + 1) + 1)]


def tick_labels(ticks: Sequence[float], percent: bool = False) -> list[str]:
    """The ticks as short as they can be told apart."""
    labels: list[str] = []
    for digits in range(3 if percent else 4, 12):
        labels = [_number(tick, percent, digits) for tick in ticks]
        if len(set(labels)) == len(ticks):
            break
    return labels


def _number(value: float, percent: bool, digits: int) -> str:
    if percent:
        return f"{100 * value:.{digits}g}%"
    if value and abs(value) < 0.001:
        mantissa, exponent = f"{value:.{digits - 2}e}".split("e")
        return f"{float(mantissa):g}e{int(exponent)}"
    return f"{value:.{digits}g}"


def _zero_line(ticks: Sequence[float]) -> list[Markup]:
    """A stronger rule at zero, where the axis reaches below it."""
    if not ticks[0] < 0 < ticks[-1]:
        return []
    y = AREA.y(-ticks[0] / (ticks[-1] - ticks[0]))
    line = Markup('<line class="zero" x1="{}" x2="{}" y1="{:.1f}" y2="{:.1f}"/>')
    return [line.format(AREA.left, AREA.width - AREA.right, y, y)]


def _cut_axis_note(ticks: Sequence[float], percent: bool) -> Markup:
    if ticks[0] <= 0:
        return Markup("")
    start = tick_labels(ticks, percent)[0]
    return Markup('<p class="hint axis-note">The axis starts at {}, not at 0.</p>').format(start)


def _step_labels(first: int, last: int) -> list[Markup]:
    left, right, y = AREA.left, AREA.width - AREA.right, AREA.height - 12
    return [
        text(left, y, f"{first:,}", anchor="start"),
        text((left + right) / 2, y, "step"),
        text(right, y, f"{last:,}", anchor="end"),
    ]


def _line(curve: Curve, css: str, steps: tuple[int, int], values: tuple[float, float]) -> Markup:
    places = [
        (
            AREA.left + AREA.plot_width * (step - steps[0]) / ((steps[1] - steps[0]) or 1),
            AREA.y((value - values[0]) / (values[1] - values[0])),
        )
        for step, value in zip(curve.steps, curve.values, strict=True)
        if math.isfinite(value)
    ]
    dots = Markup("").join(
        Markup('<circle class="{}" cx="{:.1f}" cy="{:.1f}" r="2.5"/>').format(css, x, y)
        for x, y in (places if len(places) <= 30 and not curve.faint else [])
    )
    return (
        Markup('<polyline class="{}" points="{}"><title>{}</title></polyline>').format(css, points(places), curve.name)
        + dots
    )
