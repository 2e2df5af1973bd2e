"""Contract of the quickstart's sample: real photos out of the installed scikit-image, each row with the outcome that it
really has; a server that misbehaves as the list says, on this machine only; the same list in every run."""

from __future__ import annotations

import http.client
import json
import socket
import struct
import time
import urllib.error
import urllib.request
from collections import Counter
from pathlib import Path

import pytest

from lposekit.errors import Outcome, Rejected
from lposekit.keypoints import KEYPOINT_FORMATS, KeepRule, keep_verdict
from lposekit.settings import merge, preset_path, read_toml, table_layer
from pipelines.image.decode import decode_image
from pipelines.image.plan import iter_shards
from pipelines.image.settings import BuildImagesSettings
from pipelines.quickstart.photos import (
    SampleRow,
    data_folder,
    photo_bytes,
    sample_rows,
    unexpected_outcomes,
)
from pipelines.quickstart.server import PORTS, serve, served_list
from tests.support.fixtures import fixture_path

TIMEOUT_S = 10.0


def quickstart() -> BuildImagesSettings:
    table = read_toml(preset_path("quickstart"), ["build-laion-pose", "build-video-shards", "train", *STAGES])
    return merge(BuildImagesSettings, [table_layer(BuildImagesSettings, table["build-laion-pose"], "preset")])


STAGES = ("train-stage-1", "train-stage-2")
PHOTO_ROWS = [row for row in sample_rows() if row.photo]


def test_sample_has_about_forty_rows_and_enough_kept_ones_in_every_shard() -> None:
    rows = sample_rows()
    assert 36 <= len(rows) <= 48
    for start in range(0, len(rows), quickstart().rows_per_shard):
        shard = rows[start : start + quickstart().rows_per_shard]
        assert sum(row.expected is Outcome.KEPT for row in shard) >= 4
    assert sum(row.expected is Outcome.KEPT for row in rows) >= 10
    assert len({row.expected for row in rows}) >= 15


def test_photos_come_from_the_wheel_and_carry_caption_and_licence() -> None:
    for row in PHOTO_ROWS:
        assert row.photo is not None
        assert (data_folder() / row.photo.file).is_file()
        assert row.licence in ("public domain", "CC0", "no known copyright restrictions")
    assert all(row.caption.isascii() and len(row.caption) > 10 for row in sample_rows())


def test_photos_are_the_same_bytes_in_every_process() -> None:
    import subprocess
    import sys

    script = (
        "import hashlib; from pipelines.quickstart.photos import sample_rows, photo_bytes;"
        "print([hashlib.sha256(photo_bytes(r.photo)).hexdigest() for r in sample_rows()[:8] if r.photo])"
    )
    runs = {
        subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60).stdout
        for _ in range(2)
    }
    assert len(runs) == 1


def test_models_of_the_preset_end_every_photo_as_listed() -> None:
    # Mutation tried: listing the head crop as kept, or the coffee as few_keypoints, turns this red.
    from lposekit.pose.estimator import PoseEstimator

    settings = quickstart()
    weights = fixture_path("weights")
    estimator = PoseEstimator.load(settings.detector, settings.pose_model, weights_dir=weights, threads=1)
    rule = KeepRule(keypoint_score_threshold=estimator.keypoint_score_threshold)
    layout = KEYPOINT_FORMATS[estimator.keypoint_format]
    wrong = []
    for row in PHOTO_ROWS:
        if row.expected in (Outcome.METADATA_FILTER, Outcome.HASH_MISMATCH):
            continue
        found = seen(row, estimator, rule, layout, settings)
        if found is not row.expected:
            wrong.append((row.url, found))
    assert wrong == []


def seen(row: SampleRow, estimator: object, rule: KeepRule, layout: object, settings: BuildImagesSettings) -> Outcome:
    assert row.photo is not None
    try:
        image = decode_image(photo_bytes(row.photo), settings.image)
    except Rejected as rejected:
        return rejected.outcome
    [persons] = estimator.estimate([image.rgb_HWC])  # type: ignore[attr-defined]
    return keep_verdict(persons, image.width, image.height, rule, layout)  # type: ignore[arg-type]


def test_unsafe_row_is_above_the_limit_of_the_preset_and_the_others_below() -> None:
    limit = quickstart().filter.max_punsafe
    assert limit is not None
    assert [row.expected for row in sample_rows() if row.punsafe > limit] == [Outcome.METADATA_FILTER]


def get(url: str) -> tuple[int, bytes, http.client.HTTPMessage]:
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_S) as answer:
            return answer.status, answer.read(), answer.headers
    except urllib.error.HTTPError as error:
        return error.code, error.read(), error.headers


def test_server_answers_as_the_rows_expect() -> None:
    with serve() as server:
        assert server.host_and_port.startswith("127.0.0.1:")
        for row in PHOTO_ROWS[:3]:
            assert row.photo is not None
            assert get(f"{server.base_url}{row.url}")[:2] == (200, photo_bytes(row.photo))
        assert get(f"{server.base_url}/missing/404.jpg")[0] == 404
        assert get(f"{server.base_url}/busy.jpg")[0] == 503
        assert get(f"{server.base_url}/loop.jpg")[0] == 302
        assert b"Disallow: /private/" in get(f"{server.base_url}/robots.txt")[1]
        assert "noai" in get(f"{server.base_url}/opt-out/camera.jpg")[2]["X-Robots-Tag"]
        assert get(f"{server.base_url}/moved/camera-flip.jpg")[0] == 200
        with pytest.raises(http.client.IncompleteRead):
            get(f"{server.base_url}/cut-off.jpg")
        with pytest.raises(Rejected) as caught:
            decode_image(get(f"{server.base_url}/truncated/astronaut.jpg")[1], quickstart().image)
        assert caught.value.outcome is Outcome.CORRUPT


def test_server_stops_with_its_context_even_while_an_answer_hangs() -> None:
    with serve() as server:
        connection = http.client.HTTPConnection(server.host_and_port, timeout=TIMEOUT_S)
        connection.request("GET", "/silent.jpg")
        assert connection.getresponse().status == 200
    with pytest.raises(OSError):  # noqa: PT011 (refused or reset, as the system likes)
        get(f"{server.base_url}/robots.txt")
    connection.close()


def test_two_runs_at_once_have_servers_of_their_own_on_known_ports() -> None:
    with serve() as first, serve() as second:
        assert first.host_and_port != second.host_and_port
        ports = {int(server.host_and_port.rpartition(":")[2]) for server in (first, second)}
        assert ports <= set(PORTS), "a later run finds the same address, so its rows can be fetched again"


def test_list_is_read_back_by_the_plan_row_by_row() -> None:
    with served_list() as (path, host_and_port):
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        settings = BuildImagesSettings(input=(str(path),), rows_per_shard=16)
        planned = [row for shard in iter_shards(settings) for row in shard.rows]
    assert [p.row.caption for p in planned] == [row.caption for row in sample_rows()]
    assert [p.row.url for p in planned] == [line["url"] for line in lines]
    hosts = Counter(str(p.row.url).split("/")[2] for p in planned if p.row.url)
    assert hosts.most_common(1)[0][0] == host_and_port
    assert not Path(path).exists(), "the list goes with its server"


def test_unexpected_outcome_is_named() -> None:
    listed = [str(row.expected) for row in sample_rows()]
    assert unexpected_outcomes(listed) == []
    [line] = unexpected_outcomes(["no_person", *listed[1:]])
    assert line.startswith("row 0 (/photos/camera.jpg): no_person, expected kept")


@pytest.mark.case(89)
def test_a_client_that_goes_away_leaves_no_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    # Mutation tried: without `handle_error`, the ConnectionResetError of the handler's thread on the terminal.
    with serve() as server:
        host, _, port = server.host_and_port.partition(":")
        for _ in range(3):
            client = socket.create_connection((host, int(port)))
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # close with a reset
            client.sendall(b"GET /photos/camera.jpg HTTP/1.1\r\nHost: here\r\n\r\nGET ")
            client.recv(1)
            client.close()
        time.sleep(0.3)
    assert capsys.readouterr().err == ""
