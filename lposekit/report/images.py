"""The report of an image dataset."""

from __future__ import annotations

from pathlib import Path

from lposekit.report.common import common_values, page_path
from lposekit.report.image_charts import image_charts
from lposekit.report.image_facts import gather_image_facts
from lposekit.report.page import write_page
from lposekit.report.tiles import kept_tiles, rejected_tiles
from lposekit.shards.dataset import PoseDataset


def write_image_report(dataset: PoseDataset, *, public: bool) -> Path:
    """Write the page of an image dataset; returns its path. See `lposekit.report.html.write_report`."""
    facts = gather_image_facts(dataset)
    return write_page(
        page_path(dataset, public=public),
        "images.html",
        **common_values(dataset, facts, public=public),
        kept=kept_tiles(dataset, facts, public=public),
        rejected={} if public else rejected_tiles(dataset, facts),
        charts=image_charts(facts),
    )
