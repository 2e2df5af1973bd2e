"""The charts of a dataset's page: bars, shares over a setting, the strip of a video."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from lposekit.report.svg import PlotArea, points, rect, text

AREA = PlotArea(width=440, height=236, left=46, right=12, top=22, bottom=40)
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = AREA.width, AREA.height, AREA.left, AREA.right, AREA.top, AREA.bottom
PLOT_WIDTH, PLOT_HEIGHT = AREA.plot_width, AREA.plot_height
MAX_X_LABELS = 11


@dataclass(frozen=True, slots=True)
class ChartWithNumbers:
    """A chart and the numbers behind it, for those who cannot or will not read the chart."""

    title: str
    hint: str
    svg: Markup
    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]


def bar_chart(
    labels: Sequence[str],
    values: Sequence[int],
    *,
    title: str,
    x_title: str,
    highlighted: Sequence[int] | None = None,
    highlighted_name: str = "kept",
    other_name: str = "not kept",
) -> Markup:
    """Vertical bars. `highlighted`: the part of each value that is drawn in the main colour, below the rest."""
    parts = highlighted if highlighted is not None else values
    top_value = nice_ceiling(max(values, default=0))
    step = PLOT_WIDTH / max(len(values), 1)
    every = -(-len(labels) // MAX_X_LABELS)
    body = [_y_axis([_short(top_value * i / 4) for i in range(5)] if top_value >= 4 else _whole_ticks(top_value))]
    for i, (label, value, part) in enumerate(zip(labels, values, parts, strict=True)):
        x = LEFT + i * step
        words = f"{label}: {value:,}" + (f" ({part:,} {highlighted_name})" if highlighted is not None else "")
        body.append(Markup("<g><title>{}</title>").format(words))
        body.append(_bar(x + step * 0.12, step * 0.76, 0, part, top_value, "bar"))
        body.append(_bar(x + step * 0.12, step * 0.76, part, value - part, top_value, "bar rest"))
        # a hit area over the whole height, so that the number shows on hover over empty bars too
        body.append(rect("hit", x, TOP, step, PLOT_HEIGHT))
        body.append(Markup("</g>"))
        if i % every == 0:
            body.append(text(x + step / 2, HEIGHT - BOTTOM + 15, label))
    if highlighted is not None:
        body.append(_legend(highlighted_name, other_name))
    return _svg(body, title, x_title)


def line_chart(
    xs: Sequence[float],
    shares: Sequence[float],
    *,
    title: str,
    x_title: str,
    x_labels: Sequence[tuple[float, str]],
    marker: tuple[float, float, str] | None = None,
    point_texts: Sequence[str] = (),
    steps: bool = False,
) -> Markup:
    """A share (0..1) over x. `marker`: (x, share, text) of the setting in force.

    `steps`: the share at an x holds from the x before it, as where a number must be reached.
    """
    low, high = (xs[0], xs[-1]) if len(xs) > 1 else (0.0, 1.0)
    top_share = _share_ceiling(max(shares, default=1.0))

    def place(x: float, share: float) -> tuple[float, float]:
        return (
            LEFT + PLOT_WIDTH * (x - low) / ((high - low) or 1),
            AREA.y(share / top_share),
        )

    places = [place(x, share) for x, share in zip(xs, shares, strict=True)]
    body = [_y_axis([_percent(top_share * i / 4) for i in range(5)])]
    body += [text(place(x, 0)[0], HEIGHT - BOTTOM + 15, label) for x, label in x_labels]
    outline = points(_corners(places) if steps else places)
    base = TOP + PLOT_HEIGHT
    body.append(
        Markup('<polygon class="area" points="{:.1f},{} {} {:.1f},{}"/>').format(
            LEFT, base, outline, LEFT + PLOT_WIDTH, base
        )
    )
    body.append(Markup('<polyline class="line" points="{}"/>').format(outline))
    if marker is not None:
        body.append(_marker(*place(marker[0], marker[1]), marker[2]))
    for (x, y), words in zip(places, point_texts, strict=False):
        body.append(
            Markup('<circle class="hit" cx="{:.1f}" cy="{:.1f}" r="9"><title>{}</title></circle>').format(x, y, words)
        )
    return _svg(body, title, x_title)


def _corners(places: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """A step line through places: up or down first, then to the right."""
    corners = list(places[:1])
    for (before, _), (x, y) in itertools.pairwise(places):
        corners += [(before, y), (x, y)]
    return corners


def timeline(
    duration_s: float, spans_s: Sequence[tuple[float, float]], cuts_s: Sequence[float], *, title: str
) -> Markup:
    """A strip of one video: clips as blocks, cuts as lines."""
    scale = WIDTH / max(duration_s, 1e-9)
    body = [rect("track", 0, 8, WIDTH, 14)]
    for start, end in spans_s:
        words = f"clip {start:.2f} s to {end:.2f} s"
        body.append(
            Markup(
                '<rect class="bar" x="{:.1f}" y="8" width="{:.1f}" height="14" rx="2"><title>{}</title></rect>'
            ).format(start * scale, max((end - start) * scale - 1, 1), words)
        )
    for cut in cuts_s:
        body.append(
            Markup(
                '<line class="cut" x1="{0:.1f}" x2="{0:.1f}" y1="2" y2="28"><title>cut at {1:.2f} s</title></line>'
            ).format(cut * scale, cut)
        )
    return Markup(
        '<svg class="timeline" viewBox="0 0 {} 30" role="img" aria-label="{}" preserveAspectRatio="none">{}</svg>'
    ).format(WIDTH, title, Markup("").join(body))


def nice_ceiling(value: float) -> int:
    """The next of 1, 2, 4, 8, 12, 20, 40, 80, 120, ... that is at least `value`; from 4 on, quarters are whole."""
    power = 1
    while True:
        for step in (1, 2, 4, 8):
            if step * power >= value:
                return step * power
        if 12 * power >= value:
            return 12 * power
        power *= 10


def _share_ceiling(share: float) -> float:
    return next((top for top in (0.02, 0.04, 0.1, 0.2, 0.4, 0.6, 0.8) if share <= top), 1.0)


def _percent(share: float) -> str:
    return f"{100 * share:.3g}%"


def _short(value: float) -> str:
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= limit:
            return f"{value / limit:.3g}{unit}"
    return f"{value:.3g}"


def _whole_ticks(top: int) -> list[str]:
    return [str(i) for i in range(top + 1)]


def _y_axis(labels: Sequence[str]) -> Markup:
    """Labels at equal distances, the first at the bottom."""
    return AREA.y_axis((i / (len(labels) - 1), label) for i, label in enumerate(labels))


def _bar(x: float, width: float, below: float, value: float, top_value: float, css: str) -> Markup:
    height = PLOT_HEIGHT * value / top_value
    y = AREA.y((below + value) / top_value)
    return rect(css, x, y, width, height) if value else Markup("")


def _marker(x: float, y: float, words: str) -> Markup:
    left_half = x < LEFT + PLOT_WIDTH / 2
    label = text(x + (-4 if left_half else 4), TOP - 8, words, anchor="start" if left_half else "end", css="strong")
    return Markup(
        '<line class="marker" x1="{0:.1f}" x2="{0:.1f}" y1="{1}" y2="{2}"/>'
        '<circle class="dot" cx="{0:.1f}" cy="{3:.1f}" r="4"/>{4}'
    ).format(x, TOP, TOP + PLOT_HEIGHT, y, label)


def _legend(main: str, rest: str) -> Markup:
    x = WIDTH - RIGHT
    rest_x = x - 7 * len(rest) - 16
    main_x = rest_x - 7 * len(main) - 30
    return Markup("").join(
        [
            rect("bar", main_x, TOP - 17, 10, 10),
            text(main_x + 14, TOP - 8, main, anchor="start"),
            rect("bar rest", rest_x, TOP - 17, 10, 10),
            text(rest_x + 14, TOP - 8, rest, anchor="start"),
        ]
    )


def _svg(body: Sequence[Markup], title: str, x_title: str) -> Markup:
    return AREA.drawing("chart", title, [*body, text(LEFT + PLOT_WIDTH / 2, HEIGHT - 6, x_title)])
