"""Networks that were exported once and are kept beside the weights: an actor that finds one needs no torch.

`CACHE/WEIGHTS.sha256.openvino-VERSION.KEY/` holds `network.xml`, `network.bin` and `export.json`. KEY stands for all
else that decides the numbers: the entry, our code, the versions of torch and OpenMMLab, and the kind of CPU that the
network was checked on. A folder that is there is complete and was checked; one that was damaged since is made anew.
"""

from __future__ import annotations

import contextlib
import glob
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from lposekit.errors import LposekitError
from lposekit.json_values import JsonObject, read_json_object
from lposekit.pose.backend import ENGINE, backend_version, cpu_kind
from lposekit.pose.download import download
from lposekit.pose.openvino_core import core
from lposekit.pose.weights import cache_folder, checked_sha256, find_weights
from lposekit.pose.zoo import DetectorEntry, PoseEntry
from lposekit.store import LocalStore
from lposekit.store_reads import read_whole
from lposekit.versions import installed_versions

logger = logging.getLogger(__name__)
MAX_NETWORK_BYTES = 2**31
MAX_FACTS_BYTES = 2**20
_CODE = ("models", "tensor_parts", "fuse", "unshuffle", "export_openvino", "openmmlab", "zoo")
"""Our modules that decide what is exported."""
_PACKAGES = ("torch", "mmpose", "mmdet", "onedl-mmengine", "mmengine", "mmcv", "mmcv-lite")
_FILES = ("network.xml", "network.bin")


@dataclass(frozen=True)
class Exported:
    """A network on disk, read. `facts`: what its pre- and post-processing needs to know; `sha256`: of the weights."""

    xml: bytes
    weights: bytes
    facts: JsonObject
    sha256: str

    def model(self) -> Any:
        """It as an `openvino.Model`."""
        import numpy as np
        import openvino

        weights = openvino.Tensor(np.frombuffer(self.weights, np.uint8).copy())
        return core().read_model(self.xml, weights)


def exported(entry: DetectorEntry | PoseEntry, weights_dir: Path | None) -> Exported:
    """The network of an entry: exported and checked here and now, if that has not been done.

    Raises:
        WeightsError: its weights cannot be had. LposekitError: it cannot be exported, or computes other numbers.
    """
    path = find_weights(entry.weights, weights_dir) or download(entry.weights, weights_dir)
    sha256 = checked_sha256(path, entry.weights)
    folder = export_folder(entry, path, sha256)
    found = _read(folder, sha256)
    if found is None:
        with _locked(folder):
            found = _read(folder, sha256)  # another process may have been first
            if found is None:
                _export(entry, weights_dir, folder)
                found = _read(folder, sha256)
    if found is None:
        raise LposekitError(f"{folder}: cannot be read back. Look at the disk, or give --pose.backend torch.")
    return found


def export_folder(entry: DetectorEntry | PoseEntry, weights: Path, sha256: str) -> Path:
    """Where the network of an entry is kept, made from these weights, on this machine."""
    code = [(resources.files("lposekit.pose") / f"{name}.py").read_bytes() for name in _CODE]
    decides = [repr(entry), cpu_kind(), *sorted(installed_versions(_PACKAGES).items())]
    key = hashlib.sha256(b"\0".join([*code, repr(decides).encode()])).hexdigest()[:16]
    return cache_folder() / f"{weights.stem}.{sha256[:16]}.{ENGINE}-{backend_version(ENGINE)}.{key}"


def _read(folder: Path, sha256: str) -> Exported | None:
    """What is in a folder; None if there is none, or if it is damaged."""
    store = LocalStore(folder)
    try:
        stated = read_json_object(store, "export.json", MAX_FACTS_BYTES)
        xml, weights = (read_whole(store, name, MAX_NETWORK_BYTES) for name in _FILES)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        logger.warning("%s: damaged (%s), exported anew", folder, error)
        return None
    if stated.get("sha256") != _digest(xml, weights) or not isinstance(facts := stated.get("facts"), dict):
        logger.warning("%s: damaged, exported anew", folder)
        return None
    return Exported(xml, weights, facts, sha256)


def _digest(*contents: bytes) -> str:
    return hashlib.sha256(b"".join(contents)).hexdigest()


def _export(entry: DetectorEntry | PoseEntry, weights_dir: Path | None, folder: Path) -> None:
    from lposekit.pose.export_openvino import export

    for left in folder.parent.glob(f"{glob.escape(folder.name)}.*.partial"):  # of exports that were killed
        shutil.rmtree(left, ignore_errors=True)
    partial = folder.with_name(f"{folder.name}.{os.getpid()}.partial")
    try:
        partial.mkdir()
        facts = export(entry, weights_dir, partial / _FILES[0])
        stated = {"facts": facts, "sha256": _digest(*((partial / name).read_bytes() for name in _FILES))}
        (partial / "export.json").write_text(json.dumps(stated), encoding="utf-8")
        shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)
    except OSError as error:
        raise _cannot_keep(folder, error) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One process at a time exports the network of a folder."""
    from filelock import FileLock

    lock = FileLock(folder.with_name(folder.name + ".lock"))
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except OSError as error:
        raise _cannot_keep(folder, error) from error
    try:
        yield
    finally:
        lock.release()


def _cannot_keep(folder: Path, error: OSError) -> LposekitError:
    return LposekitError(
        f"cannot keep the exported network in {folder.parent} ({error}). Make room or give it rights, name another "
        "cache with XDG_CACHE_HOME, or give --pose.backend torch."
    )
