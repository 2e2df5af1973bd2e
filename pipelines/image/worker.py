"""Builds image shards: everything that is loaded once and used for many shards."""

from __future__ import annotations

import contextlib
import logging
import tempfile
import threading
from collections.abc import Generator, Sequence
from pathlib import Path

from lposekit.recipe import Claim, ShardReport
from lposekit.records import ImageRow
from lposekit.sandbox.sandbox import SandboxError
from lposekit.shards.layout import DatasetLayout
from lposekit.shards.rows import ShardKind
from lposekit.stage_times import StageTimes
from pipelines.fetch.removals import read_removals
from pipelines.image.download import FetchedRow
from pipelines.image.index_rows import IndexPlan, load_index_shard
from pipelines.image.plan import ShardPlan
from pipelines.image.rows import OWN_COLUMNS, ImageRules
from pipelines.image.settings import BuildImagesSettings
from pipelines.image.shard import Download, EarlierRows, ImageStages, image_rows
from pipelines.image.stored import RetryPlan, load_retry
from pipelines.job.shard import write_shard
from pipelines.pose.pool import PoseClient

IMAGE_SHARDS = ShardKind(OWN_COLUMNS)


class ImageWorker:
    """Builds one shard after the other.

    Args:
        claim: the folder.
        poses: the pose model, usually a pool of actors.
        allowed_local: host:port pairs that may be private: the quickstart's own sample server.
    """

    def __init__(
        self,
        claim: Claim,
        settings: BuildImagesSettings,
        rules: ImageRules,
        poses: PoseClient,
        allowed_local: frozenset[str] = frozenset(),
    ) -> None:
        self._claim = claim
        self._stages = ImageStages(
            load_download(settings, allowed_local),
            poses,
            rules,
            settings.pose.batch_size,
            settings.fetch.dedup,
            settings.network_failure_limit,
            settings.network_failure_window,
            read_removals(DatasetLayout(claim.root)),
        )

    def build(self, plan: ShardPlan | RetryPlan | IndexPlan) -> ShardReport:
        """Build and commit one shard, of a list or of an index, or rows of one again.

        Raises:
            LposekitError: the disk is full, or the folder belongs to a newer run.
        """
        earlier = EarlierRows()
        if isinstance(plan, RetryPlan):
            plan, earlier = load_retry(DatasetLayout(self._claim.root), plan)
        elif isinstance(plan, IndexPlan):
            plan, earlier = load_index_shard(plan, DatasetLayout(self._claim.root))
        times = StageTimes()
        # After a cancel, downloads under way end on their own, and may leave a file when the folder is empty already.
        with tempfile.TemporaryDirectory(prefix="lposekit-", ignore_cleanup_errors=True) as folder:
            rows = image_rows(plan, self._stages, Path(folder), times, earlier=earlier)
            stats = {"captions_trimmed": plan.captions_trimmed}
            return write_shard(self._claim, plan.shard, rows, IMAGE_SHARDS, times, stats=stats)


def load_download(settings: BuildImagesSettings, allowed_local: frozenset[str] = frozenset()) -> Download:
    """The fetch and decode stage of a worker: opener, decoder children, img2dataset; loaded once a process."""
    from pipelines.fetch.polite import polite_opener
    from pipelines.image import engine
    from pipelines.image.decode import ImageDecoder
    from pipelines.image.decode_budget import DecodeBudget
    from pipelines.image.download import download_rows

    logging.getLogger("urllib3").setLevel(logging.ERROR)
    opener = polite_opener(
        settings.fetch, allow_private_addresses=settings.allow_private_addresses, allowed_local=allowed_local
    )
    decoder, budget = ImageDecoder(settings.image), DecodeBudget()
    # now rather than within the first shard: where the models run in processes of their own, those load meanwhile
    engine.load()
    # an error here would end this process without a word; if it goes on, the first shard tells
    with contextlib.suppress(SandboxError, OSError, RuntimeError):
        decoder.start()

    def download(
        rows: Sequence[ImageRow], work_dir: Path, times: StageTimes, cancel: threading.Event | None = None
    ) -> Generator[FetchedRow, None, None]:
        return download_rows(
            rows,
            opener=opener,
            decode=decoder.decode,
            settings=settings.fetch,
            work_dir=work_dir,
            times=times,
            cancel=cancel,
            budget=budget,
            is_doubtful=opener.transport.resting.is_doubtful,
            decode_threads=decoder.parallel,
        )

    return download
