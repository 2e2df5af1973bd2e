"""Contract: `push` to a folder makes an index, addresses and poses without pixels and without anything private;
`materialize` of an index gives the tars of the build it came from, runs no model, and leaves out what was taken down.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import lposekit
from lposekit.cli import main
from lposekit.errors import LposekitError, UsageError
from lposekit.shards.layout import DatasetLayout
from lposekit.shards.verify import verify_dataset
from pipelines.fetch.removals import read_entries
from pipelines.fetch.settings import FetchSettings
from pipelines.image.index_settings import MaterializeSettings
from pipelines.job.lock import driver_lock
from pipelines.publish.destinations import LocalFolder
from pipelines.publish.public_files import public_card
from pipelines.publish.public_rows import told
from pipelines.publish.push import PushReport, push_dataset
from pipelines.publish.settings import PushSettings
from pipelines.recipes import build_images, materialize, retry
from pipelines.remove import remove
from tests.support.bad_server import BadServer
from tests.support.execute_here import execute_here
from tests.support.pages import Page
from tests.support.stub_build import served, stub_pages, stub_settings
from tests.support.stub_images import stub_image

FETCH = FetchSettings(robots=False, threads=4, retries=0)
ROWS = 10


def pushed(dataset: Path, to: Path, **changes: object) -> PushReport:
    given = {"allow_private_addresses": True, **changes}
    return push_dataset(PushSettings(source=dataset, to=str(to), **given))  # type: ignore[arg-type]


def settings_of(index: Path, output: Path, **changes: object) -> MaterializeSettings:
    own = MaterializeSettings(
        index=index, output=output, allow_private_addresses=True, decode_processes=0, workers=1, fetch=FETCH
    )
    return replace(own, **changes)  # type: ignore[arg-type]


def members_of(folder: Path) -> dict[str, dict[str, bytes]]:
    return {sample.key: sample.members for sample in lposekit.open_dataset(folder)}


def tars_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.tar"))}


@pytest.fixture
def built(tmp_path: Path):
    """A server, and a dataset of its images: two few keypoints, one nobody, one gone, the list with a column."""
    pages = stub_pages(ROWS, num_detected={1: 3, 6: 2}, num_persons={3: 0})
    licences = [f"licence {row}" for row in range(ROWS)]
    with served(pages, tmp_path, licence=licences, note=["/home/me/a.jpg"] + ["x"] * (ROWS - 1)) as (server, path):
        del pages["/4.jpg"]
        build_images(stub_settings(path, tmp_path / "d"), execute=execute_here)
        yield server, tmp_path / "d"


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


def test_an_index_holds_no_pixels_and_nothing_private(built: tuple[BadServer, Path], tmp_path: Path) -> None:
    # Mutations tried: private.json, thumbnails or the log pushed along; values of the list as they are -> red each.
    _, dataset = built
    pushed(dataset, tmp_path / "index")
    names = {path.relative_to(tmp_path / "index").as_posix() for path in (tmp_path / "index").rglob("*.*")}
    assert names == {
        *("00000.parquet", "00001.parquet", "00002.parquet"),
        *("README.md", "index.html", "_dataset/dataset.json", "_dataset/pushed.json"),
    }
    everything = b"".join(path.read_bytes() for path in (tmp_path / "index").rglob("*.*"))
    assert str(tmp_path).encode() not in everything
    rows = [row for path in sorted((tmp_path / "index").glob("*.parquet")) for row in pq.read_table(path).to_pylist()]
    assert [row["key"][-4:] for row in rows] == ["0000", "0002", "0001", "0003", "0000", "0001"]
    assert all(row["persons"] and row["sha256"] and row["note"] in (None, "x") for row in rows)
    assert rows[0]["note"] is None
    assert b"/home/me" not in everything


def test_keys_in_addresses_stay_at_home(tmp_path: Path) -> None:
    # Mutation tried: addresses as they are stored -> red.
    pages = stub_pages(1)
    with BadServer(pages={"/0.jpg?token=SESAM&w=3": pages["/0.jpg"]}) as server:
        (tmp_path / "list.jsonl").write_text(json.dumps({"url": f"{server.url}/0.jpg?token=SESAM&w=3", "caption": ""}))
        settings = stub_settings(tmp_path / "list.jsonl", tmp_path / "d")
        settings = replace(settings, fetch=replace(settings.fetch, stored_query="all"))
        build_images(settings, execute=execute_here)
    assert b"SESAM" in (tmp_path / "d" / "00000.tar").read_bytes()
    pushed(tmp_path / "d", tmp_path / "index")
    (row,) = pq.read_table(tmp_path / "index" / "00000.parquet").to_pylist()
    assert row["url"].endswith("/0.jpg?w=3")
    pushed(tmp_path / "d", tmp_path / "whole", with_images=True)
    assert b"SESAM" not in b"".join(path.read_bytes() for path in (tmp_path / "whole").rglob("*.*"))


def test_addresses_of_one_network_only_stay_at_home(built: tuple[BadServer, Path], tmp_path: Path) -> None:
    # Mutation tried: the host not looked at -> red.
    _, dataset = built
    report = pushed(dataset, tmp_path / "index", allow_private_addresses=False)
    assert report.left_out == {"private address": 6}
    assert list((tmp_path / "index").glob("*.parquet")) == []
    with pytest.raises(UsageError, match="an index without rows"):
        materialize(settings_of(tmp_path / "index", tmp_path / "again"), execute=execute_here)


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


def damage(index: Path, column: str, row: int, value: object) -> None:
    """Puts a value into a row; of another type, into a column of that type alone."""
    path = index / "00000.parquet"
    table = pq.read_table(path)
    values = table[column].to_pylist()
    values[row] = value
    place = table.schema.get_field_index(column)
    try:
        changed = pa.array(values, table.schema.field(column).type)
    except pa.ArrowTypeError:
        changed = pa.array([value] * len(values))
    pq.write_table(table.set_column(place, column, changed), path)


DAMAGE = {
    "key of a path": ("key", "../../../etc/cron.d/x", "no key of shard 00000"),
    "key of another shard": ("key", "000010000", "no key of shard 00000"),
    "key twice": ("key", "000000000", "does not come after"),
    "no key": ("key", None, "no key of shard 00000"),
    "no hash": ("sha256", None, "no sha256"),
    "a number for a url": ("url", 7, "a url that is no text"),
    "an object for a caption": ("caption", {"a": 1}, "a caption that is no text"),
    "no poses": ("persons", None, "no poses"),
    "poses of another length": ("persons", [{"bbox": [0, 0, 1], "bbox_score": 1, "keypoints": [1]}], "cannot be read"),
}


@pytest.mark.parametrize(("column", "value", "words"), DAMAGE.values(), ids=DAMAGE)
def test_a_strangers_index_is_checked_before_it_is_believed(
    built: tuple[BadServer, Path], tmp_path: Path, column: str, value: object, words: str
) -> None:
    # Mutations tried: no check of keys -> a member of that name lies in the tar; none of urls -> a TypeError.
    _, dataset = built
    pushed(dataset, tmp_path / "index")
    damage(tmp_path / "index", column, 1, value)
    with pytest.raises(LposekitError, match=words):
        materialize(settings_of(tmp_path / "index", tmp_path / "again"), execute=execute_here)


def test_two_names_of_one_shard_are_refused(built: tuple[BadServer, Path], tmp_path: Path) -> None:
    # Mutation tried: any number of zeros -> shard 0 is planned twice.
    _, dataset = built
    pushed(dataset, tmp_path / "index")
    shutil.copy(tmp_path / "index" / "00000.parquet", tmp_path / "index" / "000000.parquet")
    with pytest.raises(LposekitError, match=r"000000\.parquet is no name of a shard"):
        materialize(settings_of(tmp_path / "index", tmp_path / "again"), execute=execute_here)


def test_a_dataset_is_no_index_and_an_index_no_dataset(built: tuple[BadServer, Path], tmp_path: Path) -> None:
    _, dataset = built
    with pytest.raises(UsageError, match="not an index"):
        materialize(settings_of(dataset, tmp_path / "again"), execute=execute_here)
    pushed(dataset, tmp_path / "index")
    with pytest.raises(LposekitError, match="lposekit materialize"):
        lposekit.open_dataset(tmp_path / "index")


def test_with_images_the_dataset_opens_and_verifies(built: tuple[BadServer, Path], tmp_path: Path) -> None:
    # Mutations tried: the source's own tables pushed -> the refused rows are told; thumbnails along -> red.
    _, dataset = built
    pushed(dataset, tmp_path / "public", with_images=True)
    assert verify_dataset(tmp_path / "public") == []
    public, original = members_of(tmp_path / "public"), members_of(dataset)
    assert public.keys() == original.keys()
    assert all(public[key]["jpg"] == original[key]["jpg"] for key in original)
    outcomes = lposekit.open_dataset(tmp_path / "public").rows()["outcome"].to_pylist()
    assert outcomes == ["kept"] * 6
    everything = b"".join(path.read_bytes() for path in (tmp_path / "public").rglob("*.*"))
    assert str(tmp_path).encode() not in everything
    assert b"/home/me" not in everything
    thumbnails = (tmp_path / "public" / "_dataset" / "thumbnails").iterdir()
    assert sum(pq.read_table(path).num_rows for path in thumbnails) == 0


def test_a_push_into_its_source_or_over_another_dataset_is_refused(
    built: tuple[BadServer, Path], tmp_path: Path
) -> None:
    # Mutations tried: the place not compared with the source; no look at what lies there -> a dataset is lost.
    _, dataset = built
    other = tmp_path / "other"
    shutil.copytree(dataset, other)
    kinds = ("*.tar", "*.parquet", "*.json")
    before = {path: path.read_bytes() for kind in kinds for root in (dataset, other) for path in root.rglob(kind)}
    for place in (dataset, dataset / "public", other):
        with pytest.raises(UsageError, match="--to"):
            pushed(dataset, place)
        assert all(path.read_bytes() == data for path, data in before.items())


def test_a_readme_of_others_stays(built: tuple[BadServer, Path], tmp_path: Path) -> None:
    # Mutation tried: written over -> red.
    _, dataset = built
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "README.md").write_text("mine")
    for _ in range(2):
        pushed(dataset, tmp_path / "site")
        assert (tmp_path / "site" / "README.md").read_text() == "mine"
    assert (tmp_path / "site" / "00000.parquet").is_file()


def test_a_push_while_a_build_or_a_removal_is_at_work_is_refused(built: tuple[BadServer, Path], tmp_path: Path) -> None:
    # Mutation tried: no lock -> red.
    _, dataset = built
    with driver_lock(DatasetLayout(dataset), "other"), pytest.raises(UsageError, match="is being built"):
        pushed(dataset, tmp_path / "index")


def test_an_old_marker_does_not_stand_beside_new_files(
    built: tuple[BadServer, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Mutation tried: the marker left until its turn -> a shard that verify calls damaged.
    _, dataset = built
    pushed(dataset, tmp_path / "public", with_images=True)
    put = LocalFolder.put

    def put_until_the_second_shard(place: LocalFolder, name: str, path: Path) -> None:
        put(place, name, path)
        if name == "00001.tar":
            raise KeyboardInterrupt

    monkeypatch.setattr(LocalFolder, "put", put_until_the_second_shard)
    with pytest.raises(KeyboardInterrupt):
        pushed(dataset, tmp_path / "public", with_images=True)
    assert sorted(path.name for path in (tmp_path / "public").glob("*_stats.json")) == [
        *("00000_stats.json", "00002_stats.json"),
    ]


def test_the_page_does_not_go_where_rows_are_left_out_and_names_no_row_that_was_refused(
    built: tuple[BadServer, Path], tmp_path: Path
) -> None:
    # Mutations tried: the page pushed whatever is left out; all rows listed on a public page -> red.
    _, dataset = built
    listed = tmp_path / "removals.txt"
    listed.write_text("000010001\n")
    remove(dataset, read_entries(listed))
    pushed(dataset, tmp_path / "index")
    page = (tmp_path / "index" / "index.html").read_text()
    assert "000010001" not in page
    assert "000000000" in page
    listed.write_text("127.0.0.1\n")
    assert pushed(dataset, tmp_path / "blocked", blocklist=(listed,)).left_out == {"blocked": 5}
    assert not (tmp_path / "blocked" / "index.html").exists()


TELLING = {
    "path behind a space": " /home/me/x.jpg",
    "path in a sentence": "see /home/me/x.jpg",
    "path in json": '{"p":"/home/me"}',
    "path of another machine": "me@nas:/home/me",
    "address of one network": "http://10.0.0.3/a",
    "name of one network": "http://nas.lan/a",
    "bucket": "s3://mine/list.parquet",
    "nested": {"a": ["x", {"b": "/home/me"}]},
    "bytes": b"/home/me",
}


@pytest.mark.parametrize("value", TELLING.values(), ids=TELLING)
def test_values_that_tell_of_a_machine_are_not_told(value: object) -> None:
    # Mutation tried: the start of a text looked at alone -> most are told.
    text = json.dumps(told({"value": value}), default=str)
    assert not any(word in text for word in ("home", "10.0.0.3", "nas", "mine"))


def test_other_values_are_told_without_keys() -> None:
    # Mutation tried: addresses within texts as they are -> the token is told.
    assert told("x https://u:p@h.example/?token=S&w=3 y") == "x https://h.example/?w=3 y"
    for value in ("and/or", "1 / 2", "CC BY 4.0", "https://images.example/a/b.jpg", 3, None, True, "w/o", "a: b"):
        assert told(value) == value


def test_the_card_that_goes_names_no_list_and_no_account(built: tuple[BadServer, Path]) -> None:
    # Mutation tried: the settings as they are shown at home -> red.
    _, dataset = built
    card = lposekit.open_dataset(dataset).card
    settings = {**(card.settings or {}), "input": ["https://me:pw@h.example/l.parquet?X-Amz-Signature=S"]}
    settings |= {"ray_address": "ray://10.0.0.3:10001", "fetch.blocklist": ["../client/list.csv"]}
    text = json.dumps(public_card(replace(card, settings=settings, warnings=["/home/me/l.csv: no column"])).as_json())
    assert not any(word in text for word in ("pw@", "Signature", "10.0.0.3", "client", "/home"))


def test_a_later_push_takes_away_what_is_no_longer_there_and_leaves_foreign_files(
    built: tuple[BadServer, Path], tmp_path: Path
) -> None:
    # Mutation tried: nothing removed at the end -> the removed row's shard stays.
    _, dataset = built
    pushed(dataset, tmp_path / "index")
    (tmp_path / "index" / "NOTES.md").write_text("mine")
    listed = tmp_path / "removals.txt"
    listed.write_text("000020000\n000020001\n")
    remove(dataset, read_entries(listed))
    pushed(dataset, tmp_path / "index")
    names = sorted(path.name for path in (tmp_path / "index").iterdir())
    assert names == ["00000.parquet", "00001.parquet", "NOTES.md", "README.md", "_dataset", "index.html"]


def test_a_dry_run_lists_the_files_and_writes_none(
    built: tuple[BadServer, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, dataset = built
    assert main(["push", str(dataset), "--to", str(tmp_path / "index"), "--allow-private-addresses", "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert "would push an index without images" in printed
    assert "00002.parquet" in printed
    assert not (tmp_path / "index").exists()
