"""Contract of `write_report` on image datasets: one file, true numbers, nothing from outside, no text that acts.

How it looks and loads in a browser is `test_browser.py`.
"""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import re
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import pyarrow as pa
import pytest

from lposekit.errors import LposekitError, Outcome
from lposekit.records import ImageRow, sample_key
from lposekit.report.html import write_report
from lposekit.report.row_list import MAX_ROWS, RowList
from lposekit.report.spread import spread
from lposekit.report.tiles import KEPT_SHOWN
from lposekit.shards.layout import DatasetLayout
from pipelines.image.rows import unposed_row
from tests.support.dataset_folder import make_results, solid_image
from tests.support.datasets import (
    make_dataset_of,
    make_empty_dataset,
    make_hostile_dataset,
)
from tests.support.fixtures import fixture_path

SERVER = "http://127.0.0.1:1"


class Page(HTMLParser):
    """Tags with their attributes, and the text a reader sees."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.text = ""
        self._inside: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        self._inside = [tag] if tag in ("style", "script") else []
        self.text += " "

    def handle_endtag(self, tag: str) -> None:
        self._inside = []
        self.text += " "

    def handle_data(self, data: str) -> None:
        if not self._inside:
            self.text += data

    def words(self) -> str:
        return " ".join(self.text.split())

    def sources(self) -> list[str]:
        """What a browser would load."""
        return [attrs[name] for _, attrs in self.tags for name in ("src", "srcset", "data", "poster") if name in attrs]

    def links(self) -> list[str]:
        return [attrs["href"] for tag, attrs in self.tags if tag == "a"]


@pytest.fixture(scope="module")
def photo_page(photos: DatasetLayout) -> Page:
    return Page(write_report(photos.root))


def outcomes_of(layout: DatasetLayout) -> dict[str, int]:
    return json.loads(layout.card.read_text())["totals"]["outcomes"]


def test_the_same_dataset_gives_the_same_bytes_where_the_contract_says(photos: DatasetLayout) -> None:
    path = write_report(photos.root)
    assert path == photos.root / "_dataset" / "report" / "index.html"
    assert [path.name for path in photos.report.parent.iterdir()] == ["index.html"]
    first = path.read_bytes()
    assert write_report(photos.root).read_bytes() == first


def test_the_numbers_are_those_of_the_dataset(photos: DatasetLayout, photo_page: Page) -> None:
    outcomes = outcomes_of(photos)
    words = photo_page.words()
    assert f"{sum(outcomes.values())} rows in = {sum(outcomes.values())} rows with exactly one outcome." in words
    for outcome, count in outcomes.items():
        assert re.search(rf"{outcome} {count} \d", words), outcome
    kept, judged = outcomes["kept"], sum(outcomes[name] for name in ("kept", "few_keypoints", "no_person"))
    assert f"kept {kept} " in words
    assert f"set: 0.5, keeps {100 * kept / judged:.1f}%" in words, "the curve at the setting is the verdict itself"
    assert f"set: 0.4, keeps {100 * kept / judged:.1f}%" in words


def test_every_kept_sample_is_shown_with_skeleton_over_and_beside_the_photo(
    photos: DatasetLayout, photo_page: Page
) -> None:
    kept = outcomes_of(photos)["kept"]
    alts = [attrs["alt"] for tag, attrs in photo_page.tags if tag == "img"]
    assert sum(alt.startswith("Photo: ") for alt in alts) == kept
    assert sum(alt.startswith("Skeletons: ") for alt in alts) == kept
    assert sum(attrs.get("class") == "over" for _, attrs in photo_page.tags) >= kept
    assert all("person" in alt for alt in alts if alt)


def test_rejected_images_are_shown_by_reason_and_refused_ones_never(photos: DatasetLayout, photo_page: Page) -> None:
    outcomes = outcomes_of(photos)
    shown = [attrs for tag, attrs in photo_page.tags if tag == "img" and attrs["alt"].startswith("Rejected")]
    assert len(shown) == min(12, outcomes["few_keypoints"]) + min(12, outcomes["no_person"])
    for outcome in ("robots", "opt_out", "blocked"):
        assert outcomes[outcome] > 0, "the dataset has refused rows"
        assert f"h3><code>{outcome}" not in photos.report.read_text()


def test_nothing_is_loaded_from_outside_of_the_file(photo_page: Page) -> None:
    assert photo_page.sources()
    assert all(source.startswith("data:image/") for source in photo_page.sources())
    assert not [tag for tag, _ in photo_page.tags if tag in ("link", "iframe", "object", "embed", "base")]
    policies = [
        attrs["content"] for _, attrs in photo_page.tags if attrs.get("http-equiv") == "Content-Security-Policy"
    ]
    assert len(policies) == 1
    assert policies[0].startswith("default-src 'none'; img-src data:")
    assert "http" not in policies[0]


def scripts_of(path: Path) -> list[tuple[str, str]]:
    """Attributes and text of every script element, as a browser cuts them out of the page."""
    return re.findall(r"<script([^>]*)>(.*?)</script", path.read_text(encoding="utf-8"), re.DOTALL | re.IGNORECASE)


def only_our_script(path: Path) -> None:
    """The page has its own script, which the policy allows by its hash, and data that no browser runs."""
    policy = re.search(r'Security-Policy" content="([^"]*)"', path.read_text(encoding="utf-8"))
    assert policy
    sources = re.search(r"script-src ([^;]*);", unescape(policy[1]))
    (data_attributes, data), (attributes, text) = scripts_of(path)
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    assert sources
    assert (attributes, sources[1]) == ("", f"'sha256-{digest}'")
    assert 'type="application/json"' in data_attributes
    assert not set("<>&") & set(data)
    json.loads(data)


@pytest.mark.parametrize("public", [False, True])
def test_the_policy_allows_our_script_by_its_hash_and_no_other(photos: DatasetLayout, public: bool) -> None:
    # Mutations: a space added to the script after its hash was taken; `'unsafe-inline'` as the source of scripts.
    only_our_script(write_report(photos.root, public=public))


def test_the_rows_to_search_hold_no_address_and_no_caption_of_what_was_refused(photos: DatasetLayout) -> None:
    # Mutations: captions of all outcomes; captions, or rows that were not kept, on the public page.
    data = json.loads(scripts_of(write_report(photos.root))[0][1])
    assert "photos.example" not in json.dumps(data)
    captions = dict(zip(zip(data["keys"], data["outcome"], strict=True), data["captions"], strict=True))
    for (key, place), caption in captions.items():
        refused = data["outcomes"][place] in ("robots", "opt_out", "blocked")
        assert bool(caption) is not refused, key
    assert data["names"] == ["persons", "keypoints"]
    assert len(data["keys"]) == data["total"] == len(data["numbers"][0]) == 44
    public = json.loads(scripts_of(write_report(photos.root, public=True))[0][1])
    assert public["captions"] == []
    kept = [data["outcomes"][place] == "kept" for place in data["outcome"]]
    assert public["keys"] == [key for key, is_kept in zip(data["keys"], kept, strict=True) if is_kept]
    assert public["outcomes"] == ["kept"]
    assert len(public["numbers"][0]) == len(public["keys"]) > 10


def test_a_row_and_its_sample_are_found_by_the_same_numbers(photos: DatasetLayout, photo_page: Page) -> None:
    # Mutation: the least keypoints in place of the most, in `numbers_of`.
    data = json.loads(scripts_of(write_report(photos.root))[0][1])
    pairs = zip(*data["numbers"], strict=True)
    words = [" ".join("" if number is None else str(number) for number in pair) for pair in pairs]
    listed = dict(zip(data["keys"], words, strict=True))
    shown = {attrs["data-key"]: attrs["data-numbers"] for tag, attrs in photo_page.tags if tag == "figure"}
    assert len(shown) > 20
    assert {key: listed[key] for key in shown} == shown


def test_of_many_rows_an_even_choice_is_listed() -> None:
    # Mutation: the first `MAX_ROWS` rows.
    rows = RowList.of(25_000, ["place"])
    for first in range(0, 25_000, 5_000):
        places = list(range(first, first + 5_000))
        columns = {"key": [str(place) for place in places], "outcome": ["dns"] * 5_000, "caption": [None] * 5_000}
        rows.add(pa.table({**columns, "place": places}), lambda taken: [taken["place"].to_pylist()])
    assert len(rows) == MAX_ROWS
    assert rows.numbers[0] == [int(key) for key in rows.keys] == spread(25_000, MAX_ROWS)


def test_an_image_that_is_too_small_is_shown_with_its_reason(tmp_path: Path) -> None:
    row = ImageRow(sample_key(0, 0), "http://a.example/tiny.jpg", "tiny", {})
    result = unposed_row(row, Outcome.TOO_SMALL, "46 x 40: the shorter side is below 64", solid_image(1, 40, 46))
    page = Page(write_report(make_dataset_of(tmp_path / "d", [[result]]).root))
    assert "too_small 1 of 1 000000000 46 x 40: the shorter side is below 64" in page.words()
    assert len(page.sources()) == 1


def test_refused_rows_are_not_linked_to(photo_page: Page) -> None:
    # Mutation: may_link = True. Rows 3, 7, ... fail, in the order of FAILURES: 15 is robots, 19 opt_out, 27 blocked.
    links = " ".join(photo_page.links())
    assert "https://photos.example/3.jpg" in links, "a row that failed by the network is"
    for refused in (15, 19, 27):
        assert f"/{refused}.jpg" not in links


def test_samples_are_spread_evenly_over_the_dataset() -> None:
    assert spread(3, 64) == [0, 1, 2]
    assert spread(0, 64) == []
    chosen = spread(10_000, 64)
    assert len(set(chosen)) == 64
    gaps = {b - a for a, b in itertools.pairwise(chosen)}
    assert gaps <= {156, 157}


def test_samples_come_from_every_shard(tmp_path: Path) -> None:
    layout = make_dataset_of(tmp_path / "d", [make_results(shard, 80) for shard in range(3)])
    page = Page(write_report(layout.root))
    keys = re.findall(r"\b(\d{5})\d{4}\b", page.words().split("Thumbnails of rows")[0])
    counts = [keys.count(shard) for shard in sorted(set(keys))]
    assert len(counts) == 3
    assert sum(counts) == KEPT_SHOWN
    assert max(counts) - min(counts) <= 1


# texts from strangers


@pytest.mark.parametrize("public", [False, True])
def test_hostile_texts_stay_texts(tmp_path: Path, public: bool) -> None:
    # Mutations: autoescape=False; web_address returning every text.
    path = write_report(make_hostile_dataset(tmp_path / "d", SERVER).root, public=public)
    page = Page(path)
    only_our_script(path)
    assert sum(tag == "style" for tag, _ in page.tags) == 1
    assert not [name for _, attrs in page.tags for name in attrs if name.startswith("on")]
    assert all(source.startswith("data:image/") for source in page.sources())
    assert all(link.startswith(("#", SERVER)) for link in page.links())
    assert "<script>" in page.text, "and are shown"
    assert "49" not in page.text.replace("{{ 7 * 7 }}", ""), "no template in a caption is rendered"


def test_pages_without_a_kept_sample_say_so(tmp_path: Path) -> None:
    page = Page(write_report(make_empty_dataset(tmp_path / "d").root))
    assert "No image was kept." in page.words()
    assert "No image was seen, so there is no yield." in page.words()
    assert "dns 5 100%" in page.words()


# public


def test_the_public_page_and_the_private_one_leave_each_other_alone(photos: DatasetLayout) -> None:
    # Mutation tried: the private page's path for both.
    private = write_report(photos.root)
    before = private.read_bytes()
    public = write_report(photos.root, public=True)
    assert (private.name, public.name) == ("index.html", "public.html")
    assert private.read_bytes() == before
    shown = public.read_bytes()
    write_report(photos.root)
    assert public.read_bytes() == shown


def test_the_public_page_has_skeletons_but_no_photo_caption_address_or_path(photos: DatasetLayout) -> None:
    # Mutations: `None if public` dropped in kept_tiles; `_shown` without public. (Captions are left out twice.)
    path = write_report(photos.root, public=True)
    page = Page(path)
    assert all(source.startswith("data:image/png") for source in page.sources())
    alts = [attrs["alt"] for tag, attrs in page.tags if tag == "img"]
    assert len(alts) == outcomes_of(photos)["kept"]
    assert all(alt.startswith("Skeletons: ") for alt in alts)
    assert all(link.startswith("#") for link in page.links())
    text = path.read_text(encoding="utf-8")
    assert "://" not in text
    assert "photos.example" not in text
    assert "/data/lists" not in text
    assert "no address for the name" not in text, "messages of rows may name places"
    captions = [
        caption
        for line in (fixture_path("data/images") / "annotations.jsonl").read_text().splitlines()
        for caption in json.loads(line)["captions"][:1]
    ]
    assert captions
    assert not [caption for caption in captions if caption in page.text]


def test_the_private_page_shows_captions_and_links(photo_page: Page) -> None:
    assert "A child holding a flowered umbrella and petting a yak." in photo_page.words()
    assert "part-0.parquet" in photo_page.words()
    assert any(link.startswith("https://photos.example/") for link in photo_page.links())


# what the card says


def test_sample_provisional_threshold_and_warnings_are_said(tmp_path: Path) -> None:
    rows = [make_results(0, 8)]
    layout = make_dataset_of(tmp_path / "d", rows, sample=True, warnings=["no `punsafe` column"])
    words = Page(write_report(layout.root)).words()
    assert "Sample." in words
    assert "Provisional threshold." in words
    assert "Warning. no punsafe column" in words
    calm = make_dataset_of(tmp_path / "e", rows, models={"pose": {"name": "stub", "provisional": False}})
    words = Page(write_report(calm.root)).words()
    assert not [text for text in ("Sample.", "Provisional", "Warning.") if text in words]


def test_licences_of_kept_rows_are_counted(tmp_path: Path) -> None:
    layout = make_dataset_of(tmp_path / "d", [make_results(0, 16)])
    assert "cc0 8" in Page(write_report(layout.root)).words()


def test_a_broken_account_is_said(tmp_path: Path) -> None:
    # Mutation: the count of the stats taken from the parquet.
    layout = make_dataset_of(tmp_path / "d", [make_results(0, 8)])
    stats = layout.read_stats(0).as_json()
    layout.stats(0).write_text(json.dumps({**stats, "count": 9}))
    assert "The totals do not add up: 9 rows in, 8 rows with an outcome." in Page(write_report(layout.root)).words()


def test_samples_stored_by_a_looser_rule_are_shown_among_the_rejected(tmp_path: Path) -> None:
    """After `refilter`, a row may be few_keypoints and still have its image in the tar, and no thumbnail."""
    rows = make_results(0, 8)
    layout = make_dataset_of(tmp_path / "d", [rows])
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pq.read_table(layout.parquet(0))
    outcomes = [Outcome.FEW_KEYPOINTS.value if name == "kept" else name for name in table["outcome"].to_pylist()]
    table = table.set_column(table.schema.get_field_index("outcome"), "outcome", pa.array(outcomes))
    pq.write_table(table, layout.parquet(0))
    page = Page(write_report(layout.root))
    assert sum(attrs.get("alt", "").startswith("Rejected") for _, attrs in page.tags) == 6
    assert "No image was kept." in page.words()


@pytest.mark.parametrize("broken", [{"keep_rule": None}, {"keypoint_format": "hand21"}, {"keep_rule": {}}])
def test_a_card_without_a_rule_is_an_error_that_says_so(tmp_path: Path, broken: dict[str, object]) -> None:
    layout = make_dataset_of(tmp_path / "d", [make_results(0, 4)], **broken)
    with pytest.raises(LposekitError, match="no keep rule and keypoint format"):
        write_report(layout.root)


def test_a_folder_that_is_no_dataset_is_an_error_that_says_so(tmp_path: Path) -> None:
    with pytest.raises(LposekitError, match="no committed shard"):
        write_report(tmp_path)


def test_an_unknown_kind_is_an_error_that_says_so(tmp_path: Path) -> None:
    layout = make_dataset_of(tmp_path / "d", [make_results(0, 4)], kind="audio")
    with pytest.raises(LposekitError, match="kind 'audio'"):
        write_report(layout.root)
