"""Writes a dataset in the layout of another tool: files first, each whole or not at all, the lists at the end.

The same command continues an export that was interrupted: a file that is there is right, because the folder belongs to
one source in one state, with one set of settings (`export.json`).
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import logging
import tarfile
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from lposekit.errors import UsageError
from lposekit.json_values import JsonObject, parse_json_object
from lposekit.records import shard_name
from lposekit.shards.dataset import PoseDataset, PoseSample, open_dataset
from lposekit.shards.files import disk_error, refuse_links, replacing, write_bytes, write_json
from lposekit.shards.keep_rule import keep_rule_of
from lposekit.words import counted
from pipelines.export.card import card_text, kept_licences
from pipelines.export.coco import CocoLabels
from pipelines.export.drawn import ClipPoses, Media, Skipped, draw_clip, draw_image, media_of, samples_of
from pipelines.export.layouts import LAYOUTS, TARS, Exported, Layout
from pipelines.export.settings import ExportSettings

logger = logging.getLogger(__name__)
STATE = "export.json"
TOLD = 20
"""Samples that are left out are told one by one up to here; then they are counted only."""
EVERY = 500
"""Samples between two lines of progress."""


@dataclass(frozen=True, slots=True)
class ExportReport:
    """How an export ended. `skipped`: samples that were left out, by reason."""

    output: Path
    target: str
    exported: int
    skipped: Mapping[str, int] = field(default_factory=dict)
    dry_run: bool = False

    @property
    def exit_code(self) -> int:
        return 0 if self.exported or not self.skipped else 1

    def as_json(self) -> Mapping[str, object]:
        return {
            "output": str(self.output),
            "to": self.target,
            "exported": self.exported,
            "skipped": dict(self.skipped),
            "dry_run": self.dry_run,
        }

    def summary_lines(self) -> list[str]:
        verb = "would export" if self.dry_run else "exported"
        left = ", ".join(f"{count} {reason}" for reason, count in sorted(self.skipped.items()))
        lines = [f"{verb} {counted(self.exported, 'sample')} to {self.output} for {self.target}"]
        lines += [f"left out: {left}"] if left else []
        return [*lines, f"how to read it: {self.output / 'README.md'}"] if not self.dry_run else lines


def export_dataset(settings: ExportSettings, *, dry_run: bool = False) -> ExportReport:
    """Export a dataset folder.

    Raises:
        UsageError: the target does not take this kind, or needs poses; the output belongs to something else.
        LposekitError: the source is damaged; the disk is full.
    """
    assert settings.source is not None
    assert settings.output is not None
    assert settings.to is not None
    dataset = open_dataset(settings.source)
    if settings.to not in LAYOUTS:
        raise UsageError(
            f"--to {settings.to}: for runs, and {settings.source} is a dataset. For these: {', '.join(LAYOUTS)}."
        )
    layout = LAYOUTS[settings.to]
    _check_kind(dataset, layout, settings)
    poses = None if settings.poses is None else ClipPoses(settings.poses)
    for named in (settings.source, settings.poses):
        if named is not None and settings.output.resolve().is_relative_to(named.resolve()):
            raise UsageError(
                f"--output {settings.output}: lies in {named}, which holds its own files only. Name another."
            )
    if dry_run:
        count = min(len(dataset), settings.max_samples or len(dataset))
        return ExportReport(settings.output, settings.to, count, dry_run=True)
    _claim(settings.output, _identity(dataset, poses, settings))
    return _Export(dataset, layout, settings, settings.output, poses).run()


def _check_kind(dataset: PoseDataset, layout: Layout, settings: ExportSettings) -> None:
    kind = dataset.card.kind
    if kind not in layout.kinds:
        takes = " or ".join({"image": "images", "video": "clips"}[each] for each in layout.kinds)
        fitting = ", ".join(name for name, each in LAYOUTS.items() if kind in each.kinds)
        raise UsageError(
            f"--to {settings.to}: takes datasets of {takes}, and {settings.source} is of kind {kind!r}. "
            + (f"For these: {fitting}." if fitting else "Name a dataset of images or clips.")
        )
    if kind == "image" and settings.poses is not None:
        raise UsageError("--poses: images have their poses with them; drop it.")
    if kind == "video":
        shard = next((shard for shard in dataset.shards if len(shard)), None)
        if shard is not None and "mp4" not in shard.places:
            raise UsageError(f"{settings.source}: its clips are stored as frames. Build it with --encode.format mp4.")
        if layout.needs == "required" and settings.poses is None:
            raise UsageError(
                f"--to {settings.to}: needs the poses of the clips. Estimate them with `lposekit pose --input "
                f"{settings.source} --output POSES`, and give --poses POSES."
            )


def _identity(dataset: PoseDataset, poses: ClipPoses | None, settings: ExportSettings) -> JsonObject:
    """What decides the bytes of an export."""
    lines = [f"{shard.name} {shard.tar_sha256}" for shard in dataset.shards]
    if poses is not None:
        lines += [f"poses {shard.name} {shard.tar_sha256}" for shard in poses.dataset.shards]
    return {
        "source_sha256": hashlib.sha256("\n".join(lines).encode()).hexdigest(),
        "to": settings.to,
        "style": settings.style,
        "score_threshold": settings.score_threshold,
        "crf": settings.crf,
        "max_samples": settings.max_samples,
        "with_poses": poses is not None,
    }


def _claim(output: Path, identity: JsonObject) -> None:
    """Make the folder ours, or go on with it.

    Raises:
        UsageError: it holds something else.
    """
    state = output / STATE
    if output.is_dir():
        refuse_links(output)
    if state.is_file():
        try:
            there = parse_json_object(state.read_bytes())
        except ValueError as error:
            raise UsageError(f"{state}: damaged ({error}). Name another --output.") from error
        differing = sorted(name for name in {*there, *identity} if there.get(name) != identity.get(name))
        if differing:
            raise UsageError(
                f"{output}: holds another export ({', '.join(differing)} differ). Name another --output, or remove it."
            )
        return
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise UsageError(f"{output}: is there and is no export. Name a new --output.")
    write_json(state, identity)


class _Export:
    """One export under way."""

    def __init__(
        self,
        dataset: PoseDataset,
        layout: Layout,
        settings: ExportSettings,
        output: Path,
        poses: ClipPoses | None,
    ) -> None:
        self._dataset = dataset
        self._layout = layout
        self._settings = settings
        self._output = output
        self._poses = poses
        self._kind = dataset.card.kind
        self._exported = 0
        self._listed: list[Exported] = []
        """What the target's lists name; tars have none."""
        self._skipped: Counter[str] = Counter()
        self._coco = None
        if settings.to == "coco":
            rule, keypoint_format = keep_rule_of(dataset.card)
            threshold = settings.score_threshold
            self._coco = CocoLabels(keypoint_format, rule.keypoint_score_threshold if threshold is None else threshold)
        self._files = contextlib.ExitStack()
        self._tar: tarfile.TarFile | None = None
        self._tar_name = ""

    def run(self) -> ExportReport:
        """Write everything; returns what came of it."""
        is_tar = self._settings.to in TARS
        try:
            with self._files:
                self._write_samples(is_tar)
        except OSError as error:
            raise disk_error(error, self._output) from error
        self._write_lists(is_tar)
        assert self._settings.to is not None
        return ExportReport(self._output, self._settings.to, self._exported, dict(self._skipped))

    def _write_samples(self, is_tar: bool) -> None:
        for number, (shard, sample) in enumerate(samples_of(self._dataset)):
            if number == self._settings.max_samples:
                break
            if number and number % EVERY == 0:
                logger.info("%d of %d samples", number, len(self._dataset))
            try:
                media = media_of(sample)
                if is_tar:
                    self._add_to_tar(shard.shard, sample, media)
                else:
                    self._write(shard.shard, sample, media)
            except Skipped as skipped:
                self._skipped[skipped.reason] += 1
                told = self._skipped.total() <= TOLD
                logger.log(logging.WARNING if told else logging.DEBUG, "sample %s: left out, %s", sample.key, skipped)

    # --- files in folders --------------------------------------------------------------------------------------------

    def _write(self, shard: int, sample: PoseSample, media: Media) -> None:
        image = self._kind == "image"
        name = f"{self._layout.media}/{sample.key}.{'jpg' if image else 'mp4'}"
        control = f"{self._layout.control}/{sample.key}.{'png' if image else 'mp4'}" if self._draws else None
        if control is not None and not (self._output / control).is_file():
            write_bytes(self._output / control, self._drawn(shard, sample, media))
        if not (self._output / name).is_file():
            write_bytes(self._output / name, sample.members["jpg" if image else "mp4"])
        caption = one_line(sample.caption)
        if self._layout.captions:
            write_bytes((self._output / name).with_suffix(".txt"), f"{caption}\n".encode())
        if self._coco is not None:
            self._coco.add(sample, name.removeprefix("data/"), media)
        self._listed.append(_exported(sample.key, name, control, caption, media))
        self._exported += 1

    @property
    def _draws(self) -> bool:
        return self._layout.needs != "none" and (self._kind == "image" or self._poses is not None)

    def _drawn(self, shard: int, sample: PoseSample, media: Media) -> bytes:
        if self._kind == "image":
            return draw_image(sample, self._settings)
        assert self._poses is not None
        return draw_clip(self._poses.tracks(shard, sample.key), media, self._settings)

    # --- tars --------------------------------------------------------------------------------------------------------

    def _add_to_tar(self, shard: int, sample: PoseSample, media: Media) -> None:
        members = dict(sample.members)
        if self._draws:
            members[f"pose.{'png' if self._kind == 'image' else 'mp4'}"] = self._drawn(shard, sample, media)
        name = f"shards/{shard_name(shard)}.tar"
        if self._tar is None or self._tar_name != name:
            self._tar_name, self._tar = name, self._files.enter_context(self._next_tar(self._output / name))
        for member in sorted(members):
            info = tarfile.TarInfo(f"{sample.key}.{member}")
            info.size, info.mode = len(members[member]), 0o444
            self._tar.addfile(info, io.BytesIO(members[member]))
        self._exported += 1

    @contextlib.contextmanager
    def _next_tar(self, path: Path) -> Iterator[tarfile.TarFile]:
        """The tar before it is finished, and takes its name."""
        self._files.close()
        with replacing(path) as partial, tarfile.open(partial, "x", format=tarfile.USTAR_FORMAT) as tar:
            yield tar

    # --- lists -------------------------------------------------------------------------------------------------------

    def _write_lists(self, is_tar: bool) -> None:
        for name, text in self._layout.lists(self._listed, self._kind).items():
            write_bytes(self._output / name, text.encode())
        if self._coco is not None:
            write_json(self._output / "labels.json", self._coco.as_json())
        target = str(self._settings.to)
        text = card_text(
            self._dataset.card,
            kept_licences(self._dataset),
            target,
            self._layout.how,
            self._exported,
            self._skipped,
            tars="shards/*.tar" if is_tar else None,
        )
        write_bytes(self._output / "README.md", text.encode())


def _exported(key: str, media_path: str, control: str | None, caption: str, media: Media) -> Exported:
    return Exported(key, media_path, control, caption, media.width, media.height, media.num_frames, media.fps)


def one_line(caption: str) -> str:
    """Trainers read the first line of a caption's file."""
    return " ".join(caption.split())
