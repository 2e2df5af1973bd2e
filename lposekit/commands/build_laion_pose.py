"""`lposekit build-laion-pose`: build an image-text-pose dataset from a list of URLs and captions."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

from lposekit.commands.flags import Loaded, load
from lposekit.commands.output import finish
from lposekit.commands.registry import COMMANDS
from pipelines.image.settings import BuildImagesSettings

logger = logging.getLogger(__name__)

# The preset names the small pair that the sample's outcomes were checked with. No publisher serves that pair, so a
# machine without it takes OpenMMLab's own small models, which are downloaded.
DOWNLOADABLE_PAIR = {"detector": "rtmdet-nano", "pose_model": "rtmpose-t"}


def run(argv: Sequence[str]) -> int:
    loaded = load(COMMANDS["build-laion-pose"], BuildImagesSettings, argv)
    settings = _quickstart_models(loaded) if loaded.quickstart else loaded.settings
    from pipelines.recipes import build_images

    report = build_images(settings, quickstart=loaded.quickstart, dry_run=loaded.dry_run)
    whole = settings.max_rows is None and settings.shuffle_seed is None
    if loaded.quickstart and whole and not loaded.dry_run and report.exit_code == 0:
        _compare_with_sample(settings)
    return finish(report, as_json=loaded.json)


def _quickstart_models(loaded: Loaded[BuildImagesSettings]) -> BuildImagesSettings:
    """The models of the preset, or the downloadable pair if the files of the preset's models are not found."""
    from lposekit.pose.weights import find_weights
    from lposekit.pose.zoo import detector_entry, pose_entry

    settings = loaded.settings
    wanted = (detector_entry(settings.detector).weights, pose_entry(settings.pose_model).weights)
    if all(weights.url or find_weights(weights, settings.weights_dir) for weights in wanted):
        return settings
    return replace(settings, **DOWNLOADABLE_PAIR)


def _compare_with_sample(settings: BuildImagesSettings) -> None:
    """Report whether every row of the sample has its expected outcome."""
    from lposekit.shards.dataset import open_dataset
    from pipelines.quickstart.photos import unexpected_outcomes

    assert settings.output is not None
    outcomes = open_dataset(settings.output).rows()["outcome"].to_pylist()
    unexpected = unexpected_outcomes(outcomes)
    if not unexpected:
        logger.info(
            "quickstart: all %d rows of the sample ended as listed in pipelines/quickstart/photos.py", len(outcomes)
        )
    for line in unexpected:
        logger.warning("quickstart: %s", line)
