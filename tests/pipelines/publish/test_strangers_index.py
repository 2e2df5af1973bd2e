"""Contract: an index is checked before it is believed: its keys become names in a tar."""

from __future__ import annotations

import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lposekit.errors import LposekitError
from pipelines.recipes import materialize
from tests.support.bad_server import BadServer
from tests.support.execute_here import execute_here
from tests.support.pushed_index import pushed, settings_of


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
