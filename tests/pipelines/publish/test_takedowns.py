"""Contract: what was taken down, or is blocked, is neither pushed nor fetched again; a later index of the same dataset
brings a folder into step, and a dry run says what it would do.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from lposekit.errors import LposekitError
from lposekit.shards.layout import DatasetLayout
from lposekit.shards.verify import verify_dataset
from pipelines.fetch.removals import read_entries
from pipelines.recipes import materialize
from pipelines.remove import remove
from tests.support.bad_server import BadServer
from tests.support.execute_here import execute_here
from tests.support.pushed_index import FETCH, members_of, pushed, settings_of, tars_of


def test_what_was_removed_from_the_dataset_does_not_come_back(built: tuple[BadServer, Path], tmp_path: Path) -> None:
    # Mutations tried: removed.json not pushed; not heeded by materialize -> red each.
    server, dataset = built
    earlier = tmp_path / "earlier"
    pushed(dataset, earlier)
    listed = tmp_path / "removals.txt"
    listed.write_text("000010001\n")
    remove(dataset, read_entries(listed))
    assert pushed(dataset, tmp_path / "index").left_out == {}
    assert "000010001" not in pq.read_table(tmp_path / "index" / "00001.parquet")["key"].to_pylist()
    # an index from before the removal, with today's list of removals
    (earlier / "_dataset" / "removed.json").write_bytes((tmp_path / "index" / "_dataset" / "removed.json").read_bytes())
    hits = len(server.hits)
    done = materialize(settings_of(earlier, tmp_path / "again"), execute=execute_here)
    assert done.outcomes == {"kept": 5, "removed": 1}
    assert len(server.hits) - hits == 5
    assert "000010001" not in members_of(tmp_path / "again")
    assert DatasetLayout(tmp_path / "again").removed.is_file()


def test_a_blocklist_holds_for_push_and_for_materialize(built: tuple[BadServer, Path], tmp_path: Path) -> None:
    # Mutations tried: blocklist of push ignored; that of materialize not handed to the fetch -> red each.
    server, dataset = built
    sha256 = pq.read_table(dataset / "00000.parquet")["sha256"][2].as_py()
    listed = tmp_path / "blocked.txt"
    listed.write_text(f"{server.url}/5.jpg\n{sha256}\n")
    report = pushed(dataset, tmp_path / "index", blocklist=(listed,))
    assert report.left_out == {"blocked": 2}
    pushed(dataset, tmp_path / "whole")
    fetch = replace(FETCH, blocklist=(listed,))
    done = materialize(settings_of(tmp_path / "whole", tmp_path / "again", fetch=fetch), execute=execute_here)
    assert done.outcomes == {"kept": 4, "blocked": 2}


@pytest.mark.parametrize("again", [None, "http_4xx"])
def test_a_later_index_takes_out_of_a_folder_what_was_taken_down_since(
    built: tuple[BadServer, Path], tmp_path: Path, again: str | None
) -> None:
    # Mutations tried: shards that are committed left alone; removals joined by a build alone; rows that the index lacks
    # fetched -> red each (with `again`, NoModel is asked). A dry run that looks at whole shards alone: nothing to do.
    server, dataset = built
    pushed(dataset, tmp_path / "index")
    page = server.pages.pop("/2.jpg")
    settings = settings_of(tmp_path / "index", tmp_path / "again")
    assert materialize(settings, execute=execute_here).outcomes == {"kept": 5, "http_4xx": 1}
    server.pages["/2.jpg"] = page
    gone = sorted(members_of(dataset))[-2:]
    (tmp_path / "removals.txt").write_text("\n".join(gone))
    remove(dataset, read_entries(tmp_path / "removals.txt"))
    pushed(dataset, tmp_path / "index")
    hits, before = len(server.hits), tars_of(tmp_path / "again")
    (told, *_) = materialize(replace(settings, again=again), dry_run=True, execute=execute_here).notes
    assert told == "would take out 2 rows that the index no longer has, in shards that are there"
    assert tars_of(tmp_path / "again") == before
    done = materialize(replace(settings, again=again), execute=execute_here)
    failed = {} if again else {"http_4xx": 1}
    assert done.outcomes == {"kept": 4 if again else 3, "removed": 2} | failed
    assert len(server.hits) - hits == bool(again)
    assert not set(gone) & set(members_of(tmp_path / "again"))
    assert verify_dataset(tmp_path / "again") == []
    assert DatasetLayout(tmp_path / "again").removed.is_file()
    assert materialize(settings, execute=execute_here).notes == ("nothing to do: all 3 shards are committed",)


def test_a_row_that_was_taken_down_before_it_could_be_fetched_ends_as_removed(
    built: tuple[BadServer, Path], tmp_path: Path
) -> None:
    # Mutation tried: rows that the index lacks fetched -> NoModel is asked.
    server, dataset = built
    pushed(dataset, tmp_path / "index")
    page = server.pages.pop("/2.jpg")
    settings = settings_of(tmp_path / "index", tmp_path / "again")
    materialize(settings, execute=execute_here)
    server.pages["/2.jpg"] = page
    (tmp_path / "removals.txt").write_text(f"{server.url}/2.jpg\n")
    remove(dataset, read_entries(tmp_path / "removals.txt"))
    pushed(dataset, tmp_path / "index")
    done = materialize(replace(settings, again="http_4xx"), execute=execute_here)
    assert done.outcomes == {"kept": 5, "removed": 1}


def test_rows_that_a_later_index_has_more_are_fetched(built: tuple[BadServer, Path], tmp_path: Path) -> None:
    # Mutation tried: rows of committed shards taken from the folder alone -> 5 kept.
    server, dataset = built
    (tmp_path / "blocked.txt").write_text(f"{server.url}/5.jpg\n")
    settings = settings_of(tmp_path / "index", tmp_path / "again")
    assert pushed(dataset, tmp_path / "index", blocklist=(tmp_path / "blocked.txt",)).left_out == {"blocked": 1}
    assert materialize(settings, execute=execute_here).outcomes == {"kept": 5}
    pushed(dataset, tmp_path / "index")
    hits = len(server.hits)
    assert materialize(settings, dry_run=True, execute=execute_here).notes == (
        "would fetch 1 row that the folder lacks, in shards that are there",
    )
    assert materialize(settings, execute=execute_here).outcomes == {"kept": 6}
    assert len(server.hits) - hits == 1
    assert members_of(tmp_path / "again").keys() == members_of(dataset).keys()


def test_an_index_without_one_of_its_tables_takes_nothing_out(built: tuple[BadServer, Path], tmp_path: Path) -> None:
    # Mutation tried: the names in the card not compared -> the rows of the shard end as removed.
    _, dataset = built
    pushed(dataset, tmp_path / "index")
    (tmp_path / "index" / "00002.parquet").unlink()
    with pytest.raises(LposekitError, match=r"00002\.parquet is missing"):
        materialize(settings_of(tmp_path / "index", tmp_path / "again"), execute=execute_here)
