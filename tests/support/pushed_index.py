"""An index of a small dataset of images, its server at hand, and what is asked of both."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import lposekit
from pipelines.fetch.settings import FetchSettings
from pipelines.image.index_settings import MaterializeSettings
from pipelines.publish.push import PushReport, push_dataset
from pipelines.publish.settings import PushSettings

FETCH = FetchSettings(robots=False, threads=4, retries=0)
ROWS = 10


def pushed(dataset: Path, to: Path, **changes: object) -> PushReport:
    """A push of a dataset to a folder."""
    given = {"allow_private_addresses": True, **changes}
    return push_dataset(PushSettings(source=dataset, to=str(to), **given))  # type: ignore[arg-type]


def settings_of(index: Path, output: Path, **changes: object) -> MaterializeSettings:
    """Settings that fetch an index again, here and at once."""
    own = MaterializeSettings(
        index=index, output=output, allow_private_addresses=True, decode_processes=0, workers=1, fetch=FETCH
    )
    return replace(own, **changes)  # type: ignore[arg-type]


def members_of(folder: Path) -> dict[str, dict[str, bytes]]:
    """Key -> members of a dataset's samples."""
    return {sample.key: sample.members for sample in lposekit.open_dataset(folder)}


def tars_of(folder: Path) -> dict[str, bytes]:
    """Name -> bytes of a folder's tars."""
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.tar"))}
