"""Measured kernels as curves over one size: floored, monotone, continued beyond the last measurement."""

from __future__ import annotations

import numpy as np
import pandas as pd

from harness.latency import grid as grids
from harness.latency.specs import BYTES, Gpu, ModelShape

CLOCK_HEADROOM = 1.1
"""Cards run above their rated boost clock (RTX 4090 matrix products measured at 101% of the rated peak), so
the arithmetic floor stands at the rated peak times this."""


def layer_curve(rows: pd.DataFrame, size: str, weights: float, spec: Gpu | None) -> pd.Series:
    """Seconds of one kernel by measured size, lifted to the floor of its `weights` elements."""
    own = rows.sort_values(size).set_index(size)["time_us"] * 1e-6
    if spec is None or weights == 0:
        return own
    work = 2 * weights * own.index.to_numpy() / (spec.flops_s * CLOCK_HEADROOM)
    floor = np.maximum(weights * BYTES / spec.bytes_s, work)
    return own.clip(lower=pd.Series(floor, index=own.index))


def by_size(curve: pd.Series, sizes: np.ndarray) -> np.ndarray:
    """Monotone seconds at `sizes`, linear between measured sizes, then on with the slope of the last half."""
    at, seconds = curve.index.to_numpy(float), grids.isotonic(curve.to_numpy(float))
    out = np.interp(sizes, at, seconds)
    half = min(int(np.searchsorted(at, at[-1] / 2)), len(at) - 2)
    slope = max(0.0, (seconds[-1] - seconds[half]) / (at[-1] - at[half]))
    return out + np.maximum(0.0, sizes - at[-1]) * slope


def weights_of(layer: str, shape: ModelShape) -> float:
    """Elements of the matrix behind a kernel's name; 0 for kernels without one."""
    return {
        "qkv_proj": shape.qkv_weights,
        "o_proj": shape.o_weights,
        "gate_up_proj": shape.mlp_weights * 2 // 3,
        "down_proj": shape.mlp_weights // 3,
        "lm_head": shape.hidden * shape.vocab,
    }.get(layer, 0)


def expert_seconds(
    rows: pd.DataFrame, shape: ModelShape, spec: Gpu | None, tokens: np.ndarray, awake: np.ndarray
) -> np.ndarray:
    """Seconds of one expert layer for `tokens` tokens over `awake` distinct experts (float64 arrays)."""
    pivot = rows.pivot(index="tokens", columns="activated_experts", values="time_us") * 1e-6
    table = pivot.interpolate(axis=0, method="index").bfill(axis=0).ffill(axis=1).to_numpy()
    experts = pivot.columns.to_numpy(float)
    if spec is not None:
        table = np.maximum(table, experts * shape.mlp_weights * BYTES / spec.bytes_s)
    table = grids.isotonic(table)
    columns = np.stack([by_size(pd.Series(c, index=pivot.index), tokens) for c in table.T])
    low = np.clip(np.searchsorted(experts, awake, side="right") - 1, 0, len(experts) - 2)
    share = np.maximum(0.0, (awake - experts[low]) / (experts[low + 1] - experts[low]))
    at = np.arange(len(tokens))
    return columns[low, at] + share * (columns[low + 1, at] - columns[low, at])
