"""README.md of an export: what it holds, where it comes from, and how it is read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import pyarrow.compute as pc

from lposekit.errors import Outcome
from lposekit.shards.card import DatasetCard
from lposekit.shards.dataset import PoseDataset
from lposekit.shards.layout import DatasetLayout
from lposekit.shards.tables import shard_table

LICENCE_COLUMNS = ("licence", "license", "LICENSE", "License")
OPT_OUTS = (Outcome.ROBOTS, Outcome.OPT_OUT, Outcome.BLOCKED)


def card_text(
    card: DatasetCard,
    licences: Counter[str],
    target: str,
    how: str,
    exported: int,
    skipped: Mapping[str, int],
    *,
    tars: str | None,
) -> str:
    """Markdown, with the header that dataset hubs read; `tars`: which files are the tars of samples."""
    outcomes = card.totals.outcomes if card.totals else {}
    opt_outs = {outcome.value: outcomes[outcome.value] for outcome in OPT_OUTS if outcomes.get(outcome.value)}
    lines = [*_header(card.kind, exported, tars), "", f"# {_what(card.kind)} for {target}", "", how, ""]
    lines += ["| | |", "|---|---|", f"| samples | {exported} |"]
    lines += [f"| left out: {reason} | {count} |" for reason, count in sorted(skipped.items())]
    lines += [f"| kind | {card.kind} |", f"| built by | lposekit {card.lposekit or 'unknown'} |"]
    lines += [f"| {name} | {value} |" for name, value in sorted((card.keep_rule or {}).items())]
    lines += [f"| {role} | {_model(model)} |" for role, model in sorted((card.models or {}).items()) if _model(model)]
    lines += [f"| refused by owners: {name} | {count} |" for name, count in opt_outs.items()]
    lines += ["", "## Licences of the sources", ""]
    lines += [f"- {_cell(name)}: {count} rows" for name, count in licences.most_common(20)] or ["Not stated."]
    lines += [
        "",
        "The people in these images and clips were not asked. Poses are a model's work, captions that of strangers.",
        "Licences decide whether you may pass the images on; links you usually may.",
    ]
    return "\n".join(lines) + "\n"


def _header(kind: str, exported: int, tars: str | None) -> list[str]:
    task = "text-to-image" if kind == "image" else "text-to-video"
    sizes = (("n<1K", 10**3), ("1K<n<10K", 10**4), ("10K<n<100K", 10**5), ("100K<n<1M", 10**6), ("1M<n<10M", 10**7))
    size = next((name for name, limit in sizes if exported < limit), "n>10M")
    lines = ["---", "license: other", f"task_categories: [{task}]", f"size_categories: ['{size}']"]
    if tars:
        lines += ["configs:", "- config_name: default", f'  data_files: [{{split: train, path: "{tars}"}}]']
    return [*lines, "---"]


def _what(kind: str) -> str:
    return "Images with poses" if kind == "image" else "Clips"


def _model(model: object) -> str:
    named = model.get("name") if isinstance(model, Mapping) else None
    return _cell(named) if isinstance(named, str) else ""


def kept_licences(dataset: PoseDataset) -> Counter[str]:
    """Of the kept rows, where the list stated them; shard by shard, since a dataset may have millions of rows."""
    licences: Counter[str] = Counter()
    layout = DatasetLayout(dataset.root)
    for shard in dataset.shards:
        rows = shard_table(layout, layout.parquet(shard.shard), where=pc.field("outcome") == Outcome.KEPT.value)
        column = next((name for name in LICENCE_COLUMNS if name in rows.column_names), None)
        if column is not None:
            licences.update(str(value) if value else "not stated" for value in rows[column].to_pylist())
    return licences


def _cell(text: str) -> str:
    """A stranger's text, on one line of a table."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")[:200]
