"""`lposekit view`: one self-contained HTML file that shows what is in a dataset folder."""

from __future__ import annotations

from pathlib import Path

from lposekit.errors import LposekitError
from lposekit.report.decode import close_decoder
from lposekit.report.images import write_image_report
from lposekit.report.poses import write_pose_report
from lposekit.report.videos import write_video_report
from lposekit.shards.dataset import open_dataset
from lposekit.shards.files import refuse_address

_WRITERS = {"image": write_image_report, "video": write_video_report, "poses": write_pose_report}


def write_report(dataset_dir: Path, *, public: bool = False) -> Path:
    """Write the report of a dataset folder to `index.html` or `public.html` in `_dataset/report`.

    Args:
        dataset_dir: a folder that `make laion-pose`, `lposekit build-video-shards` or `lposekit pose` wrote.
        public: make a page that may be shown to others, without photos, frames, captions, web addresses and paths:
            skeletons and numbers of images and poses, numbers alone of videos, for clips have no skeletons.

    Returns:
        The path of the page.

    Raises:
        UsageError: it lies in an object store. LposekitError: no dataset there, or it is damaged.
    """
    refuse_address(dataset_dir)
    dataset = open_dataset(dataset_dir)
    kind = dataset.card.kind
    if kind not in _WRITERS:
        raise LposekitError(f"{dataset_dir}: no report for a dataset of kind {kind!r}. Upgrade lposekit.")
    try:
        return _WRITERS[kind](dataset, public=public)
    finally:
        close_decoder()
