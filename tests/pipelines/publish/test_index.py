"""Contract: `materialize` of an index that `push` wrote gives the tars of the build it came from and runs no model; it
continues a folder of the same dataset, and no other.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

import lposekit
from lposekit.errors import LposekitError, UsageError
from lposekit.shards.verify import verify_dataset
from pipelines.recipes import materialize, retry
from tests.support.bad_server import BadServer
from tests.support.execute_here import execute_here
from tests.support.pages import Page
from tests.support.pushed_index import members_of, pushed, settings_of, tars_of
from tests.support.stub_images import stub_image


def test_an_index_gives_the_tars_of_the_build_it_came_from(built: tuple[BadServer, Path], tmp_path: Path) -> None:
    # Mutations tried: poses not handed on -> NoModel is asked; quality 90 in place of the index's -> other bytes.
    server, dataset = built
    report = pushed(dataset, tmp_path / "index")
    assert report.left_out == {}
    hits = len(server.hits)
    done = materialize(settings_of(tmp_path / "index", tmp_path / "again"), execute=execute_here)
    assert (done.exit_code, done.num_samples) == (0, 6)
    assert len(server.hits) - hits == 6, "rows without a sample were fetched"
    again = members_of(tmp_path / "again")
    scrubbed = json.loads(again["000000000"].pop("json"))
    original = members_of(dataset)
    assert scrubbed == {**json.loads(original["000000000"].pop("json")), "note": None}
    assert again == original
    assert verify_dataset(tmp_path / "again") == []
    assert tars_of(tmp_path / "again")["00001.tar"] == tars_of(dataset)["00001.tar"]
    models = lposekit.open_dataset(tmp_path / "again").card.models
    assert models == lposekit.open_dataset(dataset).card.models


def test_an_image_that_changed_or_is_gone_is_told_and_tried_again_on_demand(
    built: tuple[BadServer, Path], tmp_path: Path
) -> None:
    # Mutations tried: the hash not compared -> kept; poses of the rows fetched again left out -> NoModel is asked.
    server, dataset = built
    pushed(dataset, tmp_path / "index")
    page, other = server.pages["/0.jpg"], server.pages.pop("/2.jpg")
    server.pages["/0.jpg"] = Page(stub_image(77))
    settings = settings_of(tmp_path / "index", tmp_path / "again")
    assert materialize(settings, execute=execute_here).outcomes == {"kept": 4, "hash_mismatch": 1, "http_4xx": 1}
    server.pages |= {"/0.jpg": page, "/2.jpg": other}
    assert materialize(settings, execute=execute_here).notes == ("nothing to do: all 3 shards are committed",)
    with pytest.raises(UsageError, match="materialize INDEX"):
        retry(tmp_path / "again", execute=execute_here)
    done = materialize(replace(settings, again="http_4xx,hash_mismatch"), execute=execute_here)
    assert done.outcomes == {"kept": 6}
    assert members_of(tmp_path / "again").keys() == members_of(dataset).keys()
    assert verify_dataset(tmp_path / "again") == []


def test_an_index_of_another_dataset_does_not_continue_the_folder(
    built: tuple[BadServer, Path], tmp_path: Path
) -> None:
    # Mutation tried: the index not among what is fixed -> red.
    _, dataset = built
    pushed(dataset, tmp_path / "index")
    materialize(settings_of(tmp_path / "index", tmp_path / "again"), execute=execute_here)
    card = tmp_path / "index" / "_dataset" / "dataset.json"
    stated = json.loads(card.read_text())
    stated["fixed"]["input"] = "another list"
    card.write_text(json.dumps(stated))
    for again in (None, "timeout"):
        with pytest.raises(UsageError, match="built with other settings"):
            materialize(settings_of(tmp_path / "index", tmp_path / "again", again=again), execute=execute_here)


def test_rows_of_a_folder_that_was_not_made_of_an_index_are_not_fetched_again(
    built: tuple[BadServer, Path], tmp_path: Path
) -> None:
    # Mutation tried: any folder taken -> the row that is gone is fetched, and ends otherwise.
    server, dataset = built
    pushed(dataset, tmp_path / "index")
    before, hits = tars_of(dataset), len(server.hits)
    with pytest.raises(UsageError, match=f"was not made of an index. Run `lposekit retry {dataset}`"):
        materialize(settings_of(tmp_path / "index", dataset, again="http_4xx"), execute=execute_here)
    assert (tars_of(dataset), len(server.hits)) == (before, hits)


def test_a_dataset_is_no_index_and_an_index_no_dataset(built: tuple[BadServer, Path], tmp_path: Path) -> None:
    _, dataset = built
    with pytest.raises(UsageError, match="not an index"):
        materialize(settings_of(dataset, tmp_path / "again"), execute=execute_here)
    pushed(dataset, tmp_path / "index")
    with pytest.raises(LposekitError, match="lposekit materialize"):
        lposekit.open_dataset(tmp_path / "index")
