"""Which models have their weights on this machine, and what to do about those that have not. Free of torch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lposekit.errors import UsageError
from lposekit.pose.download import download, unreachable
from lposekit.pose.weights import (
    WeightsError,
    checked_sha256,
    curl_line,
    expected,
    find_weights,
    how_checked,
    searched,
)
from lposekit.pose.zoo import DETECTORS, POSE_MODELS, DetectorEntry, PoseEntry, WeightsFile

State = Literal["here", "missing", "damaged"]


@dataclass(frozen=True, slots=True)
class ModelState:
    """A model of the zoo. `path`: of its weights; `checked_by`: see `how_checked`; `problem`: why they are damaged."""

    entry: DetectorEntry | PoseEntry
    state: State
    path: Path | None = None
    checked_by: str | None = None
    problem: str | None = None

    @property
    def kind(self) -> Literal["detector", "pose model"]:
        return "detector" if isinstance(self.entry, DetectorEntry) else "pose model"


def model_states(weights_dir: Path | None = None) -> Iterator[ModelState]:
    """Every model of the zoo, its weights read and checked."""
    for entry in (*DETECTORS.values(), *POSE_MODELS.values()):
        yield model_state(entry, weights_dir)


def model_state(entry: DetectorEntry | PoseEntry, weights_dir: Path | None = None) -> ModelState:
    """One model, its weights read and checked."""
    path = None
    try:
        path = find_weights(entry.weights, weights_dir)
        if path is None:
            return ModelState(entry, "missing")
        return ModelState(entry, "here", path, how_checked(entry.weights, checked_sha256(path, entry.weights)))
    except WeightsError as error:
        return ModelState(entry, "damaged", path, problem=str(error))


def require_weights(
    wanted: Iterable[WeightsFile], weights_dir: Path | None = None, *, may_download: bool = True
) -> None:
    """Make sure that all these weights are at hand and the right ones; what a publisher serves is downloaded, or, where
    `may_download` is false, taken for had.

    Raises:
        UsageError: some are not; one message names all of them, and the ways on.
    """
    problems: list[str] = []
    missing: list[WeightsFile] = []
    for weights in dict.fromkeys(wanted):
        try:
            path = find_weights(weights, weights_dir)
            if path is None:
                missing.append(weights)
            else:
                checked_sha256(path, weights)
        except WeightsError as error:
            problems.append(str(error))
    published = [weights for weights in missing if weights.url is not None]
    lacking = [weights for weights in missing if weights.url is None]
    why = "nobody serves them for download"
    if published and may_download:
        offline = unreachable(published[0].url or "")
        if offline is not None:
            why, lacking = f"{published[0].url} cannot be reached ({offline})", missing
        elif not problems and not lacking:
            problems += _downloaded(published, weights_dir)
    if lacking:
        problems.append(_missing(lacking, why, weights_dir))
    if problems:
        raise UsageError("\n".join(problems))


def _downloaded(published: Iterable[WeightsFile], weights_dir: Path | None) -> Iterator[str]:
    """Download; gives what went wrong."""
    for weights in published:
        try:
            download(weights, weights_dir)
        except WeightsError as error:
            yield str(error)


def _missing(missing: list[WeightsFile], why: str, weights_dir: Path | None) -> str:
    names = {entry.weights: name for name, entry in (*DETECTORS.items(), *POSE_MODELS.items())}
    lines = [f"the weights of {len(missing)} models are missing, and {why}:"]
    lines += [
        f"  {names.get(each, 'model')}: {each.file} (sha256 {expected(each)}){_unserved(each)}" for each in missing
    ]
    lines.append(
        f"Searched: {searched(weights_dir)}. Put them there, or name a folder (--weights-dir, LPOSEKIT_WEIGHTS)."
    )
    if commands := [curl_line(each) for each in missing if each.url]:
        lines += ["Where there is a network:", *(f"  {command}" for command in commands)]
    pair = pair_at_hand(weights_dir)
    if pair is not None:
        lines.append(f"The weights of these two are here: --detector {pair[0]} --pose-model {pair[1]}")
    return "\n".join(lines)


def _unserved(weights: WeightsFile) -> str:
    return "" if weights.url else "; not published"


def pair_at_hand(weights_dir: Path | None = None) -> tuple[str, str] | None:
    """A detector and a pose model whose weights are here and the right ones; None if there is no such pair."""
    detector = next((name for name, entry in DETECTORS.items() if _is_here(entry, weights_dir)), None)
    pose_model = next((name for name, entry in POSE_MODELS.items() if _is_here(entry, weights_dir)), None)
    return None if detector is None or pose_model is None else (detector, pose_model)


def _is_here(entry: DetectorEntry | PoseEntry, weights_dir: Path | None) -> bool:
    return model_state(entry, weights_dir).state == "here"
