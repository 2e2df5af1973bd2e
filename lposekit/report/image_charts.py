"""The charts of the report of an image dataset."""

from __future__ import annotations

from lposekit.report import charts
from lposekit.report.charts import ChartWithNumbers
from lposekit.report.image_facts import MAX_PERSON_BARS, MIN_DETECTED_STEPS, ImageFacts
from lposekit.report.page import share


def image_charts(facts: ImageFacts) -> list[ChartWithNumbers]:
    """The charts of an image dataset, in the order of the page."""
    return [_yield_chart(facts), _score_chart(facts), _detected_chart(facts), _persons_chart(facts)]


def _yield_chart(facts: ImageFacts) -> ChartWithNumbers:
    total = len(facts.keypoint_format.body17)
    counts = facts.yield_counts.tolist()
    svg = charts.line_chart(
        MIN_DETECTED_STEPS,
        [count / max(facts.num_judged, 1) for count in counts],
        steps=True,
        title="Share of the images seen that is kept, over the share of keypoints that must be detected",
        x_title=f"keypoints that must be detected (share of {total})",
        x_labels=[(x, f"{x:g}") for x in (0, 0.25, 0.5, 0.75, 1)],
        marker=_marker(facts, facts.rule.min_detected),
        point_texts=[f"{i} of {total}: {_kept_text(facts, count)}" for i, count in enumerate(counts)],
    )
    rows = [(f"{i} ({i / total:.2f})", f"{n:,}", share(n, facts.num_judged)) for i, n in enumerate(counts)]
    return ChartWithNumbers(
        "Yield over the keep rule",
        "How many of the images seen would be kept if more or fewer keypoints had to be detected. "
        "`lposekit refilter` applies a stricter rule without any model.",
        svg,
        (f"of {total} (share)", "kept", "of those seen"),
        rows,
    )


def _score_chart(facts: ImageFacts) -> ChartWithNumbers:
    counts = facts.score_counts.tolist()
    top = facts.score_steps[-1]
    pairs = list(zip(facts.score_steps, counts, strict=True))
    svg = charts.line_chart(
        facts.score_steps,
        [count / max(facts.num_judged, 1) for count in counts],
        title="Share of the images seen that is kept, over the score from which a keypoint counts as detected",
        x_title="raw keypoint score from which it is detected",
        x_labels=[(top * i / 4, f"{top * i / 4:.3g}") for i in range(5)],
        marker=_marker(facts, facts.rule.keypoint_score_threshold),
        point_texts=[f"from {x:.3g}: {_kept_text(facts, count)}" for x, count in pairs],
    )
    return ChartWithNumbers(
        "Yield over the score threshold",
        "The same, over the model's raw score from which a keypoint counts as detected. Scores are per model: do not "
        "carry a threshold over to another one.",
        svg,
        ("score", "kept", "of those seen"),
        [(f"{x:.3g}", f"{count:,}", share(count, facts.num_judged)) for x, count in pairs[::2]],
    )


def _marker(facts: ImageFacts, setting: float) -> tuple[float, float, str]:
    kept = facts.num_passing / max(facts.num_judged, 1)
    return setting, kept, f"set: {setting:g}, keeps {share(facts.num_passing, facts.num_judged)}"


def _kept_text(facts: ImageFacts, count: int) -> str:
    return f"{share(count, facts.num_judged)} of the images seen ({count:,})"


def _detected_chart(facts: ImageFacts) -> ChartWithNumbers:
    total = len(facts.keypoint_format.body17)
    counts = [facts.detected[i] for i in range(total + 1)]
    kept = [facts.detected_kept[i] for i in range(total + 1)]
    svg = charts.bar_chart(
        [str(i) for i in range(total + 1)],
        counts,
        highlighted=kept,
        title="Images with a valid person, by keypoints detected",
        x_title=f"keypoints detected, of {total} (person rule: {facts.rule.person_rule})",
    )
    rows = [(str(i), f"{counts[i]:,}", f"{kept[i]:,}") for i in range(total + 1)]
    return ChartWithNumbers(
        "Keypoints detected",
        "Images with a valid person, by the number of keypoints that the keep rule compares.",
        svg,
        (f"of {total}", "images", "kept"),
        rows,
    )


def _persons_chart(facts: ImageFacts) -> ChartWithNumbers:
    labels = [*map(str, range(MAX_PERSON_BARS)), f"{MAX_PERSON_BARS}+"]
    counts = [facts.persons[i] for i in range(MAX_PERSON_BARS + 1)]
    kept = [facts.persons_kept[i] for i in range(MAX_PERSON_BARS + 1)]
    svg = charts.bar_chart(
        labels,
        counts,
        highlighted=kept,
        title="Images seen, by number of valid persons",
        x_title="valid persons in the image",
    )
    rows = [(label, f"{count:,}", f"{part:,}") for label, count, part in zip(labels, counts, kept, strict=True)]
    return ChartWithNumbers(
        "Persons per image",
        "All images seen. A person is valid if the box is sure and large enough (see the keep rule below).",
        svg,
        ("persons", "images", "kept"),
        rows,
    )
