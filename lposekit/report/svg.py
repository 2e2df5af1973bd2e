"""What all charts are drawn with: inline SVG, no script, no request, colours from the page's style sheet.

Every text goes through `markupsafe`, so labels may come from data. Lengths are in units of the drawing (`viewBox`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup


@dataclass(frozen=True, slots=True)
class PlotArea:
    """A drawing of width x height, and the margins around the plot in it."""

    width: int
    height: int
    left: int
    right: int
    top: int
    bottom: int

    @property
    def plot_width(self) -> int:
        return self.width - self.left - self.right

    @property
    def plot_height(self) -> int:
        return self.height - self.top - self.bottom

    def y(self, fraction: float) -> float:
        """The place of a fraction of the plot's height, counted from below."""
        return self.top + self.plot_height * (1 - fraction)

    def y_axis(self, ticks: Iterable[tuple[float, str]]) -> Markup:
        """A rule and a label for each tick, given as a fraction of the plot's height."""
        line = Markup('<line class="grid" x1="{}" x2="{}" y1="{:.1f}" y2="{:.1f}"/>')
        body = []
        for fraction, label in ticks:
            y = self.y(fraction)
            body.append(line.format(self.left, self.width - self.right, y, y))
            body.append(text(self.left - 6, y + 4, label, anchor="end"))
        return Markup("").join(body)

    def drawing(self, css: str, title: str, body: Sequence[Markup]) -> Markup:
        """The whole drawing; `title` is what a screen reader says."""
        return Markup('<svg class="{}" viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>').format(
            css, self.width, self.height, title, Markup("").join(body)
        )


def text(x: float, y: float, words: str, *, anchor: str = "middle", css: str = "") -> Markup:
    """A label; `anchor` (start, middle, end) is the part of it that is at (x, y)."""
    return Markup('<text x="{:.1f}" y="{:.1f}" text-anchor="{}" class="{}">{}</text>').format(x, y, anchor, css, words)


def rect(css: str, x: float, y: float, width: float, height: float) -> Markup:
    """A filled rectangle, its corner at (x, y)."""
    return Markup('<rect class="{}" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}"/>').format(
        css, x, y, width, height
    )


def points(places: Iterable[tuple[float, float]]) -> str:
    """Places as the `points` of a line or an area."""
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
