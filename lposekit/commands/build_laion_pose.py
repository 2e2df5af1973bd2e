"""`lposekit build-laion-pose`: from a list of URLs and captions to a dataset of image, text and pose."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from lposekit.commands.flags import Loaded, load
from lposekit.commands.output import finish
from lposekit.commands.registry import COMMANDS
from pipelines.settings import BuildImagesSettings

# The preset names the small pair that the sample's outcomes were checked with. No publisher serves that pair, so a
# machine without it takes OpenMMLab's own small models, which are downloaded.
DOWNLOADABLE_PAIR = {"detector": "rtmdet-nano", "pose_model": "rtmpose-t"}


def run(argv: Sequence[str]) -> int:
    loaded = load(COMMANDS["build-laion-pose"], BuildImagesSettings, argv)
    settings = _quickstart_models(loaded) if loaded.quickstart else loaded.settings
    from pipelines import laion_pose

    report = laion_pose.run(settings, quickstart=loaded.quickstart, dry_run=loaded.dry_run)
    return finish(report, as_json=loaded.json)


def _quickstart_models(loaded: Loaded[BuildImagesSettings]) -> BuildImagesSettings:
    """The preset's models, or the pair that can be downloaded where the preset's lies nowhere."""
    from lposekit.pose.weights import find_weights
    from lposekit.pose.zoo import detector_entry, pose_entry

    settings = loaded.settings
    wanted = (detector_entry(settings.detector).weights, pose_entry(settings.pose_model).weights)
    if all(weights.url or find_weights(weights, settings.weights_dir) for weights in wanted):
        return settings
    return replace(settings, **DOWNLOADABLE_PAIR)
