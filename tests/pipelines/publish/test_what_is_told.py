"""Contract: what is pushed holds no pixels unless they are asked for, and nothing private: no row that was turned down,
no path, no key, no address of one network.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

import lposekit
from lposekit.errors import UsageError
from pipelines.fetch.removals import read_entries
from pipelines.publish.public_files import public_card
from pipelines.publish.public_rows import told
from pipelines.recipes import build_images, materialize
from pipelines.remove import remove
from tests.support.bad_server import BadServer
from tests.support.execute_here import execute_here
from tests.support.pushed_index import pushed, settings_of
from tests.support.stub_build import stub_pages, stub_settings


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


def test_a_long_text_of_letters_is_told_at_once() -> None:
    # Mutation tried: no limit on the length of a scheme -> not done after 30 s (quadratic: minutes).
    text = "a" * 400_000
    assert told(text) == text


def test_the_card_that_goes_names_no_list_and_no_account(built: tuple[BadServer, Path]) -> None:
    # Mutation tried: the settings as they are shown at home -> red.
    _, dataset = built
    card = lposekit.open_dataset(dataset).card
    settings = {**(card.settings or {}), "input": ["https://me:pw@h.example/l.parquet?X-Amz-Signature=S"]}
    settings |= {"ray_address": "ray://10.0.0.3:10001", "fetch.blocklist": ["../client/list.csv"]}
    text = json.dumps(public_card(replace(card, settings=settings, warnings=["/home/me/l.csv: no column"])).as_json())
    assert not any(word in text for word in ("pw@", "Signature", "10.0.0.3", "client", "/home"))
