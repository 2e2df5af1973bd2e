"""What this machine has and lacks for lposekit: one check a line, each with its fix. Nothing is changed or fetched."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import re
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Literal

from lposekit.sandbox.trial import refused_to_a_child

State = Literal["ok", "note", "bad"]

# What each command cannot work without.
PARTS = {
    "build-laion-pose": ("ray", "img2dataset", "torch", "mmpose", "mmdet", "scikit-image"),
    "build-video-shards": ("ray", "decord2", "av", "scenedetect-headless"),
    "train": ("torch", "diffusers", "transformers", "safetensors", "av", "einops"),
    "sample": ("torch", "diffusers", "transformers", "safetensors", "av", "einops", "pillow"),
}
# The maintained mmengine goes by another name, but imports under the old one.
SAME_PACKAGE = {"onedl-mmengine": "mmengine", "mmcv-lite": "mmcv"}
GIB = 2**30
MIN_DISK_BYTES = 20 * GIB
MIN_MEMORY_BYTES = 8 * GIB
MIN_OPEN_FILES = 4096
MIN_SHARED_MEMORY_BYTES = 2 * GIB


@dataclass(frozen=True, slots=True)
class Check:
    """One thing looked at. `bad` stops some command from working, `note` is worth knowing."""

    name: str
    state: State
    found: str
    fix: str = ""

    def line(self) -> str:
        return f"{self.state:4} {self.name}: {self.found}" + (f" -> {self.fix}" if self.fix else "")


def examine(folder: Path, weights_dir: Path | None = None) -> list[Check]:
    """All checks; `folder` is where a dataset would be written."""
    pins = read_pins(pins_path())
    return [
        check_python(sys.version_info[:3]),
        *check_packages(pins, _installed),
        check_mmcv(),
        check_gpu(),
        check_backend(),
        *check_weights(weights_dir),
        check_ray(os.environ, Path.home()),
        check_disk(folder),
        check_memory(),
        check_open_files(),
        check_shared_memory(Path("/dev/shm")),
        check_sandbox(refused_to_a_child()),
    ]


def pins_path() -> Path:
    return Path(str(resources.files("lposekit"))) / "pins.txt"


def install_command() -> str:
    """The command that makes the pinned set complete. torch comes first and alone: on a GPU machine it brings CUDA."""
    python = Path(sys.executable).name
    rest = f"{python} -m pip install --only-binary=:all: --no-deps -r {pins_path()}"
    if _installed("torch") is not None:
        return rest
    version = read_pins(pins_path()).get("torch")
    return f"{python} -m pip install torch{f'=={version}' if version else ''} && {rest}"


def check_python(version: tuple[int, int, int]) -> Check:
    found = ".".join(map(str, version))
    if version < (3, 11):
        return Check("python", "bad", found, "use Python 3.11 or 3.12: numpy 2.4, diffusers and others need 3.11")
    if version >= (3, 13):
        return Check("python", "bad", found, "use Python 3.11 or 3.12: img2dataset 1.47 fails to import on 3.13")
    return Check("python", "ok", f"{found} on {platform.machine()}")


def read_pins(path: Path) -> dict[str, str]:
    """`name==version` lines of the pins, by name."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    pairs = (line.split("#")[0].strip().split("==") for line in lines)
    return {pair[0]: pair[1] for pair in pairs if len(pair) == 2}


def _installed(name: str) -> str | None:
    for each in (name, SAME_PACKAGE.get(name)):
        if each is None:
            continue
        try:
            return importlib.metadata.version(each)
        except importlib.metadata.PackageNotFoundError:
            continue
    return None


def check_packages(pins: Mapping[str, str], version_of: Callable[[str], str | None]) -> Iterator[Check]:
    """The pinned set as a whole, then what each command misses."""
    versions = {name: version_of(name) for name in pins}
    # A local label says how a wheel was built: 2.13.0+cpu is 2.13.0.
    other = [
        f"{name} {found} (pinned {pins[name]})"
        for name, found in versions.items()
        if found is not None and found.partition("+")[0] != pins[name]
    ]
    missing = [name for name, found in versions.items() if found is None]
    fitting = len(pins) - len(other) - len(missing)
    notes = _listed("other versions", other) + _listed("missing", missing)
    fix = install_command() if notes else ""
    yield Check("packages", "note" if notes else "ok", f"{fitting} of {len(pins)} as pinned{notes}", fix)
    for command, needed in PARTS.items():
        lacking = [name for name in needed if version_of(name) is None]
        if lacking:
            yield Check(command, "bad", f"missing {', '.join(lacking)}", install_command())


def _listed(title: str, names: list[str]) -> str:
    rest = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return f"; {title}: {', '.join(names[:5])}{rest}" if names else ""


def check_mmcv() -> Check:
    spec = importlib.util.find_spec("mmcv")
    if spec is None or spec.origin is None:
        return Check("mmcv", "bad", "missing", install_command())
    compiled = sorted(Path(spec.origin).parent.glob("_ext*"))
    if compiled:
        return Check("mmcv", "ok", f"compiled operators ({compiled[0].name})")
    return Check("mmcv", "ok", "no compiled operators: lposekit's own stand-in takes their place, with the same boxes")


def check_gpu() -> Check:
    if importlib.util.find_spec("torch") is None:
        return Check("gpu", "bad", "torch is missing", install_command())
    import torch

    if torch.cuda.is_available():
        names = ", ".join(torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count()))
        return Check("gpu", "ok", f"{names}; torch {torch.__version__}, CUDA {torch.version.cuda}")
    if shutil.which("nvidia-smi") and torch.version.cuda is None:
        fix = "install torch with its own dependencies: `pip install --force-reinstall torch`"
        return Check("gpu", "bad", f"this machine has an NVIDIA driver, but torch {torch.__version__} has no CUDA", fix)
    return Check("gpu", "note", f"none; torch {torch.__version__} runs on {os.cpu_count()} CPU cores")


def check_backend() -> Check:
    """What runs the pose models where there is no GPU."""
    from lposekit.pose.backend import ENGINE, backend_version

    found = backend_version(ENGINE)
    if found is None:
        return Check("pose backend", "note", f"torch: {ENGINE}, faster on a CPU, is missing", install_command())
    return Check("pose backend", "ok", f"on a CPU {ENGINE} {found}, in folders begun with torch torch")


def check_weights(weights_dir: Path | None) -> Iterator[Check]:
    """One line for each model of the zoo: where its weights lie, or where they would come from."""
    from lposekit.pose.at_hand import model_states

    for model in model_states(weights_dir):
        name, weights = f"weights {model.entry.name}", model.entry.weights
        if model.state == "here":
            yield Check(name, "ok", f"{model.path}, checked by {model.checked_by}")
        elif model.state == "damaged":
            yield Check(name, "bad", model.problem or "damaged")
        elif weights.url:
            fix = f"`lposekit weights --fetch {model.entry.name}`; a build does it, too"
            yield Check(name, "note", f"not here; published at {weights.url}", fix)
        else:
            fix = f"put {weights.file} into a folder, name it with LPOSEKIT_WEIGHTS; or use another model"
            yield Check(name, "note", "not here, and nobody serves them for download", fix)


def check_ray(environ: Mapping[str, str], home: Path) -> Check:
    """Ray, and its tokens: from 2.60 on `ray start` asks every client for one."""
    version = _installed("ray")
    if version is None:
        return Check("ray", "bad", "missing", install_command())
    token = environ.get("RAY_AUTH_TOKEN") or environ.get("RAY_AUTH_TOKEN_PATH")
    if token or (home / ".ray" / "auth_token").is_file():
        return Check("ray", "ok", f"{version}; a token for clusters is set")
    return Check(
        "ray",
        "note",
        f"{version}; a local run needs nothing. A cluster made by `ray start` asks for a token, and none is set here",
        "for --ray-address: `ray get-auth-token --generate` on the head node, then its ~/.ray/auth_token (or "
        "RAY_AUTH_TOKEN) on every node and client. Do not switch it off: whoever reaches the port could run code",
    )


def check_disk(folder: Path) -> Check:
    existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(existing).free
    found = f"{free / GIB:.0f} GiB free in {existing}"
    if free < MIN_DISK_BYTES:
        return Check("disk", "note", found, "220,000 samples take about 30 GiB; name a larger place with --output")
    return Check("disk", "ok", found)


def check_memory() -> Check:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = _container_limit(Path("/sys/fs/cgroup/memory.max"))
    usable = min(total, limit or total)
    found = f"{usable / GIB:.0f} GiB" + (" (limit of this container)" if usable < total else "")
    if usable < MIN_MEMORY_BYTES:
        return Check("memory", "note", found, "use fewer --workers: each takes about 1 GiB, a pose model another")
    return Check("memory", "ok", found)


def _container_limit(path: Path) -> int | None:
    text = path.read_text(encoding="ascii").strip() if path.is_file() else ""
    return int(text) if re.fullmatch(r"\d+", text) else None


def check_open_files() -> Check:
    import resource

    limit, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit == resource.RLIM_INFINITY or limit >= MIN_OPEN_FILES:
        return Check("open files", "ok", f"up to {limit}")
    fix = f"`ulimit -n {min(hard, 65536) if hard > 0 else 65536}` before a run: workers hold many connections"
    return Check("open files", "note", f"only {limit} at a time", fix)


def check_shared_memory(path: Path) -> Check:
    if not path.is_dir():
        return Check("shared memory", "note", f"no {path}: Ray uses /tmp and is slower")
    size = shutil.disk_usage(path).total
    if size < MIN_SHARED_MEMORY_BYTES:
        fix = "in a container, `--shm-size=4g`: Ray and the trainer's loaders pass images through it"
        return Check("shared memory", "note", f"{size / GIB:.2f} GiB in {path}", fix)
    return Check("shared memory", "ok", f"{size / GIB:.1f} GiB in {path}")


def check_sandbox(refused: Mapping[str, bool]) -> Check:
    """What the child that decodes the bytes of strangers is refused, found by trial; empty: no child started."""
    if not refused:
        fix = "it takes 0.5 GiB of memory, a process and /proc: give this shell or container more of what it lacks"
        return Check("sandbox", "bad", "the child that decodes images and videos does not start", fix)
    lacking = [name for name, is_refused in refused.items() if not is_refused]
    if not lacking:
        return Check("sandbox", "ok", "decoders have no network, start no programs, and open named files only")
    fix = (
        "network and programs need seccomp, files need Landlock (Linux 5.13 or later); a container's profile "
        "may hide either. Without them, run builds as a user that owns nothing else"
    )
    return Check("sandbox", "note", f"decoders are limited in memory and time, but may use: {', '.join(lacking)}", fix)
