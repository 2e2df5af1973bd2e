"""A Ray actor that builds shards: everything that is loaded once and used for many shards."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from lposekit.records import ImageRow
from lposekit.shards.layout import DatasetLayout
from pipelines.image.plan import ShardPlan
from pipelines.image.pose_pool import PoseClient
from pipelines.image.shard import ImageJob, build_image_shard
from pipelines.image.stored import RetryPlan, load_retry
from pipelines.job.shard_report import ShardReport


class ShardWorker:
    """Builds one shard after the other.

    Args:
        job: what all shards share.
        poses: the pose model, usually a pool of actors.
    """

    def __init__(self, job: ImageJob, poses: PoseClient) -> None:
        self._job = job
        self._poses = poses
        self._download = make_download(job)

    def build(self, plan: ShardPlan | RetryPlan) -> ShardReport:
        """Build and commit one shard, or rows of one again; see `build_image_shard`."""
        retry = None
        if isinstance(plan, RetryPlan):
            plan, retry = load_retry(DatasetLayout(self._job.root), plan)
        return build_image_shard(plan, self._job, self._poses, self._download, retry=retry)


def make_download(job: ImageJob) -> Callable[..., None]:
    """The fetch and decode stage of a worker: opener, decoder children, img2dataset; loaded once a process."""
    from pipelines.fetch.polite import polite_opener
    from pipelines.image.decode import ImageDecoder
    from pipelines.image.download import FetchedRow, download_rows

    logging.getLogger("urllib3").setLevel(logging.ERROR)
    settings = job.settings
    opener = polite_opener(
        settings.fetch,
        allow_private_addresses=settings.allow_private_addresses,
        allowed_local=job.allowed_local,
    )
    decoder = ImageDecoder(settings.image)

    def download(
        rows: Sequence[ImageRow], sink: Callable[[FetchedRow], None], work_dir: Path, cancel: Any = None
    ) -> None:
        download_rows(
            rows,
            opener=opener,
            decode=decoder.decode,
            settings=settings.fetch,
            sink=sink,
            work_dir=work_dir,
            cancel=cancel,
            decode_threads=decoder.parallel,
        )

    return download
