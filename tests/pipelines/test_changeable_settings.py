"""Contract of what may change when a folder is continued: these settings and no others; all others are facts of the
folder, covered by its digest. A name that comes or goes here makes folders of before unusable, or mixes rows of
different settings in one folder: change this list only with a reason in the changelog."""

from __future__ import annotations

import pytest

from lposekit.settings import changeable_settings
from pipelines.image.settings import BuildImagesSettings
from pipelines.video.settings import BuildVideoSettings

BOTH = {
    "input",
    "output",
    "workers",
    "allow_private_addresses",
    "ray_address",
    "min_success",
    "shard_attempts",
    "stall_minutes",
    "worker_memory_bytes",
    "fetch.connect_timeout_s",
    "fetch.idle_timeout_s",
    "fetch.total_timeout_s",
    "fetch.min_bytes_per_s",
    "fetch.host_timeouts",
    "fetch.host_rest_s",
    "fetch.retries",
    "fetch.stored_query",
    "fetch.user_agent",
    "fetch.ca_file",
    "fetch.blocklist",
}
IMAGE = {
    "list_source",
    "weights_dir",
    "network_failure_limit",
    "network_failure_window",
    "fetch.per_host_connections",
    "fetch.threads",
    "image.decode_memory_bytes",
    "image.decode_timeout_s",
    "image.decode_processes",
    "pose.actors",
    "pose.backend",  # the card of the models binds what runs them
    "pose.actors_per_gpu",
    "pose.attempts",
}
VIDEO = {
    "captions",
    "shard_mb",  # decides what a shard holds only without rows_per_shard, and is a fact of its own then
    "video_root",
    "allow_outside_paths",
    "limits.timeout_s",
    "limits.heartbeat_timeout_s",
    "limits.memory_bytes",
}


@pytest.mark.parametrize(
    ("settings_class", "names"), [(BuildImagesSettings, BOTH | IMAGE), (BuildVideoSettings, BOTH | VIDEO)]
)
def test_these_settings_may_change_and_no_others(settings_class: type, names: set[str]) -> None:
    # Mutations tried: the mark of fetch.retries taken away; fetch.max_redirects marked as well.
    assert changeable_settings(settings_class) == names
