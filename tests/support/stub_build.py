"""Builds over stub images: a server, a list, settings, and a way to build without Ray, inside the test's process."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipelines.fetch.settings import FetchSettings
from pipelines.image.settings import BuildImagesSettings, ImageSettings, PoseSettings
from tests.support.bad_server import BadServer
from tests.support.pages import Page
from tests.support.stub_images import stub_image


def stub_pages(rows: int, **images: Mapping[int, Any]) -> dict[str, Page]:
    """Pages ``/0.jpg`` to ``/N.jpg``; ``images`` give arguments of `stub_image` by row: ``num_persons={3: 0}``."""
    return {
        f"/{row}.jpg": Page(stub_image(row, **{name: by_row[row] for name, by_row in images.items() if row in by_row}))
        for row in range(rows)
    }


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@contextlib.contextmanager
def served(pages: dict[str, Page], folder: Path, **columns: Sequence[Any]) -> Iterator[tuple[BadServer, Path]]:
    """A server of the pages and a list of them in row order; ``columns`` are further columns of the list."""
    with BadServer(pages=pages) as server:
        names = sorted(pages, key=lambda name: int(name[1:-4]))
        rows = [
            {
                "url": server.url + name,
                "caption": f"row {row}",
                **{column: cells[row] for column, cells in columns.items()},
            }
            for row, name in enumerate(names)
        ]
        yield server, write_rows(folder / "list.jsonl", rows)


def stub_settings(list_path: Path, output: Path, **changes: Any) -> BuildImagesSettings:
    """Settings of a build with the stub model, which may fetch from this machine and decodes in its own process: a
    killable decoder takes a second to start, and gives the same pixels and reasons."""
    settings = BuildImagesSettings(
        input=(str(list_path),),
        output=output,
        rows_per_shard=4,
        workers=2,
        detector="stub",
        pose_model="stub",
        allow_private_addresses=True,
        fetch=FetchSettings(robots=False, threads=4, retries=0),
        image=ImageSettings(decode_processes=0),
        pose=PoseSettings(actors=1, batch_size=4),
    )
    return replace(settings, **changes)
