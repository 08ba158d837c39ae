"""How wrong surfaces are where they were not measured: fit without every fifth shape, predict those."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from harness.latency.heldout import held_out
from harness.latency.kernels import fit_rows, fixed_dims
from harness.latency.rows import OPS, KernelRows, columns_of, floor_us

FEWEST = 5
"""Rows a group must have for one to be held out."""


@dataclass(frozen=True, slots=True)
class OpError:
    """Relative errors of one operation on held-out shapes."""

    op: str
    mean: float
    """Mean absolute."""
    median: float
    p90: float
    bias: float
    """Mean signed: positive when predictions are too slow."""
    shapes: int


def op_errors(rows: KernelRows) -> list[OpError]:
    """Every operation with enough rows, then `all`: every held-out shape alike."""
    found, signed = [], []
    for op in rows.tables:
        if OPS[op].cost is None:
            continue
        errors = _signed(op, rows)
        if len(errors):
            found.append(summary(op, errors))
            signed.append(errors)
    if signed:
        found.append(summary("all", np.concatenate(signed)))
    return found


def summary(op: str, signed: np.ndarray) -> OpError:
    """Statistics of signed relative errors."""
    size = np.abs(signed)
    return OpError(
        op,
        float(size.mean()),
        float(np.median(size)),
        float(np.quantile(size, 0.9)),
        float(signed.mean()),
        len(signed),
    )


def _signed(op: str, rows: KernelRows) -> np.ndarray:
    frame = rows.tables[op]
    fixed = list(fixed_dims(op, rows))
    groups = [group for _, group in frame.groupby(fixed)] if fixed else [frame]
    return np.concatenate([_group(op, group, rows) for group in groups] or [np.zeros(0)])


def _group(op: str, group: pd.DataFrame, rows: KernelRows) -> np.ndarray:
    """Held-out rows inside the sizes that remain (outside they would test extrapolation)."""
    if len(group) < FEWEST:
        return np.zeros(0)
    spec = OPS[op]
    axes = [n for n in (*spec.dims, *reversed(spec.steps)) if n not in fixed_dims(op, rows)]
    kept, out = held_out(group.sort_values(axes))
    for name in axes:
        out = out[out[name].between(kept[name].min(), kept[name].max())]
    columns = columns_of(out, op)
    predicted = fit_rows(op, kept, rows)(columns)
    predicted = np.maximum(predicted, floor_us(op, columns, rows.bytes_s, rows.flops_s))
    return predicted / out["us"].to_numpy(float) - 1.0
