"""Contract of training from an object store: the samples, their order and the losses are those of the same dataset on a
disk, also where the server fails now and then."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.s3_server import S3Server, missing, s3_server
from tests.support.train_data import write_dataset
from tests.support.train_runs import keys, losses, settings_for, train_in_child
from trainer.settings import LoaderSettings

pytestmark = pytest.mark.skipif(bool(missing()), reason=f"not installed: {', '.join(missing())}")


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with s3_server() as running:
        yield running


@pytest.mark.parametrize(
    ("stage", "kind", "workers"), [(1, "image", 2), pytest.param(2, "video", 0, marks=pytest.mark.more)]
)
def test_training_from_a_server_is_training_from_a_disk(
    server: S3Server, tmp_path: Path, stage: int, kind: str, workers: int
) -> None:
    # Mutation tried: the second half of what is fetched lost -> the run ends with an error. Green without our own
    # retries: s3fs makes some too, so ours are proven in tests/lposekit/remote.
    data = write_dataset(tmp_path / "data", [6, 0, 5], kind)
    url, loader = server.put(data, f"train-{kind}"), LoaderSettings(workers=workers, block_samples=4)
    runs = {"disk": (data, 0.0), "server": (Path(url), 0.0), "failing server": (Path(url), 0.05)}
    seen = {}
    for name, (root, rate) in runs.items():
        server.requests()
        server.fail(max(rate, 0.2) if rate else 0.0)  # few requests, so more of them than the promise speaks of
        environment = server.environment() | {"LPOSEKIT_REMOTE_CACHE": str(tmp_path / f"cache of {name}")}
        result = train_in_child(settings_for(stage, tmp_path / name, data=(root,), loader=loader), environment)
        server.fail(0)
        asked = server.requests()
        assert result.exit_code == 0, result.message
        assert any(re.search(r"GET .*\d{5}\.tar", request) for request in asked) == (name != "disk")
        assert any(request.startswith("failed") for request in asked) == (rate > 0)
        seen[name] = keys(tmp_path / name), losses(tmp_path / name)
    assert seen["disk"] == seen["server"] == seen["failing server"]
    assert len(seen["disk"][1]) == 8
