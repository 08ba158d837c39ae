"""What a profile says, in a few lines: ceilings, nearness to the floor, peers, the price of verifying."""

from __future__ import annotations

import statistics
from collections.abc import Iterable

from kernels.profiling.plan import TRITON
from kernels.profiling.rows import OK, Row

LARGE_US = 20.0
"""Floors from here on count as large sizes: launch and ramp no longer dominate."""
HEADLINE = ("llama3-8b", 64, 4096, 4)
"""Model, batch, context and K of the question the profile is for."""


def summary(rows: Iterable[Row]) -> list[str]:
    """Lines for the terminal; a line is left out where its rows are missing."""
    rows = [row for row in rows if row.status == OK]
    lines = [_ceilings(row) for row in rows if row.op == "device"]
    ours = [row for row in rows if row.impl == TRITON and row.median_us is not None]
    return lines + _floors(ours) + _beside(rows) + _headline(ours)


def _ceilings(row: Row) -> str:
    e = row.extra
    return (
        f"{row.device}: copy {e['copy_gb_per_s']:.0f} GB/s, read {e['read_gb_per_s']:.0f} GB/s, "
        f"bf16 {e['tflops']:.0f} TFLOP/s ({row.versions}; {row.commit[:12]})"
    )


def _floors(rows: Iterable[Row]) -> list[str]:
    groups: dict[str, list[float]] = {}
    for row in rows:
        if row.floor_ratio is not None and (row.floor_us or 0.0) >= LARGE_US:
            groups.setdefault(row.op, []).append(row.floor_ratio)
    return [
        f"{op:12} {100 / statistics.median(ratios):5.1f}% of the floor, median of {len(ratios)} large sizes"
        for op, ratios in sorted(groups.items())
    ]


def _beside(rows: list[Row]) -> list[str]:
    """Geometric mean of the peer's time over ours, per (op, peer), on shapes both measured."""
    ours = {(r.op, str(r.shape)): r.median_us for r in rows if r.impl == TRITON and r.median_us}
    ratios: dict[tuple[str, str], list[float]] = {}
    for row in rows:
        mine = ours.get((row.op, str(row.shape)))
        if row.impl != TRITON and row.median_us and mine:
            ratios.setdefault((row.op, row.impl), []).append(row.median_us / mine)
    return [
        f"{op:12} {statistics.geometric_mean(r):5.2f}x as fast as {impl}, worst {min(r):.2f}, {len(r)} shapes"
        for (op, impl), r in sorted(ratios.items())
    ]


def _headline(rows: Iterable[Row]) -> list[str]:
    """Cost of a verify step with K drafts relative to K = 0, from the two measured steps."""
    name, batch, context, k = HEADLINE
    steps = {
        row.shape["query_tokens"]: row.median_us
        for row in rows
        if row.op == "verify_step"
        and (row.shape["model"], row.shape["batch"], row.shape["context"]) == (name, batch, context)
        and row.shape["drafter"]
    }
    base, verify = steps.get(1), steps.get(k + 1)
    if base is None or verify is None:
        return []
    return [
        f"{name}, batch {batch}, {context} tokens of context: a verify step with K={k} takes "
        f"{verify / 1e3:.3f} ms, with K=0 {base / 1e3:.3f} ms: {verify / base:.3f}x (drafting not included)"
    ]
