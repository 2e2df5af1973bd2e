"""Contract: card and commit marker come back from disk as they were written, byte for byte, with the keys of newer
versions; damage is refused with file, key and advice."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from lposekit.errors import LposekitError, UsageError
from lposekit.shards.card import (
    CHECKED_BY,
    DatasetCard,
    bind_models,
    card_backend,
    common_models,
    read_card,
    update_card,
    write_card,
)
from lposekit.shards.keep_rule import keep_rule_of
from lposekit.shards.layout import DatasetLayout
from lposekit.shards.stats import write_stats
from tests.support.dataset_folder import RULE, make_dataset

Json = dict[str, object]
NEWER: Json = {"a_key_of_tomorrow": {"list": [1, 2.5, None, "é"]}, "another": None}
CARD_OF_0_1: Json = {
    "schema": 1,
    "kind": "video",
    "lposekit": "0.1.0",
    "versions": {"lposekit": "0.1.0", "python": "3.11.9"},
    "settings": {"clip.frames": 8, "input": ["a.csv"], "fetch.threads": None, "motion": 0.5},
    "settings_digest": "0" * 64,
    "fixed": {"settings": {"clip.frames": 8}, "versions": {"av": "15.0"}, "input": "9" * 64},
    "warnings": [],
    "sample": False,
    "totals": {
        "shards": 1,
        "rows": 3,
        "samples": 2,
        "outcomes": {"kept": 3},
        "windows": 3,
        "dropped_windows": {"black": 1},
    },
    "shards": ["00000"],
}


def _text(value: Mapping[str, object]) -> str:
    """JSON as the files of a dataset have it since version 0.1."""
    return json.dumps(value, indent=1, ensure_ascii=False, sort_keys=True) + "\n"


# Mutations tried: `extra` left out of `known_values`; `warnings` written only if there are some; NUMBER that gives
# float(value): red.
@pytest.mark.parametrize("more", [{}, NEWER], ids=["of 0.1", "of a newer version"])
def test_a_card_that_is_written_again_keeps_its_bytes(tmp_path: Path, more: Json) -> None:
    layout = DatasetLayout(tmp_path)
    layout.meta.mkdir()
    layout.card.write_text(_text({**CARD_OF_0_1, **more}), encoding="utf-8")
    write_card(layout, read_card(layout))
    assert layout.card.read_text(encoding="utf-8") == _text({**CARD_OF_0_1, **more})


@pytest.mark.parametrize("more", [{}, NEWER, {"windows": 5, "clips": 3, "dropped": {"black": 2}, "duration": 2}])
def test_a_commit_marker_that_is_written_again_keeps_its_bytes(tmp_path: Path, more: Json) -> None:
    layout = make_dataset(tmp_path / "d", 1)
    marker = layout.stats(0)
    marker.write_text(_text({**json.loads(marker.read_text()), **more}), encoding="utf-8")
    before = marker.read_bytes()
    write_stats(marker, layout.read_stats(0))
    assert marker.read_bytes() == before


def test_totals_counted_afresh_keep_what_newer_versions_stated(tmp_path: Path) -> None:
    layout = make_dataset(tmp_path / "d", 2)
    before = json.loads(layout.card.read_text())
    layout.card.write_text(json.dumps({**before, **NEWER, "totals": {**before["totals"], "rows": 0}}))
    assert update_card(layout).rows == 16
    assert json.loads(layout.card.read_text()) == {**before, **NEWER}


# Mutations tried: `fields.take` of the key without its kind -> red each.
@pytest.mark.parametrize(
    ("damage", "words"),
    [
        ({"fixed": []}, r"fixed is \[\], not an object"),
        ({"shards": "00000"}, 'shards is "00000", not a list'),
        ({"totals": {"shards": -1}}, "totals.shards is -1, not a whole number"),
        ({"totals": {"shards": 1}}, "totals.rows is missing"),
        ({"schema": 2, "fixed": []}, "schema 2 is newer.*Upgrade it"),
    ],
)
def test_a_damaged_card_is_refused_with_file_and_key(tmp_path: Path, damage: Json, words: str) -> None:
    layout = make_dataset(tmp_path / "d", 1)
    layout.card.write_text(json.dumps({**json.loads(layout.card.read_text()), **damage}))
    with pytest.raises(LposekitError, match=rf"{layout.card}: {words}"):
        read_card(layout)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        ({"count": "8"}, 'count is "8", not a whole number'),
        ({"outcomes": {"kept": 1.5}}, "outcomes is .*, not an object of which each value is a whole number"),
        ({"files": {"00000.tar": {"bytes": 3}}}, "files.00000.tar.sha256 is missing"),
        ({"files": {"../../etc/passwd": {"bytes": 3, "sha256": "0"}}}, "lies outside the dataset folder"),
    ],
)
def test_a_damaged_commit_marker_is_refused_with_file_and_key(tmp_path: Path, damage: Json, words: str) -> None:
    layout = make_dataset(tmp_path / "d", 1)
    layout.stats(0).write_text(json.dumps({**json.loads(layout.stats(0).read_text()), **damage}))
    with pytest.raises(LposekitError, match=rf"00000_stats.json: the commit marker .*{words}.*lposekit verify"):
        layout.read_stats(0)


def test_the_keep_rule_of_a_card_is_checked(tmp_path: Path) -> None:
    card = read_card(make_dataset(tmp_path / "d", 1))
    assert keep_rule_of(card)[0] == RULE
    for wrong in ({}, {"keypoint_score_threshold": "0.4"}, {"keypoint_score_threshold": 0.4, "person_rule": "best"}):
        with pytest.raises(LposekitError, match="no keep rule and keypoint format"):
            keep_rule_of(DatasetCard(keep_rule=wrong, keypoint_format="coco17"))
    with pytest.raises(LposekitError, match="no keep rule and keypoint format"):
        keep_rule_of(DatasetCard(keep_rule=card.keep_rule, keypoint_format="coco18"))


@pytest.mark.case(76)
def test_a_folder_goes_on_with_the_same_weights_whatever_told_that_they_are_right(tmp_path: Path) -> None:
    # Mutation tried: models compared whole -> red: a folder of an older version is refused.
    layout = make_dataset(tmp_path / "d", 1)
    older = {"pose_model": {"name": "stub", "sha256": "0" * 64}}
    bind_models(layout, older)
    stated = {"pose_model": {**older["pose_model"], CHECKED_BY: "sha256 prefix"}}
    bind_models(layout, stated)
    assert read_card(layout).models == stated
    with pytest.raises(UsageError, match=r"other models \(pose_model differ\)"):
        bind_models(layout, {"pose_model": {**stated["pose_model"], "sha256": "1" * 64}})


# Mutation: models compared with their CPUs -> a second machine is refused; cards without a backend taken for `None`.
def test_a_folder_goes_on_with_its_backend_in_its_version_on_any_cpu(tmp_path: Path) -> None:
    layout = make_dataset(tmp_path / "d", 1)
    older = {"pose_model": {"name": "stub"}, "versions": {"torch": "2.13.0"}}
    bind_models(layout, older)
    torch = {**older, "backend": {"name": "torch", "version": "2.13.0", "threads": 1}, "cpus": ["one"]}
    bind_models(layout, torch)
    bind_models(layout, {**torch, "cpus": ["another", "one"]})
    models = read_card(layout).models
    assert models is not None
    assert models["cpus"] == ["another", "one"]
    assert card_backend(models) == card_backend(older) == "torch"
    engine = {**torch, "backend": {"name": "openvino", "version": "2026.4.1", "threads": 1}}
    with pytest.raises(UsageError, match=r"backend torch 2.13.0 .*, and this run has openvino 2026.4.1"):
        bind_models(layout, engine)


# Mutation tried: `pixels` left out of `_deciding` -> the older folder goes on.
def test_a_folder_whose_images_were_resized_by_opencv_does_not_go_on_with_those_of_a_gpu(tmp_path: Path) -> None:
    layout = make_dataset(tmp_path / "d", 1)
    older = {"settings": {"device": "cuda"}, "backend": {"name": "torch", "version": "2.13.0", "threads": 1}}
    bind_models(layout, older)
    now = {**older, "backend": {**older["backend"], "pixels": "device"}}
    with pytest.raises(UsageError, match=r"resized on the host\), and this run has .*resized on the device\)"):
        bind_models(layout, now)
    fresh = make_dataset(tmp_path / "fresh", 1)
    bind_models(fresh, now)
    bind_models(fresh, now)


# Mutations tried: `return loaded[0]`; the kinds of CPU in the order in which the processes were placed.
def test_processes_that_loaded_other_models_are_refused_and_their_cpus_are_named_together() -> None:
    models = {"backend": {"name": "openvino", "version": "1", "threads": 1}, "cpus": ["one"]}
    assert common_models([models, {**models, "cpus": ["two"]}, models]) == {**models, "cpus": ["one", "two"]}
    assert common_models([{**models, "cpus": ["two"]}, models])["cpus"] == ["one", "two"]
    other = {**models, "backend": {"name": "openvino", "version": "2", "threads": 1}}
    with pytest.raises(LposekitError, match=r"backend\.version: '1' -> '2'"):
        common_models([models, other])
