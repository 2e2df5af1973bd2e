"""The kinds of datasets that this package builds, each joined with the build: what the commands call."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TypedDict, Unpack

from lposekit.errors import Outcome, UsageError
from lposekit.json_values import JsonObject
from lposekit.recipe import AnyRecipe
from lposekit.setting_values import nearest
from lposekit.settings import stored_settings
from lposekit.shards.card import DatasetCard, read_card, refuse_other_folder, stated
from lposekit.shards.keep_rule import keep_rule_of
from lposekit.shards.layout import DatasetLayout
from lposekit.shards.private import whole_settings
from pipelines.build import Execute, build, dataset_card, rebuild, with_note
from pipelines.fetch.removals import joined, read_removals, write_removals
from pipelines.image.index_recipe import MATERIALIZED, index_recipe
from pipelines.image.index_settings import MaterializeSettings
from pipelines.image.recipe import ImageRecipe
from pipelines.image.settings import BuildImagesSettings
from pipelines.job.build_report import BuildReport
from pipelines.job.crew import run_on_ray
from pipelines.job.lock import owned_folder
from pipelines.video.poses.recipe import PosesRecipe
from pipelines.video.poses.settings import PosesSettings
from pipelines.video.recipe import VideoRecipe, as_begun
from pipelines.video.settings import BuildVideoSettings


class MachineSettings(TypedDict, total=False):
    """Settings that say on which machine a folder is continued, not what becomes of its rows."""

    workers: int | None
    ray_address: str | None
    weights_dir: Path | None
    allow_private_addresses: bool
    allow_outside_paths: bool


def build_images(
    settings: BuildImagesSettings,
    *,
    quickstart: bool = False,
    dry_run: bool = False,
    execute: Execute = run_on_ray,
) -> BuildReport:
    """Build, or continue, a LAION-Pose dataset folder; see `pipelines.build.build`.

    Args:
        settings: where `input` and `output` are named, except for the quickstart's input.
        quickstart: build the sample from photos that ship in a package, served by a server that this call starts.
    """
    if not quickstart:
        return build(ImageRecipe(settings), dry_run=dry_run, execute=execute)
    from pipelines.quickstart.server import served_list

    with served_list() as (list_path, server):
        recipe = ImageRecipe(replace(settings, input=(str(list_path),)), server)
        return build(recipe, dry_run=dry_run, execute=execute)


def build_videos(
    settings: BuildVideoSettings,
    *,
    quickstart: bool = False,
    dry_run: bool = False,
    execute: Execute = run_on_ray,
) -> BuildReport:
    """Build, or continue, a dataset folder of clips; see `pipelines.build.build`.

    Args:
        settings: where `input` and `output` are named, except for the quickstart's input.
        quickstart: build the sample from videos that this call makes.
    """
    settings = as_begun(settings)
    if not quickstart:
        return build(VideoRecipe(settings), dry_run=dry_run, execute=execute)
    if settings.output is None:
        raise UsageError("name the dataset folder with --output")
    from pipelines.quickstart.videos import write_sample_videos

    with contextlib.ExitStack() as stack:
        beside = settings.output.parent
        if dry_run:
            beside = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lposekit-")))
        folder = write_sample_videos(beside / "sample-videos")
        recipe = VideoRecipe(replace(settings, input=(str(folder),)), sample=True)
        return build(recipe, dry_run=dry_run, execute=execute)


def build_poses(settings: PosesSettings, *, dry_run: bool = False, execute: Execute = run_on_ray) -> BuildReport:
    """Find, or go on finding, the poses of a dataset of clips; see `pipelines.build.build`.

    Args:
        settings: where `input` names the dataset folder of the clips, and `output` that of the poses.
    """
    return build(PosesRecipe(settings), dry_run=dry_run, execute=execute)


def materialize(settings: MaterializeSettings, *, dry_run: bool = False, execute: Execute = run_on_ray) -> BuildReport:
    """Fetch the images of an index again, and write the dataset that it was made of; no model runs.

    A row whose file is not the one that the index knows (sha256) ends as `hash_mismatch`; what the index's own
    `removed.json`, the folder's, or a blocklist names is not fetched. A later index of the same dataset goes on in the
    folder: rows that it no longer has end as `removed`, also where they were committed.

    Raises:
        UsageError: no index there, or the folder belongs to another one. LposekitError: the index is damaged.
    """
    recipe = index_recipe(settings)
    assert settings.output is not None
    target = DatasetLayout(settings.output)
    again = None if settings.again is None else _outcomes(_names(settings.again))
    if again is not None and not read_card(target).extra.get(MATERIALIZED):
        raise UsageError(f"{target.root}: was not made of an index. Run `lposekit retry {target.root}`.")
    begun = refuse_other_folder(target, dataset_card(recipe, []))
    if not dry_run and read_removals(recipe.index):
        with owned_folder(target):  # before anything is fetched; whoever changes the folder later heeds it too
            write_removals(target, joined(recipe.index, target))
    if dry_run:
        report = build(recipe, dry_run=True) if again is None else rebuild(recipe, again, dry_run=True)
        return with_note(report, recipe.taking_up(target) if begun else None)
    if begun and (again is not None or not recipe.is_taken_up(target)):
        report = rebuild(recipe, again or frozenset(), execute=execute)
        if report.failures or report.stopped:
            return report
        with owned_folder(target):
            recipe.remember(target)
        if again is not None:
            return report
    return build(recipe, execute=execute)


def retry(
    dataset: Path,
    only: Collection[str] = (),
    *,
    limits: Mapping[str, object] | None = None,
    dry_run: bool = False,
    execute: Execute = run_on_ray,
    **changes: Unpack[MachineSettings],
) -> BuildReport:
    """Fetch the rows with certain outcomes again, in place; every other row of their shards stays as it is.

    Of a video dataset the videos with these outcomes are built again; its manifests must still be where they were. Of a
    dataset of poses, the poses of the clips with these outcomes are found again.

    Rows that the pose model saw before (`few_keypoints`, `no_person`) are fetched by URL and sha256 and judged on
    their stored poses by the folder's keep rule, without running a model.

    Args:
        only: outcomes to retry; default: those that another try may change.
        limits: of a video dataset, fields of `DecodeLimits` in place of those that it was built with; of a dataset of
            poses, fields of `FrameLimits`.
        changes: settings of the machine at hand: `workers`, `ray_address`, `allow_private_addresses`, of
            images and poses `weights_dir`, of videos `allow_outside_paths`.

    Raises:
        UsageError: an unknown outcome, or limits where there are no videos.
    """
    outcomes = _outcomes(only)
    layout = DatasetLayout(dataset)
    card = read_card(layout)
    replaced = {**changes, "output": dataset}
    settings = stated(whole_settings(layout, card), "settings", layout)
    if card.extra.get(MATERIALIZED):
        raise UsageError(
            f"{dataset}: its poses are those of an index, and `retry` would run a model. Run `lposekit materialize "
            f"INDEX --output {dataset} --again {','.join(only) or 'timeout'}`."
        )
    of_videos = {"video": _video_recipe, "poses": _poses_recipe}
    if card.kind in of_videos:
        recipe = of_videos[card.kind](settings, limits or {}, replaced)
        return rebuild(recipe, outcomes, dry_run=dry_run, execute=execute)
    if limits:
        raise UsageError(f"{dataset} holds images: --limits are those of videos.")
    with _image_recipe(card, settings, _without(replaced, "allow_outside_paths")) as recipe:
        return rebuild(recipe, outcomes, dry_run=dry_run, execute=execute)


def _video_recipe(settings: JsonObject, limits: Mapping[str, object], changes: Mapping[str, object]) -> AnyRecipe:
    stored = stored_settings(BuildVideoSettings, settings, "dataset card")
    changes = _without(changes, "weights_dir")  # clips have no models
    return VideoRecipe(replace(stored, limits=replace(stored.limits, **limits), min_success=None, **changes))


def _poses_recipe(settings: JsonObject, limits: Mapping[str, object], changes: Mapping[str, object]) -> AnyRecipe:
    stored = stored_settings(PosesSettings, settings, "dataset card")
    if "timeout_s" in limits:
        raise UsageError("--limits.timeout-s: poses have no such limit. Set --limits.heartbeat-timeout-s.")
    changes = _without(changes, "allow_private_addresses", "allow_outside_paths")  # nothing is fetched
    return PosesRecipe(replace(stored, limits=replace(stored.limits, **limits), min_success=None, **changes))


@contextlib.contextmanager
def _image_recipe(card: DatasetCard, stored: JsonObject, changes: Mapping[str, object]) -> Iterator[AnyRecipe]:
    # A folder that does not name this setting was built before there was one: both of two near-duplicates were kept.
    stored = {"pose.duplicate_oks": None, **stored}
    settings = replace(
        stored_settings(BuildImagesSettings, stored, "dataset card"),
        network_failure_limit=None,
        **changes,
    )
    rule, _ = keep_rule_of(card)
    if not card.sample:
        yield ImageRecipe(settings, rule=rule)
        return
    from pipelines.quickstart.server import served_list

    with served_list() as (_, server):
        yield ImageRecipe(settings, server, rule)


def _without(changes: Mapping[str, object], *names: str) -> dict[str, object]:
    return {name: value for name, value in changes.items() if name not in names}


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _outcomes(only: Collection[str]) -> frozenset[Outcome]:
    if not only:
        return frozenset(outcome for outcome in Outcome if outcome.facts.retryable)
    known = [outcome.value for outcome in Outcome if outcome not in (Outcome.KEPT, Outcome.REMOVED)]
    if wrong := sorted(set(only) - set(known)):
        raise UsageError(
            f"--only {', '.join(wrong)}: no such outcome to retry{nearest(wrong[0], known)} Known: {', '.join(known)}."
        )
    return frozenset(Outcome(name) for name in only)
