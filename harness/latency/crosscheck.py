"""Two sources of kernel times held against each other, operation by operation, on the shapes both have.

The second may be `roofline:<gpu>`: the analytic roofline at the first one's shapes. Ratios are first over
second: above 1 the first is slower.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from harness.errors import InputError
from harness.latency import importers, specs
from harness.latency.importers import profile
from harness.latency.kernels import analytic_us
from harness.latency.rows import OPS, KernelRows, columns_of

ROOFLINE = "roofline:"
LARGE_US = 20.0
"""Ratios are also given for shapes that take at least this: launch and ramp no longer dominate."""


@dataclass(frozen=True, slots=True)
class Ratio:
    """Quantiles of one operation's ratio of times, first over second."""

    op: str
    q10: float
    median: float
    q90: float
    shapes: int
    large_median: float | None
    """Over shapes of at least `LARGE_US` in the first; None without any."""
    large_shapes: int


@dataclass(frozen=True, slots=True)
class Check:
    """One pair of sources."""

    first: str
    second: str
    ratios: list[Ratio]


def cross_check(first: str, second: str) -> list[Check]:
    """Every pair of a GPU in `first` and one in `second` (files, folders, profile names, `roofline:<gpu>`).

    Raises InputError where a name is unknown, the first is a roofline, or no shape coincides.
    """
    if first.startswith(ROOFLINE):
        raise InputError(f"{first!r} has no shapes of its own; name it second")
    ours = sources(first)
    if second.startswith(ROOFLINE):
        gpu = second.removeprefix(ROOFLINE).split(":")[0]
        found = [Check(a.name, f"{ROOFLINE}{gpu}", _analytic(a, specs.gpu(gpu))) for a in ours]
    else:
        found = [Check(a.name, b.name, _common(a, b)) for a in ours for b in sources(second)]
    found = [check for check in found if check.ratios]
    if not found:
        raise InputError(f"{first!r} and {second!r} have no shape in common, so nothing can be compared")
    return found


def sources(name: str) -> list[KernelRows]:
    """The rows of a file or folder, or of a profile that came with the package."""
    return importers.sources(profile.committed().get(name, Path(name)))


def _analytic(rows: KernelRows, gpu: specs.Gpu) -> list[Ratio]:
    found = []
    for op, frame in rows.tables.items():
        if OPS[op].cost is not None:
            analytic = analytic_us(op, columns_of(frame, op), gpu.bytes_s, gpu.flops_s)
            found.append(_ratio(op, frame["us"].to_numpy(float), analytic))
    return found


def _common(a: KernelRows, b: KernelRows) -> list[Ratio]:
    found = []
    for op in a.tables:
        if op not in b.tables:
            continue
        both = a.tables[op].merge(b.tables[op], on=list(OPS[op].columns), suffixes=("", "_other"))
        if len(both):
            found.append(_ratio(op, both["us"].to_numpy(float), both["us_other"].to_numpy(float)))
    return found


def _ratio(op: str, first: np.ndarray, second: np.ndarray) -> Ratio:
    ratio, large = first / second, first >= LARGE_US
    low, middle, high = (float(q) for q in np.quantile(ratio, (0.1, 0.5, 0.9)))
    at_large = float(np.median(ratio[large])) if large.any() else None
    return Ratio(op, low, middle, high, len(ratio), at_large, int(large.sum()))
