"""Whatever lies in a folder or a list of a stranger, its reader answers with values within their ranges, or with the
one error that it states.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lposekit.errors import LposekitError, Rejected
from lposekit.jpeg import read_jpeg_header
from lposekit.json_values import COUNT, NUMBER, JsonFields, parse_json_object, strict_json
from lposekit.shards.card import DatasetCard
from lposekit.shards.dataset import open_dataset
from lposekit.shards.layout import DatasetLayout
from lposekit.shards.pose_json import read_pose
from pipelines.image.header import read_header
from pipelines.image.plan import iter_shards
from pipelines.image.settings import BuildImagesSettings
from pipelines.job.stored import read_stored_shard
from tests.properties.strategies import json_values, steady
from tests.support.dataset_folder import make_dataset


@pytest.mark.case(73)
@steady
@given(st.binary(max_size=60) | json_values.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_are_a_json_object_or_a_value_error(data: bytes) -> None:
    # Mutation tried: `_mapping` left out -> red: a list comes back.
    try:
        assert isinstance(parse_json_object(data), dict)
    except ValueError:
        return


@pytest.mark.case(77)
@steady
@given(json_values)
def test_what_is_written_is_strict_json(value: object) -> None:
    # Mutation tried: `_finite` that leaves floats as they are -> red.
    def refuse(constant: str) -> None:
        pytest.fail(f"{constant} in {strict_json(value)}")

    json.loads(strict_json(value), parse_constant=refuse)


@steady
@given(json_values, st.sampled_from([COUNT, NUMBER]))
def test_any_value_of_a_field_is_of_its_kind_or_a_value_error(value: Any, kind: Any) -> None:
    try:
        taken = JsonFields({"a": value}).take("a", kind)
    except ValueError:
        return
    assert taken is None or (isinstance(taken, int | float) and not isinstance(taken, bool))


@pytest.mark.case(73, 75)
@steady
@given(st.dictionaries(st.sampled_from(["kind", "totals", "models", "settings", "keep_rule", "x"]), json_values))
def test_any_object_is_a_card_or_a_value_error(values: dict[str, Any]) -> None:
    try:
        DatasetCard.from_json({"kind": "image", **values})
    except ValueError:
        return


persons = st.fixed_dictionaries(
    {},
    optional={
        "bbox": st.lists(st.floats() | st.none() | st.text(max_size=3), max_size=5),
        "bbox_score": json_values,
        "keypoints": st.lists(st.floats() | st.none(), min_size=50, max_size=52),
    },
)
poses = st.fixed_dictionaries(
    {"schema": st.just(1) | json_values, "keypoint_format": st.just("coco17") | json_values},
    optional={
        "width": st.integers() | json_values,
        "height": st.integers() | json_values,
        "keypoint_score_threshold": st.floats() | json_values,
        "persons": st.lists(persons, max_size=2) | json_values,
    },
)


@pytest.mark.case(75)
@steady
@given(poses)
def test_any_pose_is_of_a_sane_size_or_a_value_error(values: dict[str, Any]) -> None:
    # Mutation tried: `width` and `height` taken as any count -> red.
    try:
        pose = read_pose(json.dumps(values).encode())
    except ValueError:
        return
    assert pose.width > 0
    assert pose.height > 0
    assert all(person.keypoints_K3.shape == (17, 3) for person in pose.persons)


STARTS = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", b"RIFF\x10\0\0\0WEBPVP8 ", b"RIFFxxxxWEBPVP8X", b"GIF89a")


@pytest.mark.case(15, 16)
@steady
@given(
    st.sampled_from(STARTS),
    st.binary(max_size=80) | st.builds(bytes, st.integers(0, 60)),
)
def test_any_header_has_a_size_or_is_refused(start: bytes, rest: bytes) -> None:
    # Mutation tried: a size of 0 let through -> red.
    try:
        header = read_header(start + rest)
        assert header.width > 0
        assert header.height > 0
        assert 1 <= header.orientation <= 8
    except Rejected:
        pass
    try:
        read_jpeg_header(start + rest)
    except ValueError:
        return


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> DatasetLayout:
    return make_dataset(tmp_path_factory.mktemp("dataset") / "d", num_shards=1, rows_per_shard=4)


edges = st.sampled_from([2**63 - 1, 2**63 - 9, -(2**63), 2**62, 2**31]) | st.integers(-(2**63), 2**63 - 1)
members = st.lists(
    st.fixed_dictionaries(
        {
            "name": st.sampled_from(["jpg", "txt", "json", "pose.json", "../x", ""]),
            "offset": edges | st.integers(-2, 20_000),
            "size": edges | st.integers(-2, 20_000),
        }
    ),
    max_size=4,
)
INDEX = pa.schema(
    [
        ("key", pa.string()),
        ("members", pa.list_(pa.struct([("name", pa.string()), ("offset", pa.int64()), ("size", pa.int64())]))),
    ]
)


@pytest.mark.case(75)
@steady
@given(st.lists(st.fixed_dictionaries({"key": st.text(max_size=9), "members": members}), max_size=3))
def test_any_index_reads_within_its_tar_or_is_refused(dataset: DatasetLayout, rows: list[Mapping[str, Any]]) -> None:
    place = dataset.index(0)
    before = place.read_bytes()
    try:
        pq.write_table(pa.Table.from_pylist(rows, schema=INDEX), place)
        for sample in open_dataset(dataset.root):
            assert sum(map(len, sample.members.values())) <= 4 * dataset.tar(0).stat().st_size
    except LposekitError:
        pass
    finally:
        place.write_bytes(before)


ROW_CELLS = ("outcome", "key", "caption", "width", "persons", "error_message")


@pytest.mark.case(75)
@steady
@given(st.sampled_from(ROW_CELLS), st.none() | st.text(max_size=12) | st.integers(-(2**60), 2**60))
def test_any_cell_of_a_strangers_row_is_taken_over_or_refused(dataset: DatasetLayout, name: str, value: object) -> None:
    # Mutation tried: `StoredShard.outcome` that lets the `ValueError` of an unknown outcome through -> red.
    place = dataset.parquet(0)
    before = place.read_bytes()
    try:
        table = pq.read_table(place)
        column = pa.array([value] * table.num_rows)
        pq.write_table(table.set_column(table.column_names.index(name), name, column), place)
        stored = read_stored_shard(dataset, 0)
        for position in range(len(stored)):
            assert stored.result(position).outcome is not None
    except LposekitError:
        pass
    finally:
        place.write_bytes(before)


cells = st.none() | st.text(max_size=15) | st.integers() | st.floats() | st.lists(st.integers(), max_size=2)
rows_of_lists = st.lists(
    st.dictionaries(st.sampled_from(["url", "caption", "punsafe", "key", "\u00e9"]), cells), max_size=5
)


@pytest.mark.case(20, 21, 68)
@steady
@given(rows_of_lists, st.lists(st.text(max_size=20), max_size=3))
def test_every_line_of_a_list_is_a_row_of_the_plan(
    tmp_path: Path, rows: list[dict[str, Any]], garbage: list[str]
) -> None:
    lines = [json.dumps({"url": "http://a.example/", "caption": "a"}), *map(json.dumps, rows)]
    lines += [" ".join(line.split()) or "x" for line in garbage]
    path = tmp_path / "list.jsonl"
    path.write_bytes("\n".join(lines).encode("utf-8", "replace") + b"\n")
    settings = BuildImagesSettings(input=(str(path),), output=tmp_path / "none", rows_per_shard=2)
    try:
        plans = list(iter_shards(settings))
    except LposekitError:
        return
    assert sum(len(plan.rows) for plan in plans) == len(lines)
    assert np.all([row.row.caption.encode() is not None for plan in plans for row in plan.rows])
