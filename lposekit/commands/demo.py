"""`lposekit demo`: a local page that draws clips with a trained run."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lposekit.commands.flags import load
from lposekit.commands.output import finish
from lposekit.commands.registry import COMMANDS
from lposekit.errors import LposekitError, Outcome
from lposekit.words import counted
from trainer.demo.settings import DemoSettings
from trainer.run.places import require_weights_folder

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from lposekit.json_values import JsonValue
    from lposekit.pose.protocol import Estimator
    from lposekit.records import Person, PoseFailure
    from lposekit.stage_times import StageTimes
    from pipelines.video.poses.report import VideoOutcome
    from pipelines.video.poses.settings import PosesSettings
    from trainer.demo.jobs import FoundPoses


def run(argv: Sequence[str]) -> int:
    loaded = load(COMMANDS["demo"], DemoSettings, argv)
    settings = loaded.settings
    assert settings.run is not None
    require_weights_folder(settings.run)  # before torch is loaded, which takes seconds
    from lposekit.commands.pose import quiet_models
    from pipelines.video.inputs import VIDEO_SUFFIXES
    from pipelines.video.poses.settings import PosesSettings
    from trainer.demo import serve

    quiet_models()
    finder = PoseFinder(load(COMMANDS["pose"], PosesSettings, []).settings, settings.max_video_frames)
    report = serve.run(settings, find_poses=finder, extensions=tuple(sorted(VIDEO_SUFFIXES)))
    return finish(report, as_json=loaded.json)


@dataclass(slots=True)
class PoseFinder:
    """Finds the poses of uploaded videos as `lposekit pose` does, with its settings; the models stay loaded."""

    settings: PosesSettings
    max_frames: int
    models: Estimator | None = None

    def __call__(self, video: Path, folder: Path, style: str, on_frames: Callable[[int], None]) -> FoundPoses:
        """See `trainer.demo.jobs.FindPoses`."""
        from pipelines.video.poses.run import estimate_poses, load_models
        from trainer.demo.jobs import FoundPoses

        self.models = self.models or load_models(self.settings)
        settings = dataclasses.replace(
            self.settings,
            input=(str(video),),
            output=folder,
            skeleton_video=True,
            style=(style,),
            limits=dataclasses.replace(self.settings.limits, max_frames=self.max_frames),
        )
        [outcome] = estimate_poses(settings, estimator=Watched(self.models, on_frames)).videos
        if outcome.poses is None or outcome.outcome is Outcome.NO_PERSON:
            raise LposekitError(self._explained(outcome))
        persons = outcome.figures.persons if outcome.figures else 0
        said = f"{counted(persons, 'person')} in {counted(outcome.num_frames, 'frame')}"
        return FoundPoses(outcome.poses, outcome.skeletons[0], outcome.num_frames, said)

    def _explained(self, outcome: VideoOutcome) -> str:
        """Why there are no poses, for the person who uploaded the video."""
        if outcome.outcome is Outcome.NO_PERSON:
            return (
                "Nobody was found in the video. Take one that shows a person from head to foot, as large and as sharp "
                "as possible; a video of drawn skeletons shows none."
            )
        if outcome.outcome is Outcome.TOO_BIG:
            return f"The video is too long: at most {self.max_frames} frames are taken. Cut it shorter."
        return f"The video cannot be used: {outcome.detail or outcome.outcome.facts.text}. Take another one."


@dataclass(slots=True)
class Watched:
    """The models, telling how many frames they have seen."""

    models: Estimator
    on_frames: Callable[[int], None]
    frames: int = 0

    @property
    def keypoint_format(self) -> str:
        return self.models.keypoint_format

    @property
    def keypoint_score_threshold(self) -> float:
        return self.models.keypoint_score_threshold

    def estimate(
        self, images_rgb: Sequence[npt.NDArray[np.uint8]], times: StageTimes | None = None
    ) -> list[list[Person] | PoseFailure]:
        found = self.models.estimate(images_rgb, times)
        self.frames += len(images_rgb)
        self.on_frames(self.frames)
        return found

    def card(self) -> dict[str, JsonValue]:
        return self.models.card()
