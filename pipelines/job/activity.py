"""What each shard in work is at, told by its worker in a small file, and read by the driver: `Activity`.

A file, and no question to the worker: a worker that stands still does not answer, a Ray that is half dead carries no
answer, and the folder is there for both. It is written anew, at most every `EVERY_S`, while something moves.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import threading
from collections.abc import Iterator, Sized
from dataclasses import dataclass
from pathlib import Path

from lposekit.json_values import COUNT, NUMBER, TEXT, JsonFields, JsonObject, object_of, read_json_object, strict_json
from lposekit.records import shard_name
from lposekit.shards.layout import DatasetLayout
from lposekit.stage_times import StageTimes
from pipelines.job.attempt import Attempt

EVERY_S = 1.0
MAX_TOLD = 3
"""Stages of one shard that are told, the oldest ones."""
MAX_BYTES = 2**16
_NAME = re.compile(r"activity-(\d{5,18})\.json")


@dataclass(frozen=True, slots=True)
class Activity:
    """What one shard in work was at when its worker last told so.

    `moves`: grows while the work goes on. `rows`: done. `waits`: the oldest stages under way, in words; `more`: further
    ones.
    """

    attempt: str
    host: str
    pid: int
    moves: int
    rows: int
    waits: tuple[tuple[str, float], ...]
    more: int


@contextlib.contextmanager
def told(attempt: Attempt, times: StageTimes, rows: Sized) -> Iterator[None]:
    """While inside, a thread tells what the stages of `times` are at, and how many rows are done."""
    path = attempt.layout.work / attempt.run_id / f"activity-{shard_name(attempt.shard)}.json"
    done = threading.Event()

    def tell() -> None:
        last = None
        while True:
            moved = times.moves, len(rows), [(stage.name, stage.what) for stage in times.open_stages()]
            if moved != last:
                last = moved
                with contextlib.suppress(OSError):  # a full disk is told by the shard itself
                    _write(path, _described(attempt, times, len(rows)))
            if done.wait(EVERY_S):
                return

    thread = threading.Thread(target=tell, name="activity", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        with contextlib.suppress(OSError):
            path.unlink()


def _described(attempt: Attempt, times: StageTimes, rows: int) -> JsonObject:
    stages = times.open_stages()
    return {
        "attempt": attempt.name,
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "moves": times.moves,
        "rows": rows,
        "waits": {f"{stage.name} {stage.what}".strip(): round(stage.seconds, 1) for stage in stages[:MAX_TOLD]},
        "more": max(0, len(stages) - MAX_TOLD),
    }


def _write(path: Path, value: JsonObject) -> None:
    """Whole or not at all; not synced, since it outlives nobody."""
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    partial.unlink(missing_ok=True)
    with partial.open("x", encoding="utf-8") as stream:
        stream.write(strict_json(value))
    partial.replace(path)


def read_activities(layout: DatasetLayout, run_id: str) -> dict[int, Activity]:
    """By shard. What cannot be read tells nothing."""
    folder = layout.relative(layout.work / run_id)
    try:
        names = layout.store.list(folder)
    except OSError:
        return {}
    activities = {}
    for name in names:
        if (match := _NAME.fullmatch(name)) is not None:
            with contextlib.suppress(OSError, ValueError):
                activities[int(match[1])] = _parsed(read_json_object(layout.store, f"{folder}/{name}", MAX_BYTES))
    return activities


def _parsed(values: JsonObject) -> Activity:
    """Raises ValueError: it is none."""
    fields = JsonFields(values)
    return Activity(
        fields.need("attempt", TEXT),
        fields.need("host", TEXT),
        fields.need("pid", COUNT),
        fields.need("moves", COUNT),
        fields.need("rows", COUNT),
        tuple(fields.need("waits", object_of(NUMBER)).items()),
        fields.need("more", COUNT),
    )
