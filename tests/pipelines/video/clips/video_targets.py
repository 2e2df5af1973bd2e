"""A clip builder that misbehaves on files of certain names, as a native decoder does on certain bytes."""

from __future__ import annotations

import ctypes
import json
import math
import os
import resource
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.video.clips.build import build_clips_payload


def build_or_misbehave(payload: Mapping[str, Any]) -> dict[str, Any]:
    """`build_clips_payload`, but for files named after what they do."""
    name = Path(payload["path"]).stem
    if name in ("hang", "crash", "greedy", "killed"):
        (Path(payload["out_dir"]) / "window-0.mp4").write_bytes(b"half a clip")
    if name == "hang":
        ctypes.PyDLL(None).sleep(1000)  # PyDLL keeps the GIL, as decord does when it hangs
    elif name == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    elif name == "killed-once" and not (marker := Path(payload["path"]).with_suffix(".killed")).exists():
        (Path(payload["out_dir"]) / "window-9.mp4").write_bytes(b"half a clip")
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    elif name == "killed":
        os.kill(os.getpid(), signal.SIGKILL)  # as others do
    elif name == "greedy":
        return {"sum": int(np.ones(8 * 2**30, np.uint8).sum())}
    elif name == "timeless":
        answer = json.loads(build_clips_payload(payload)["json"])
        return {"json": json.dumps({**answer, "timings_s": {"decode": math.nan}}).encode()}
    elif name == "full":
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (5000, before[1]))
        try:
            return build_clips_payload(payload)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
    return build_clips_payload(payload)


def spy(payload: Mapping[str, Any]) -> dict[str, list[str]]:
    """The names of the files that can be opened, of {name: path}."""
    opened = []
    for name, path in payload.items():
        try:
            Path(str(path)).read_bytes()
            opened.append(name)
        except OSError:
            continue
    return {"opened": opened}
