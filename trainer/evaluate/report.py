"""What `lposekit evaluate` returns, for people and machines."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from lposekit.json_values import JsonObject
from lposekit.words import counted
from trainer.evaluate.figures import FIGURES
from trainer.evaluate.meters.meter import number_at

PAGE_NAME = "report.html"


@dataclass(frozen=True, slots=True)
class EvaluateReport:
    """The end of an evaluation. evaluation: what `evaluation.json` says."""

    output: Path
    evaluation: JsonObject
    exit_code: int = 0

    def as_json(self) -> dict[str, object]:
        return {"output": str(self.output), "page": str(self.output / PAGE_NAME), **self.evaluation}

    def summary_lines(self) -> list[str]:
        protocol, scores = self.evaluation["protocol"], self.evaluation["scores"]
        pairs, frames = (int(number_at(protocol, name) or 0) for name in ("pairs", "num_frames"))
        lines = [f"{self.evaluation['system']}: {counted(pairs, 'pair')}, {counted(frames, 'frame')} each"]
        for figure in FIGURES:
            shown, real = figure.shown(scores), figure.shown(scores, real=True)
            if shown is not None:
                lines.append(f"{figure.name}: {shown}" + ("" if real is None else f" (real frames: {real})"))
        left_out = self.evaluation["left_out"]
        assert isinstance(left_out, dict)
        lines += [f"left out: {name}: {why}" for name, why in left_out.items()]
        return [*lines, f"{self.output / PAGE_NAME}"]


@dataclass(frozen=True, slots=True)
class EvaluatePlan:
    """What an evaluation would do. meters: their names."""

    system: str
    pairs: int
    frames: int
    meters: tuple[str, ...]
    left_out: JsonObject
    exit_code: int = 0

    def as_json(self) -> dict[str, object]:
        return {**asdict(self), "dry_run": True}

    def summary_lines(self) -> list[str]:
        what = f"{counted(self.pairs, 'pair')} of {counted(self.frames, 'frame')}"
        lines = [f"would judge {what}: {self.system}", f"would measure: {', '.join(self.meters)}"]
        return [*lines, *(f"left out: {name}: {why}" for name, why in self.left_out.items())]
