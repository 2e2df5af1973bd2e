"""Contract of `lposekit.report.charts`: well-formed SVG whatever the data, texts escaped, sizes true to the numbers."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest
from markupsafe import Markup

from lposekit.report import charts

HOSTILE = "</svg><script>alert(1)</script>\"' &"


def parsed(svg: Markup) -> ElementTree.Element:
    return ElementTree.fromstring(str(svg))


def test_bars_are_as_high_as_their_values() -> None:
    root = parsed(charts.bar_chart(["a", "b", "c"], [8, 4, 0], title="t", x_title="x"))
    heights = [float(rect.get("height", "0")) for rect in root.iter("rect") if rect.get("class") == "bar"]
    assert len(heights) == 2, "nothing is drawn for 0"
    assert heights[0] == pytest.approx(2 * heights[1])
    assert heights[0] == pytest.approx(charts.PLOT_HEIGHT), "8 is a round number: the axis ends there"


def test_highlighted_and_other_part_add_up_to_the_bar() -> None:
    root = parsed(charts.bar_chart(["a"], [4], highlighted=[1], title="t", x_title="x"))
    heights = {rect.get("class"): float(rect.get("height", "0")) for rect in root.iter("g").__next__().iter("rect")}
    assert heights["bar rest"] == pytest.approx(3 * heights["bar"])


def test_every_bar_tells_its_number() -> None:
    root = parsed(charts.bar_chart(["a", "b"], [12_345, 0], title="t", x_title="x"))
    assert [title.text for title in root.iter("title")] == ["a: 12,345", "b: 0"]


def test_a_step_line_falls_at_the_point_before() -> None:
    svg = charts.line_chart([0, 1], [0.8, 0.4], steps=True, title="t", x_title="x", x_labels=[])
    points = re.search(r'class="line" points="([^"]+)"', svg)
    assert points
    (x0, y0), (x1, y1), (x2, y2) = [tuple(map(float, point.split(","))) for point in points.group(1).split()]
    assert (x0, y1) == (x1, y2)
    assert y0 < y1
    assert x2 > x1


@pytest.mark.parametrize("values", [[], [0], [0, 0, 0], [1], [10**12, 1]])
def test_charts_of_odd_data_are_well_formed(values: list[int]) -> None:
    assert parsed(charts.bar_chart([HOSTILE] * len(values), values, highlighted=values, title=HOSTILE, x_title=HOSTILE))
    shares = [value / 10**12 for value in values] or [0.0]
    xs = [float(i) for i in range(len(shares))]
    marker = (0.0, 0.0, HOSTILE)
    svg = charts.line_chart(
        xs, shares, title=HOSTILE, x_title=HOSTILE, x_labels=[(0, HOSTILE)], marker=marker, point_texts=[HOSTILE]
    )
    assert parsed(svg)
    assert "<script" not in svg


def test_timeline_of_an_unknown_duration_is_well_formed() -> None:
    root = parsed(charts.timeline(0.0, [(0.0, 1.0)], [0.5], title=HOSTILE))
    assert len(list(root.iter("line"))) == 1


@pytest.mark.parametrize(("value", "top"), [(0, 1), (1, 1), (3, 4), (5, 8), (11, 12), (13, 20), (401, 800)])
def test_axes_end_at_round_numbers(value: int, top: int) -> None:
    assert charts.nice_ceiling(value) == top
