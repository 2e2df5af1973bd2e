"""What an experiment ran on, to be kept beside its figures."""

from __future__ import annotations

import datetime
import os
import platform
import re
from pathlib import Path

import torch

from lposekit.json_values import JsonObject
from lposekit.versions import card_versions
from trainer.run.distributed import choose_device


def machine_facts(device: str) -> JsonObject:
    """Processor or GPU, threads, versions and date. `device`: as the settings name it."""
    return {
        "device": torch.cuda.get_device_name() if choose_device(device).type == "cuda" else _cpu(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "versions": card_versions(["torch", "diffusers"]),  # pyright: ignore
        "date": datetime.date.today().isoformat(),
    }


def _cpu() -> str:
    path = Path("/proc/cpuinfo")
    found = re.search(r"^model name\s*:\s*(.+)$", path.read_text(), re.MULTILINE) if path.exists() else None
    return found[1] if found else platform.machine()
