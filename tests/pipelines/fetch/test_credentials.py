"""Nothing of this machine's own travels to a row's host, and no credentials of a list are sent, stored or shown."""

from __future__ import annotations

import os
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from lposekit.errors import Outcome
from lposekit.records import ImageRow, StoredQuery, without_user
from lposekit.shards.rows import rows_table
from lposekit.stored_address import stored_address
from pipelines.fetch.polite import polite_opener
from pipelines.fetch.settings import FetchSettings
from pipelines.image.rows import OWN_COLUMNS, unposed_row
from pipelines.recipes import build_images, build_videos
from pipelines.video.settings import BuildVideoSettings
from tests.pipelines.fetch.conftest import Naps, outcome, quick_settings, rejection
from tests.support.bad_server import BadServer
from tests.support.execute_here import execute_here
from tests.support.stub_build import stub_settings, write_rows
from tests.support.videos import moving, write_video

pytestmark = pytest.mark.timeout(180)
ADDRESSES = {
    "https://user:secret@h.test/a.jpg?x=1": "https://h.test/a.jpg?x=1",
    "HTTP://secret@h.test": "HTTP://h.test",
    "//user:secret@h.test/a": "//h.test/a",
    "https://user@mail.test:secret@h.test/a@b": "https://h.test/a@b",
    " ftp://user:sec:ret@[::1]:80/": " ftp://[::1]:80/",
    "https://user:secret@h.test:99999999/a.jpg": "https://h.test:99999999/a.jpg",
    "https://h.test/user:secret@x": "https://h.test/user:secret@x",
    "user@h.test": "user@h.test",
}


# Mutations: `urllib.request`'s opener in place of http.client's connection obeys the proxies; `netrc` looked up.
@pytest.mark.case(64)
def test_proxies_and_netrc_of_the_environment_are_ignored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login me password secret\ndefault login me password secret\n")
    (tmp_path / ".netrc").chmod(0o600)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    with BadServer() as proxy, BadServer() as server:
        for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.url)
        for name in ("no_proxy", "NO_PROXY"):
            monkeypatch.delenv(name, raising=False)
        assert os.environ["http_proxy"] == proxy.url
        opener = polite_opener(quick_settings(), allow_private_addresses=True, sleep=Naps())
        assert opener.fetch(f"{server.url}/ok").http_status == 200
        assert proxy.hits == []
        assert [hit.path for hit in server.hits] == ["/robots.txt", "/ok"]
        sent = {name for hit in server.hits for name in hit.headers}
        assert sent == {"host", "user-agent", "accept", "accept-encoding"}


@pytest.mark.case(65)
@pytest.mark.parametrize(("address", "shown"), ADDRESSES.items())
def test_an_address_is_shown_without_its_user(address: str, shown: str) -> None:
    assert without_user(address) == shown


# Mutations: `_shown` returns its value; no look at `parts.auth`.
@pytest.mark.case(65)
def test_a_row_is_stored_without_the_user_of_its_address_and_never_asked_for(tmp_path: Path) -> None:
    with BadServer() as server:
        opener = polite_opener(quick_settings(), allow_private_addresses=True, sleep=Naps())
        for port in (server.port, 99_999_999):
            url = f"http://user:secret@127.0.0.1:{port}/ok"
            why = rejection(opener, url)
            assert why.outcome is Outcome.BAD_URL
            row = unposed_row(ImageRow("000000000", url, "c", {"page": url}), why.outcome, why.detail)
            pq.write_table(rows_table([row.columns], OWN_COLUMNS), tmp_path / "rows.parquet", compression="none")
            assert b"secret" not in (tmp_path / "rows.parquet").read_bytes()
            assert row.columns["url"] == row.columns["page"] == f"http://127.0.0.1:{port}/ok"
        assert outcome(opener, f"{server.url}/to?http://user:secret@127.0.0.1:{server.port}/ok") is Outcome.REDIRECT
        assert not [hit for hit in server.hits if "authorization" in hit.headers]
        assert server.hits_of("/ok") == []


# Mutation: `VideoRow.source` as the list has it.
@pytest.mark.case(65)
def test_a_video_dataset_holds_no_user_of_an_address(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", [moving(number) for number in range(30)])
    row = "https://user:secret@h.test/a.mp4,c,http://me:secret@h.test/"
    (tmp_path / "list.csv").write_text(f"url,caption,page,path\n{row},\n{row},a.mp4\n")
    settings = BuildVideoSettings(input=(str(tmp_path / "list.csv"),), output=tmp_path / "d", workers=1)
    report = build_videos(settings, execute=execute_here)
    assert report.outcomes == {"bad_url": 1, "kept": 1}
    table = pq.read_table(tmp_path / "d" / "00000.parquet")
    assert table["url"].to_pylist() == ["https://h.test/a.mp4"] * 2
    texts = [path.read_bytes() for path in (tmp_path / "d").rglob("*") if path.is_file()]
    assert not any(b"secret" in text for text in texts)


SIGNED = "https://h.test/a.jpg?w=300&X-Amz-Expires=s3cret&token=s3cret&author=ann#access_token=s3cret"


# Mutations: `_SECRET` that knows no `x-amz-`; `auth` that takes `author` along; the part behind `#` left as it is.
@pytest.mark.case(65)
@pytest.mark.parametrize(
    ("query", "stored"),
    [
        ("safe", "https://h.test/a.jpg?w=300&author=ann"),
        ("all", SIGNED),
        ("none", "https://h.test/a.jpg"),
    ],
)
def test_of_a_query_is_stored_what_was_asked_for(query: StoredQuery, stored: str) -> None:
    assert stored_address(SIGNED, query) == stored


@pytest.mark.case(65)
@pytest.mark.parametrize(
    "text",
    ["a caption: who? token=me", "https://h.test/a.jpg", "https://h.test/watch?v=abc&list=1", "https://h.test/?1"],
)
def test_what_holds_no_key_is_stored_as_it_is(text: str) -> None:
    assert stored_address(text, "safe") == text


# Mutations: `query` not handed on by `plan_row` or `iter_plans`, or by `row_columns` to the list's other columns.
@pytest.mark.case(65)
def test_keys_in_queries_are_sent_and_not_stored_unless_asked_for(tmp_path: Path) -> None:
    with BadServer() as server:
        url = f"{server.url}/ok?w=1&token=s3cret"
        path = write_rows(tmp_path / "list.jsonl", [{"url": url, "caption": "c", "page": SIGNED}])
        for query, stored in (("safe", f"{server.url}/ok?w=1"), ("none", f"{server.url}/ok"), ("all", url)):
            fetch = FetchSettings(robots=False, retries=0, stored_query=query)
            settings = stub_settings(path, tmp_path / query, fetch=fetch)
            build_images(settings, execute=execute_here)
            table = pq.read_table(tmp_path / query / "00000.parquet")
            assert table["url"].to_pylist() == [stored]
            assert table["page"].to_pylist() == [stored_address(SIGNED, query)]
            texts = [file.read_bytes() for file in (tmp_path / query).rglob("*") if file.is_file()]
            assert any(b"s3cret" in text for text in texts) == (query == "all")
        assert {hit.path.partition("?")[2] for hit in server.hits} == {"w=1&token=s3cret"}


@pytest.mark.case(65)
def test_a_video_dataset_holds_no_key_of_a_query(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", [moving(number) for number in range(30)])
    (tmp_path / "list.csv").write_text(f"url,caption,page,path\n{SIGNED},c,{SIGNED},a.mp4\n")
    settings = BuildVideoSettings(input=(str(tmp_path / "list.csv"),), output=tmp_path / "d", workers=1)
    assert build_videos(settings, execute=execute_here).outcomes == {"kept": 1}
    assert pq.read_table(tmp_path / "d" / "00000.parquet")["url"].to_pylist() == [stored_address(SIGNED, "safe")]
    texts = [path.read_bytes() for path in (tmp_path / "d").rglob("*") if path.is_file()]
    assert not any(b"s3cret" in text for text in texts)
