"""Which GPUs this process would see, asked without touching them: a CUDA context would hold memory that the
server wants."""

from __future__ import annotations

import importlib.util
import math
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

DRIVERS = ("/dev/nvidiactl", "/dev/kfd")
"""Device files of the NVIDIA and AMD drivers: without one of them there is nothing to ask torch about."""

_TORCH = (
    "import torch\n"
    "for i in range(torch.cuda.device_count()):\n"
    "    d = torch.cuda.get_device_properties(i)\n"
    "    print(i, '', d.name, d.total_memory / 2**20, sep=', ')"
)


@dataclass(frozen=True, slots=True)
class Gpu:
    """One visible GPU."""

    name: str
    gib: float
    """Its memory; infinite where nothing says how much."""


def gpus() -> tuple[Gpu, ...]:
    """By the driver's own tool, or else by torch in a process of its own; empty without a GPU."""
    tool = shutil.which("nvidia-smi")
    if tool:
        asked = [tool, "--query-gpu=index,uuid,name,memory.total", "--format=csv,noheader,nounits"]
        return _visible(_rows(asked))
    if any(Path(file).exists() for file in DRIVERS) and importlib.util.find_spec("torch"):
        return tuple(_gpu(row) for row in _rows([sys.executable, "-c", _TORCH]))  # torch hides what is hidden
    return ()


def _rows(command: list[str]) -> list[list[str]]:
    """(index, uuid, name, MiB) per line of what `command` prints; none when it fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    rows = [[field.strip() for field in line.split(",")] for line in done.stdout.splitlines()]
    return [row for row in rows if len(row) == 4]


def _visible(rows: list[list[str]]) -> tuple[Gpu, ...]:
    """What CUDA_VISIBLE_DEVICES leaves of them, as CUDA reads it: up to the first entry that is none."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is None:
        return tuple(map(_gpu, rows))
    found = []
    for entry in (part.strip() for part in chosen.split(",")):
        if rows and entry.startswith("MIG-"):
            found.append(Gpu("MIG slice", math.inf))
            continue
        row = next((r for r in rows if r[0] == entry or (entry and r[1].startswith(entry))), None)
        if row is None:
            break
        found.append(_gpu(row))
    return tuple(found)


def _gpu(row: list[str]) -> Gpu:
    try:
        return Gpu(row[2], float(row[3]) / 1024)
    except ValueError:  # memory shared with the host has no figure of its own
        return Gpu(row[2], math.inf)
