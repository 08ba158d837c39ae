"""Interpolation over an operation's sizes: a cost law times an interpolated ratio.

The law is a non-negative combination of a constant, the roofline and a few terms of the operation
(`rows.OPS`), fitted by least squares of the relative error. What the law misses is the ratio of measured
to lawful time: its logarithm is interpolated linearly in the logarithms of the sizes and held constant
beyond the last. So a gap between measurements bends where the roofline bends, and beyond the tables' end
time grows as the work does.

Cells of the grid that were not measured get the mean of the interpolations along each axis, weighted by the
inverse of the gap each spans. Time is then made monotone along the sizes of a step (`rising`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.interpolate import RegularGridInterpolator
from scipy.optimize import isotonic_regression, nnls

from harness.latency.grid import isotonic
from harness.latency.rows import Columns

SWEEPS = 12
FILLED_WEIGHT = 0.1
"""Of a cell that was not measured, beside 1 for one that was, when violations are pooled."""
Terms = Callable[[Columns], np.ndarray]


@dataclass(frozen=True, eq=False)
class Surface:
    """Microseconds over the sizes `axes`, fitted to measurements. See `fit`."""

    axes: dict[str, np.ndarray]
    terms: Terms
    weights: np.ndarray
    log_ratio: np.ndarray

    def __call__(self, columns: Columns) -> np.ndarray:
        """Microseconds at sizes inside or beyond the axes; float64, one per row of `columns`."""
        law = self.terms(columns) @ self.weights
        live = [name for name, axis in self.axes.items() if len(axis) > 1]
        if not live:
            return np.asarray(law * np.exp(self.log_ratio.item()))
        at = [np.clip(columns[n], self.axes[n][0], self.axes[n][-1]) for n in live]
        grid = [np.log1p(self.axes[n]) for n in live]
        ratio = RegularGridInterpolator(grid, self.log_ratio.reshape([len(g) for g in grid]))
        return np.asarray(law * np.exp(ratio(np.log1p(np.stack(at, axis=-1)))))


def fit(axes: tuple[str, ...], columns: Columns, us: np.ndarray, terms: Terms, monotone: int) -> Surface:
    """The surface through measurements `us` at `columns`.

    Args:
        axes: names of the sizes to interpolate in.
        terms: columns -> float64[rows, terms] of the law.
        monotone: time is made monotone along the first so many axes.
    """
    a = terms(columns) / us[:, None]
    scale = np.maximum(a.max(axis=0), 1e-300)
    weights = nnls(a / scale, np.ones(len(us)))[0] / scale
    values = {name: np.unique(columns[name]) for name in axes}
    shape = tuple(len(v) for v in values.values())
    mesh = np.meshgrid(*values.values(), indexing="ij")
    cells = {name: m.ravel() for name, m in zip(axes, mesh, strict=True)}
    fixed = {n: np.full(cells[axes[0]].shape, v[0], v.dtype) for n, v in columns.items() if n not in axes}
    law = (terms(cells | fixed) @ weights).reshape(shape)
    ratio = np.full(shape, np.nan)
    at = tuple(np.searchsorted(values[name], columns[name]) for name in axes)
    ratio[at] = np.log(us / law[at])
    trust = np.where(np.isnan(ratio), FILLED_WEIGHT, 1.0)
    ratio = fill(ratio, [np.log1p(v) for v in values.values()])
    log_us = np.log(law) + ratio
    return Surface(values, terms, weights, rising(log_us, trust, monotone) - np.log(law))


def rising(values: np.ndarray, trust: np.ndarray, axes: int) -> np.ndarray:
    """The array that never falls along its first `axes` axes and has the least squared distance to `values`.

    Along one axis by pooling adjacent violators; along several by Dykstra's alternating projections
    (Dykstra, 1983), whose remainder of a violation after `SWEEPS` rounds the max-norm fit removes.
    """
    out, owed = values, [np.zeros(values.shape) for _ in range(axes)]
    moving = [axis for axis in range(axes) if values.shape[axis] > 1]
    for _ in range(SWEEPS if len(moving) > 1 else 1):
        for axis in moving:
            wanted = out + owed[axis]
            out = _along(wanted, trust, axis)
            owed[axis] = wanted - out
    return np.log(isotonic(np.exp(out), tuple(moving)))


def _along(values: np.ndarray, trust: np.ndarray, axis: int) -> np.ndarray:
    """Weighted least-squares isotonic regression of every line along `axis`."""
    lines, weights = np.moveaxis(values, axis, -1).copy(), np.moveaxis(trust, axis, -1)
    flat, each = lines.reshape(-1, lines.shape[-1]), weights.reshape(-1, lines.shape[-1])
    for i in np.flatnonzero((np.diff(flat, axis=1) < 0).any(axis=1)):
        flat[i] = isotonic_regression(flat[i], weights=each[i]).x
    return np.moveaxis(flat.reshape(lines.shape), -1, axis)


def fill(values: np.ndarray, axes: list[np.ndarray]) -> np.ndarray:
    """`values` with every NaN filled: between known cells by interpolation, beyond them by the nearest."""
    while np.isnan(values).any():
        total, weight = np.zeros(values.shape), np.zeros(values.shape)
        for number, axis in enumerate(axes):
            found, gap = _between(np.moveaxis(values, number, -1), axis)
            found, gap = np.moveaxis(found, -1, number), np.moveaxis(gap, -1, number)
            known = ~np.isnan(found)
            total[known] += found[known] / gap[known]
            weight[known] += 1.0 / gap[known]
        empty = np.isnan(values) & (weight > 0)
        if not empty.any():
            return _outwards(values)
        values = np.where(empty, total / np.where(weight > 0, weight, 1.0), values)
    return values


def _between(values: np.ndarray, axis: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Along the last axis: at NaN cells between known ones the interpolated value and the gap it spans."""
    index = np.arange(values.shape[-1])
    known = ~np.isnan(values)
    low = np.maximum.accumulate(np.where(known, index, -1), axis=-1)
    high = np.flip(np.minimum.accumulate(np.flip(np.where(known, index, len(index)), -1), axis=-1), -1)
    inside = ~known & (low >= 0) & (high < len(index))
    low, high = np.where(inside, low, 0), np.where(inside, high, 0)
    gap = np.where(inside, axis[high] - axis[low], np.nan)
    share = (axis - axis[low]) / gap
    left, right = np.take_along_axis(values, low, -1), np.take_along_axis(values, high, -1)
    return np.where(inside, left + share * (right - left), np.nan), gap


def _outwards(values: np.ndarray) -> np.ndarray:
    """Cells that no line of known ones spans: the nearest known one along each axis in turn."""
    for number in range(values.ndim):
        line = np.moveaxis(values, number, -1)
        for step in (1, -1):
            view = line[..., ::step]
            for i in range(1, view.shape[-1]):
                view[..., i] = np.where(np.isnan(view[..., i]), view[..., i - 1], view[..., i])
    return np.where(np.isnan(values), 0.0, values)
