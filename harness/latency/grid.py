"""From scattered attention measurements to a complete, monotone grid.

Measured tables are sparse: corners that do not fit the KV cache are absent, and sweeps with different
steps are mixed. `complete` fills inner gaps by linear interpolation along each axis and outer ones by
continuing the last slope; `isotonic` makes the result monotone in every axis.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

AXES = ("prefill_chunk", "kv_prefill", "n_decode", "kv_decode")


def isotonic(values: np.ndarray, axes: tuple[int, ...] | None = None) -> np.ndarray:
    """The monotone fit of positive `values` along `axes` with the least worst-case relative change.

    Geometric mean of the smallest monotone majorant and the largest monotone minorant: the isotonic
    regression in the maximum norm (of logarithms). Values already monotone come back unchanged.
    """
    axes = tuple(range(values.ndim)) if axes is None else axes
    above, below = values, values
    for axis in axes:
        above = np.maximum.accumulate(above, axis=axis)
        below = np.flip(np.minimum.accumulate(np.flip(below, axis), axis=axis), axis)
    return np.sqrt(above * below)


def scatter(rows: pd.DataFrame) -> tuple[np.ndarray, list[np.ndarray]]:
    """Place rows (columns `AXES` and `time_us`) in a 4-D array with NaN where nothing was measured."""
    axes = [np.unique(rows[name].to_numpy(float)) for name in AXES]
    axes[3] = axes[3][axes[3] > 0]
    grid = np.full([len(a) for a in axes], np.nan)
    seconds = rows["time_us"].to_numpy(float) * 1e-6
    at = [np.searchsorted(a, rows[name].to_numpy(float)) for a, name in zip(axes, AXES, strict=True)]
    alone = rows["kv_decode"].to_numpy() == 0
    for i, j, k, t in zip(at[0][alone], at[1][alone], at[2][alone], seconds[alone], strict=True):
        grid[i, j, k, :] = t
    grid[tuple(index[~alone] for index in at)] = seconds[~alone]
    if axes[0][0] == 0:
        grid[0] = grid[0, :1]
        grid[0, :, axes[2] == 0] = 0.0
    return grid, axes


def complete(grid: np.ndarray, axes: list[np.ndarray]) -> np.ndarray:
    """Fill NaN: inner gaps along context, prefix, chunk, sequences; then outwards in the same order."""
    order = (3, 1, 0, 2)
    for outwards in (False, True):
        while np.isnan(grid).any():
            before = int(np.isnan(grid).sum())
            for axis in order:
                grid = np.apply_along_axis(_fill_line, axis, grid, axes[axis], outwards)
            if int(np.isnan(grid).sum()) == before:
                break
    return grid


def _fill_line(line: np.ndarray, axis: np.ndarray, outwards: bool) -> np.ndarray:
    """Fill the gaps of one line; downwards by the first known value, upwards by the last slope."""
    known = np.flatnonzero(~np.isnan(line))
    if len(known) == len(line) or len(known) < 2:
        return line
    first, last = known[0], known[-1]
    out = line.copy()
    out[first : last + 1] = np.interp(axis[first : last + 1], axis[known], line[known])
    if outwards:
        out[:first] = line[first]
        before = known[-2]
        slope = max(0.0, (line[last] - line[before]) / (axis[last] - axis[before]))
        out[last + 1 :] = line[last] + slope * (axis[last + 1 :] - axis[last])
    return out


def monotone(grid: np.ndarray) -> np.ndarray:
    """Monotone in every axis, keeping decode-only entries (chunk 0) free of the mixed kernel's noise.

    Decode-only and mixed steps run different kernels, so the two are corrected apart; a mixed step is
    then at least as slow as its decode part alone.
    """
    pure = isotonic(grid[0], (1, 2))
    mixed = isotonic(grid[1:]) if len(grid) > 1 else grid[1:]
    return np.ascontiguousarray(np.concatenate([pure[None], np.maximum(mixed, pure[None])]))
