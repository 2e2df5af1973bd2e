"""Evaluate: take the pairs, draw their clips with a run or a baseline, judge each, sum up, write the page.

    output/protocol.jsonl            the pairs, unless --protocol names another place
    output/samples/KEY/000000.png    what was drawn
    output/scores/METER/KEY.json     what a meter found in a clip
    output/evaluation.json           the figures; no time or place is in it, so that equal evaluations are equal bytes
    output/report.html               the page

Each file appears whole or not at all: the same command goes on where it was stopped, and a meter that is named later
judges what is drawn already.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from lposekit import __version__
from lposekit.errors import UsageError
from lposekit.json_values import JsonObject
from lposekit.setting_values import check_values
from lposekit.shards.files import write_bytes, write_json
from trainer.evaluate.baseline import Baseline, read_baseline
from trainer.evaluate.claims import MAX_BYTES, claim, read_object
from trainer.evaluate.draw import MADE_FROM, draw_pairs, sample_settings
from trainer.evaluate.meters.choose import HELD, choose_meters
from trainer.evaluate.meters.meter import Judged, Meter
from trainer.evaluate.page import show_pair, shown_pairs, write_evaluation_page
from trainer.evaluate.pairs import make_pairs
from trainer.evaluate.progress import progress
from trainer.evaluate.protocol import NAME, Pair, Protocol, decode_protocol, encode_protocol, read_protocol
from trainer.evaluate.real import RealFrames
from trainer.evaluate.report import PAGE_NAME, EvaluatePlan, EvaluateReport
from trainer.evaluate.results import Results
from trainer.evaluate.settings import NEEDED_TO_EVALUATE, EvaluateSettings
from trainer.run.folder import own_folder
from trainer.run.sampler import read_facts

log = logging.getLogger(__name__)

SAMPLES, SCORES, EVALUATION = "samples", "scores", "evaluation.json"
SCHEMA = 1
MAX_SCORE_BYTES = 2**28


def run(settings: EvaluateSettings, *, dry_run: bool = False) -> EvaluateReport | EvaluatePlan:
    """Evaluate a run, a baseline, or the results of another system; with `dry_run`, only check all, and write nothing.

    Raises:
        UsageError: settings, weights and datasets do not fit one another, or are not there.
        LposekitError: a file is damaged, or cannot be written.
    """
    check_values(settings, required=NEEDED_TO_EVALUATE)
    assert settings.output is not None
    if dry_run:
        return plan(settings)
    baseline = read_baseline(settings)
    with own_folder(settings.output):
        protocol = take_protocol(settings)
        real = real_frames(settings, protocol)
        results = Results(settings.frames or settings.output / SAMPLES)
        if settings.frames is not None:
            results.refuse_missing(protocol)
        meters, left_out = choose_meters(settings, protocol, has_real=real is not None)
        if settings.frames is None:
            draw(settings, protocol, baseline)
        found = {meter.name: judge(settings, meter, protocol, results, real) for meter in meters}
        evaluation = summed_up(settings, baseline, protocol, meters, found, left_out)
        write_json(settings.output / EVALUATION, evaluation)
        shown = []
        for place in shown_pairs(protocol):
            of_pair = {name: listed[place] for name, listed in found.items()}
            shown.append(show_pair(judged(protocol.pairs[place], results, real), of_pair, settings.fps))
        write_evaluation_page(settings.output / PAGE_NAME, evaluation, protocol, shown)
    return EvaluateReport(settings.output, evaluation)


def plan(settings: EvaluateSettings) -> EvaluatePlan:
    """What would be done; all weights are loaded but the run's, so that what is missing is found. Raises as `run`."""
    baseline = read_baseline(settings)
    data = made_protocol(settings)
    protocol = (
        read_protocol(protocol_path(settings)) if data is None else decode_protocol(data, protocol_path(settings))
    )
    real = real_frames(settings, protocol)
    if settings.frames is not None:
        Results(settings.frames).refuse_missing(protocol)
        system = f"the results in {settings.frames}"
    elif baseline is not None:
        system = baseline.title
    else:
        system = read_facts(sample_settings(settings)).name
    meters, left_out = choose_meters(settings, protocol, has_real=real is not None)
    names = tuple(meter.name for meter in meters)
    return EvaluatePlan(system, len(protocol.pairs), protocol.num_frames, names, left_out)


def take_protocol(settings: EvaluateSettings) -> Protocol:
    """The pairs of the protocol file; made from the dataset first, if it is not there."""
    path, data = protocol_path(settings), made_protocol(settings)
    if data is not None:
        write_bytes(path, data)
        log.info("pairs of %s in %s", settings.data, path)
    return read_protocol(path)


def protocol_path(settings: EvaluateSettings) -> Path:
    assert settings.output is not None
    return settings.protocol or settings.output / NAME


def made_protocol(settings: EvaluateSettings) -> bytes | None:
    """A protocol of the dataset; None where there is one already."""
    path = protocol_path(settings)
    if path.exists():
        return None
    if settings.data is None:
        raise UsageError(f"--protocol {path}: there is no such file. Name --data DATASET, and it is made.")
    return encode_protocol(*make_pairs(settings.data, settings))


def real_frames(settings: EvaluateSettings, protocol: Protocol) -> RealFrames | None:
    """The real frames of the pairs, if there are any: `--real`, or the dataset of images that the pairs came from."""
    if protocol.held:
        if settings.real is not None:
            raise UsageError(f"--real {settings.real}: the poses are {HELD}. Leave it out, or take poses of clips.")
        return None
    folder = settings.real or (settings.data if protocol.facts.get("kind") == "image" else None)
    if folder is None:
        return None
    real = RealFrames(folder)
    real.refuse_missing(protocol)
    return real


def draw(settings: EvaluateSettings, protocol: Protocol, baseline: Baseline | None) -> None:
    """The clips of all pairs."""
    assert settings.output is not None
    with progress(len(protocol.pairs), "drawn") as advance:
        for _ in draw_pairs(settings, protocol, settings.output / SAMPLES, baseline):
            advance()


def judge(
    settings: EvaluateSettings, meter: Meter, protocol: Protocol, results: Results, real: RealFrames | None
) -> list[JsonObject]:
    """What a meter finds in every clip, as its files say it: those that are there already are not made again."""
    assert settings.output is not None
    folder = settings.output / SCORES / meter.name
    made_from = {"lposekit": __version__, "protocol_sha256": protocol.sha256, **meter.identity()}
    claim(folder / MADE_FROM, made_from, "clips were judged")
    with progress(len(protocol.pairs), f"judged: {meter.name}") as advance:
        for pair in protocol.pairs:
            path = folder / f"{pair.key}.json"
            state = {"result": results.state(pair.key), "real": None if real is None else real.state(pair.key)}
            if not path.exists() or read_object(path, MAX_SCORE_BYTES).get("of") != state:
                write_json(path, {"of": state, "found": meter.measure(judged(pair, results, real))})
            advance()
    return [found_in(folder / f"{pair.key}.json") for pair in protocol.pairs]


def judged(pair: Pair, results: Results, real: RealFrames | None) -> Judged:
    """A clip with its real frames, which are fitted to its size."""
    drawn_FHWC = results.frames(pair)
    return Judged(pair, drawn_FHWC, None if real is None else real.frames(pair, *drawn_FHWC.shape[1:3]))


def found_in(path: Path) -> JsonObject:
    return read_object(path, MAX_SCORE_BYTES)["found"]  # pyright: ignore


def summed_up(
    settings: EvaluateSettings,
    baseline: Baseline | None,
    protocol: Protocol,
    meters: Sequence[Meter],
    found: dict[str, list[JsonObject]],
    left_out: JsonObject,
) -> JsonObject:
    """`evaluation.json`."""
    assert settings.output is not None
    kind = baseline.kind if baseline is not None else "run" if settings.run is not None else "frames"
    made_from = settings.output / SAMPLES / MADE_FROM
    return {
        "schema": SCHEMA,
        "system": settings.name or system_name(settings, baseline),
        "kind": kind,
        "protocol": {**protocol.facts, "sha256": protocol.sha256},
        "drawn_with": read_object(made_from, MAX_BYTES) if settings.frames is None else None,
        "scores": {meter.name: meter.summarise(protocol.pairs, found[meter.name]) for meter in meters},
        "judged_with": {meter.name: meter.identity() for meter in meters},
        "left_out": left_out,
    }


def system_name(settings: EvaluateSettings, baseline: Baseline | None) -> str:
    """What a system without a `--name` is called."""
    if baseline is not None:
        return baseline.title
    folder = settings.run or settings.frames
    assert folder is not None
    return folder.resolve().name
