"""Settings of `lposekit evaluate`. Values only: how they are found is `lposekit.settings`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Ge, Interval

from lposekit.setting_values import Fraction, Positive
from lposekit.skeleton_styles import StyleName
from trainer.inference.settings import SampleComputeSettings
from trainer.settings import Side

Definitions = Literal["usual", "disco"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DrawingSettings:
    """How the pairs are drawn: as in `lposekit sample`."""

    steps: Positive = 50
    """Denoising steps."""
    guidance: Annotated[float, Ge(0)] | None = None
    """Scale of the classifier-free guidance; 1 or less: none. Default: 12.5 of a run, 7.5 of other systems."""
    scheduler: str = "ddim"
    """Name of the scheduler."""
    eta: Fraction = 0.0
    """Noise that DDIM adds at each step: 0 none, 1 as much as DDPM."""
    height: Side | None = None
    """Height in pixels, a multiple of 64; default: the size of training, or the base's."""
    width: Side | None = None
    """Width in pixels, a multiple of 64; default: the size of training, or the base's."""
    step: Positive | None = None
    """Step of the run whose checkpoint is used; default: the newest intact one."""
    safety_checker: bool = True
    """Turn frames black that the safety checker of the base objects to, if the base has one; they are counted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BaselineSettings:
    """How `--controlnet` and `--t2i-adapter` draw: each frame by itself."""

    style: StyleName | None = None
    """Style of the skeletons; default: the one that an exported run states, else `openpose18`."""
    scale: Annotated[float, Ge(0)] = 1.0
    """Weight of what the skeleton adds to the UNet."""
    same_noise: bool = False
    """Begin all frames of a clip with the same noise; by default each has its own, the same that a run gets."""
    batch_size: Positive = 8
    """Frames drawn at a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PoseScoreSettings:
    """How the persons of the frames are found."""

    box_score_threshold: Fraction | None = None
    """Box score from which a person counts; default: that of the detector (docs/guide/models.md)."""
    min_box_area_fraction: Fraction = 0.003
    """Minimum area of a person's box, as a fraction of the frame."""
    batch_size: Positive = 16
    """Frames per batch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluateSettings:
    """Settings of `lposekit evaluate`."""

    run: Path | None = None
    """A run folder of `lposekit train`, or a folder to which the pipeline was saved: it draws what is judged."""
    controlnet: str | None = None
    """Instead of a run: a ControlNet for poses, a folder or a hub id, which draws over `--base`."""
    t2i_adapter: str | None = None
    """Instead of a run: a T2I-Adapter for poses, a folder (an exported run as well) or a hub id, over `--base`."""
    frames: Path | None = None
    """Instead of a run: the folder of another system's results, one per pair, named by its key: KEY.mp4, KEY.gif,
    KEY.png, or a folder KEY of images."""
    output: Path | None = None
    """The folder for what is drawn, the scores, `evaluation.json` and `report.html`."""
    data: Path | None = None
    """The dataset from which pairs are taken: images with poses, or the poses of clips (`lposekit pose`)."""
    protocol: Path | None = None
    """File with the pairs; read if it is there, else written. Default: `protocol.jsonl` in the output folder."""
    real: Path | None = None
    """The dataset with the real frames, under the same keys; default: that of the pairs, if it holds images."""
    clip: str | None = None
    """The CLIP model of CLIP score and frame consistency: a folder, or a hub id. Default: these are left out."""
    pose_model: str = "hrnet-w48"
    """Pose model of the pose accuracy (docs/guide/models.md); `none` leaves it out."""
    detector: str = "rtmdet-m"
    """Person detector of the pose accuracy."""
    weights_dir: Path | None = None
    """First folder to search for the weights of both; then LPOSEKIT_WEIGHTS, the cache, the publisher."""
    lpips: Path | None = None
    """Folder with the weights of LPIPS: VGG-16 and its linear layers. Default: LPIPS is left out."""
    fid: Path | None = None
    """TorchScript file of the Inception network of FID. Default: FID is left out."""
    fvd: Path | None = None
    """TorchScript file of the I3D network of FVD. Default: FVD is left out."""
    definitions: Definitions = "usual"
    """How differences from real frames are defined: `usual`, or as DisCo's evaluation script has it (`disco`)."""
    name: str | None = None
    """What the system is called in the report; default: the name of its folder; of a baseline,
    `ControlNet (NAME)` or `T2I-Adapter (NAME)`."""
    pairs: Positive = 1024
    """Pairs of a prompt and a pose that are taken from the dataset; one with fewer that fit gives all of them."""
    seed: Annotated[int, Interval(ge=0, lt=2**32)] = 33
    """Determines which samples are taken, and the noise of each pair."""
    num_frames: Positive | None = None
    """Frames of a clip; default: 24 of the poses of clips, 1 of images, whose pose is held if there are more."""
    stride: Positive = 5
    """Distance between two frames of the pose, at most; a shorter pose takes the largest that fits."""
    person: Literal["all", "largest", "longest"] = "all"
    """Whose poses: `all`, `largest` (covers most over the clip), or `longest` (in most frames)."""
    base: str | None = None
    """The base model: of `--controlnet` and `--t2i-adapter`, or of a run, if it is not where the run found it."""
    fps: Annotated[float, Interval(ge=0.1, le=240)] = 8.0
    """Frames per second at which the page plays what was drawn."""
    drawing: DrawingSettings = field(default_factory=DrawingSettings)
    baseline: BaselineSettings = field(default_factory=BaselineSettings)
    pose: PoseScoreSettings = field(default_factory=PoseScoreSettings)
    compute: SampleComputeSettings = field(default_factory=SampleComputeSettings)

    def problems(self) -> Iterable[tuple[str, str]]:
        named = [getattr(self, name) is not None for name in SYSTEMS]
        if sum(named) != 1:
            yield "run", "name what is judged: --run, --controlnet, --t2i-adapter or --frames (one of them)."
        if self.controlnet is not None or self.t2i_adapter is not None:
            yield from self._baseline_problems()
        else:
            usual = BaselineSettings()
            for name in (
                one.name for one in fields(usual) if getattr(self.baseline, one.name) != getattr(usual, one.name)
            ):
                yield f"baseline.{name}", "is for --controlnet and --t2i-adapter, and neither is named. Leave it out."
        if self.data is None and self.protocol is None:
            yield "data", "name the dataset of the pairs, or a --protocol FILE that holds them."

    def _baseline_problems(self) -> Iterable[tuple[str, str]]:
        if self.base is None:
            yield "base", "name the Stable Diffusion model that the weights were trained over: a folder, or a hub id."
        if self.drawing.step is not None:
            yield "drawing.step", "is for a run, and none is named. Leave it out."


SYSTEMS = ("run", "controlnet", "t2i_adapter", "frames")
"""Settings that name what is judged."""
NEEDED_TO_EVALUATE = {"output": "name the folder for the results."}
