"""What `lposekit sample` returns, for people and machines."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from lposekit.words import counted
from trainer.inference.seams import Seams
from trainer.run.sampler import WeightsFacts


@dataclass(frozen=True, slots=True)
class Sampled:
    """What became of one prompt. flagged: frames that the safety checker turned black. unchanged: it was there
    already, made just so."""

    prompt: str
    output: Path
    flagged: list[int]
    seams: Seams | None
    seconds: float
    unchanged: bool = False

    def as_json(self) -> dict[str, object]:
        seams = None if self.seams is None else {**asdict(self.seams), "ratio": self.seams.ratio}
        return {**asdict(self), "output": str(self.output), "seams": seams, "seconds": round(self.seconds, 3)}


@dataclass(frozen=True, slots=True)
class SampleReport:
    """The end of a run, or with `dry_run` what it would do. passes: UNet passes for one prompt."""

    weights: WeightsFacts
    frames: int
    height: int
    width: int
    pose: str | None
    windows: int
    passes: int
    outputs: list[Path]
    sampled: list[Sampled]
    dry_run: bool
    exit_code: int = 0

    def as_json(self) -> dict[str, object]:
        return {
            "weights": self.weights.name,
            "stage": self.weights.stage,
            "frames": self.frames,
            "height": self.height,
            "width": self.width,
            "pose": self.pose,
            "windows": self.windows,
            "unet_passes_per_prompt": self.passes,
            "outputs": [str(path) for path in self.outputs],
            "sampled": [sampled.as_json() for sampled in self.sampled],
            "dry_run": self.dry_run,
        }

    def summary_lines(self) -> list[str]:
        noun = "frames" if self.weights.stage == 2 else "images"
        what = f"{self.frames} {noun} of {self.width} x {self.height} with {self.weights.name}"
        if self.dry_run:
            windows = f"{self.windows} windows at a step, " if self.windows > 1 else ""
            return [
                f"would draw {what}, pose: {self.pose or 'none'}",
                f"{windows}{self.passes} passes of the UNet for each of {len(self.outputs)} prompts",
                *(f"would write {path}" for path in self.outputs),
            ]
        lines = [f"drew {what}"]
        for sampled in self.sampled:
            how = "was there already" if sampled.unchanged else f"{sampled.seconds:.1f} s"
            lines.append(f"{sampled.output}: {how}, {sampled.prompt}")
            if sampled.seams is not None:
                lines.append(sampled.seams.line())
            if sampled.flagged:
                lines.append(f"the safety checker turned {counted(len(sampled.flagged), 'frame')} black")
        return lines
