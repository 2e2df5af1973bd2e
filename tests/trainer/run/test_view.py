"""Contract of `lposekit view RUN`: one file that needs no network, with the curves, the panel and the images of
the run; a public one shows no image, prompt or path; a folder that is no run, or has logged nothing, is refused
with words."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from lposekit.errors import LposekitError
from lposekit.report.curves import Curve, chart, nice_ticks, smooth, thin_out, tick_labels
from tests.support.train_runs import settings_for
from trainer.run.view import write_report
from trainer.settings import WatchSettings
from trainer.train import run


def test_the_page_of_a_run_shows_its_curves_and_images_and_asks_nothing_of_a_network(tmp_path: Path):
    watch = WatchSettings(probe_every=2, probe_samples=2, sample_every=4, sample_steps=1, sample_count=1, mfu=False)
    run(settings_for(1, tmp_path / "run", max_steps=4, watch=watch))
    page = write_report(tmp_path / "run").read_text()
    for words in ("Training loss", "Is the pose learned?", "Throughput", "Validation images", "step 4"):
        assert words in page
    assert page.count("data:image/jpeg;base64,") == 2
    assert not re.search(r"""(src|href)=["'](?!data:|#)""", page)
    assert "<script" not in page
    beside = write_report(tmp_path / "run", public=True)
    assert beside.name == "public.html"
    assert (tmp_path / "run" / "report.html").read_text() == page
    public = beside.read_text()
    assert "data:image/jpeg" not in public
    assert str(tmp_path) not in public


def _page_of(folder: Path, **values: float) -> str:
    line = {"step": 1, "loss": 1.0, "grad_norm": 1.0, "lr": 1.0, "epoch": 0}
    rates = {"steps_per_s": 1.0, "samples_per_s": 1.0, "mfu": 0.1, "data_wait": 0.0, "peak_memory_gib": 1.0}
    (folder / "metrics.jsonl").write_text(json.dumps({**line, **rates, **values}) + "\n")
    (folder / "run.json").write_text('{"stage": 1}')
    return write_report(folder).read_text()


def test_mfu_has_a_tile_and_a_curve_only_where_it_was_measured(tmp_path: Path):
    # Mutations: the tile without its `if`; the curve without its.
    measured, unknown = _page_of(tmp_path), _page_of(tmp_path, mfu=0.0)
    assert "10%" in measured
    assert measured.count("MFU") > 1
    assert "<dt>MFU</dt>" not in unknown
    assert "(MFU was not measured.)" in unknown
    assert unknown.count("MFU") == 1


def test_an_axis_tells_where_it_starts_and_ticks_can_be_told_apart():
    # Mutations: no note; four digits always: "0.1234" three times; no zero line; no `least_span`.
    narrow = chart("a", [Curve("loss", [1, 2], [0.12340, 0.12345])])
    assert "The axis starts at 0.1234, not at 0." in narrow
    labels = tick_labels(nice_ticks(0.12340, 0.12345))
    assert len(set(labels)) == len(labels)
    assert "not at 0" not in chart("a", [Curve("lr", [1, 2], [0.5, 0.6])], from_zero=True)
    crossing = chart("a", [Curve("gain", [1, 2], [-0.01, 0.02])], from_zero=True)
    assert 'class="zero"' in crossing
    assert 'class="zero"' not in narrow
    noise = chart("a", [Curve("gain", [1, 2], [1e-7, 2e-7])], from_zero=True, least_span=0.01)
    assert "1e-7" not in noise


def test_names_from_outside_are_escaped(tmp_path: Path):
    folder = tmp_path / "<b>run"
    folder.mkdir()
    line = {"step": 1, "loss": 1.0, "grad_norm": 1.0, "lr": 1.0, "epoch": 0}
    rates = {"steps_per_s": 1.0, "samples_per_s": 1.0, "mfu": 0.1, "data_wait": 0.0, "peak_memory_gib": 1.0}
    (folder / "metrics.jsonl").write_text(json.dumps({**line, **rates}) + "\n")
    (folder / "run.json").write_text('{"stage": 1}')
    assert "<b>run" not in write_report(folder).read_text()


def test_the_mean_throughput_is_samples_over_time(tmp_path: Path):
    # Mutation tried: the mean of the lines' rates, 5.5.
    rest = {"loss": 1.0, "grad_norm": 1.0, "lr": 1.0, "epoch": 0, "mfu": 0.1, "data_wait": 0.0, "peak_memory_gib": 1.0}
    lines = [
        {"step": 10, "steps_per_s": 10.0, "samples_per_s": 10.0},
        {"step": 20, "steps_per_s": 1.0, "samples_per_s": 1.0},
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps({**line, **rest}) + "\n" for line in lines))
    (tmp_path / "run.json").write_text('{"stage": 1}')
    page = re.sub(r"(<[^>]+>|\s)+", " ", write_report(tmp_path).read_text())
    assert "samples per second 1.82" in page  # 20 samples in 11 s


def test_a_folder_without_steps_is_refused(tmp_path: Path):
    with pytest.raises(LposekitError, match="no step is logged"):
        write_report(tmp_path)


def test_a_page_of_a_long_run_stays_small():
    curve = Curve("loss", list(range(1, 100_001)), [1.0] * 100_000)
    assert len(thin_out(curve).steps) == 400
    assert thin_out(curve).steps[-1] == 100_000
    assert len(str(chart("loss", [curve]))) < 20_000


def test_a_value_that_is_not_finite_does_not_break_a_chart():
    assert "nan" not in str(chart("loss", [Curve("loss", [1, 2, 3], [1.0, float("nan"), 2.0])])).lower()


def test_ticks_are_round_and_span_the_values():
    for low, high in ((0.31, 0.85), (0.0, 1e-3), (0.5, 0.5), (-0.01, 0.07), (0.0, 0.0), (3, 4e6)):
        ticks = nice_ticks(low, high)
        assert ticks[0] <= low + 1e-9
        assert ticks[-1] >= high - 1e-9
        assert 2 <= len(ticks) <= 6


def test_smoothing_is_a_running_mean():
    assert smooth([1.0, 3.0, 5.0, 7.0], share=0.5) == [1.0, 2.0, 4.0, 6.0]
