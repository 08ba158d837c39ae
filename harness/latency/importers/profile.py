"""Our own profile: gzipped JSON lines written by `python -m kernels.profile` (docs/kernels.md, "The file")."""

from __future__ import annotations

import importlib.util
from collections import Counter
from pathlib import Path
from typing import Any

import pandas as pd

from harness.errors import InputError
from harness.latency import specs
from harness.latency.rows import OPS, KernelRows, checked

SUFFIX = ".jsonl.gz"
IMPL = "triton"
"""The rows of our own kernels under CUDA graphs; peers and correctness checks are not fitted."""


def committed() -> dict[str, Path]:
    """Profiles that came with the package, by name: the file's name without its suffix."""
    package = importlib.util.find_spec("kernels")
    places = list(package.submodule_search_locations or ()) if package else []
    files = [p for place in places for p in (Path(place) / "profiles").glob(f"*{SUFFIX}")]
    return {path.name.removesuffix(SUFFIX): path for path in sorted(files)}


def read(path: Path) -> KernelRows:
    """The kernels of a profile file. Raises InputError where it cannot be read or has no device row."""
    from kernels.profiling.rows import read as read_rows

    try:
        found = read_rows(path)
    except (OSError, EOFError, ValueError) as reason:
        raise InputError(f"{str(path)!r} is not a kernel profile: {reason}") from reason
    devices = [r for r in found if r.op == "device"]
    if not devices:
        raise InputError(f"kernel profile {str(path)!r} has no row of the device's measured ceilings")
    timed: dict[str, list[dict[str, Any]]] = {}
    left: Counter[str] = Counter()
    for row in found:
        why = _why_not(row)
        if why:
            left[why] += 1
        elif row.op != "device":
            timed.setdefault(row.op, []).append({**row.shape, "us": row.median_us})
    return _assemble(path, devices[-1], timed, dict(left))


def _why_not(row: Any) -> str:
    """Why a row is not fitted; empty if it is."""
    if row.op == "device" or row.impl != IMPL:
        return "" if row.op == "device" else f"impl {row.impl}"
    if row.status != "ok" or row.median_us is None:
        return f"status {row.status}"
    if row.op not in OPS:
        return f"op {row.op} (no part of a serving step)"
    return "tree attention (a chain drafter is modelled)" if row.shape.get("tree") else ""


def _assemble(
    path: Path, device: Any, timed: dict[str, list[dict[str, Any]]], left: dict[str, int]
) -> KernelRows:
    gpu = specs.gpu_of_device(device.device)
    try:
        copy, reading = (float(device.extra[k]) for k in ("copy_gb_per_s", "read_gb_per_s"))
        flops_s = float(device.extra["tflops"]) * 1e12
    except (KeyError, TypeError, ValueError) as reason:
        raise InputError(f"{str(path)!r}: the device row lacks a measured ceiling: {reason}") from reason
    frames = {op: pd.DataFrame(rows) for op, rows in timed.items()}
    skewed = None
    if "attention" in frames and "skew" in frames["attention"]:
        uneven = frames["attention"]["skew"] > 1
        skewed = frames["attention"][uneven].reset_index(drop=True) if uneven.any() else None
        frames["attention"] = frames["attention"][~uneven]
    tables = {op: checked(op, f, str(path)) for op, f in frames.items() if len(f)}
    if "attention" not in tables or "gemm" not in tables:
        raise InputError(f"kernel profile {str(path)!r} has no usable rows of attention or of gemm")
    return KernelRows(
        name=path.name.removesuffix(SUFFIX),
        source=f"measured: {path.name} ({device.versions}; commit {device.commit[:12]})",
        device=device.device,
        gpu=gpu,
        bytes_s=max(copy, reading) * 1e9,
        flops_s=flops_s,
        tables=tables,
        skewed=skewed,
        ceilings_measured=True,
        launches_included=True,
        left_out=left,
    )
