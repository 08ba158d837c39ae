"""`Kernels`: microseconds of any operation at any size, from the rows of one GPU.

Each answer is a `surface` through the rows of that operation and model sizes, never under the roofline floor
and never falling along the sizes of a step.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from harness.latency import surface
from harness.latency.rows import OPS, Columns, KernelRows, columns_of, floor_us, law_terms
from harness.latency.specs import assumed
from harness.latency.surface import Surface

Dims = dict[str, Any]
"""Sizes of a model by column name; numbers, or text (`mode`)."""


class Kernels:
    """Operations of one GPU, each fitted when first asked for."""

    floors_only = False

    def __init__(self, rows: KernelRows) -> None:
        self.rows = rows
        self._surfaces: dict[tuple[object, ...], Surface] = {}

    def has(self, op: str, dims: Dims) -> bool:
        """Whether there are at least two rows to answer `op` for these model sizes from."""
        return op in self.rows.tables and len(self._group(op, dims)) >= 2

    def exact(self, op: str, dims: Dims) -> bool:
        """Whether these very model sizes were measured, and not only others to interpolate between."""
        frame = self.rows.tables.get(op)
        return frame is not None and bool(np.all([frame[n] == v for n, v in dims.items()], axis=0).any())

    def us(self, op: str, dims: Dims, **steps: np.ndarray) -> np.ndarray:
        """Microseconds of `op` at the given step sizes (float64 arrays of equal length); `has` must hold."""
        columns = self._columns(op, dims, steps)
        return np.maximum(self._surface(op, dims)(columns), self._floor(op, columns))

    def _floor(self, op: str, columns: Columns) -> np.ndarray:
        return floor_us(op, columns, self.rows.bytes_s, self.rows.flops_s)

    def _columns(self, op: str, dims: Dims, steps: dict[str, np.ndarray]) -> Columns:
        length = len(steps[OPS[op].steps[0]])
        columns: Columns = {name: np.asarray(values, dtype=np.float64) for name, values in steps.items()}
        return columns | {name: np.full(length, value) for name, value in dims.items()}

    def analytic_us(self, op: str, dims: Dims, **steps: np.ndarray) -> np.ndarray:
        """An operation that was not measured, see `analytic_us`."""
        return analytic_us(op, self._columns(op, dims, steps), self.rows.bytes_s, self.rows.flops_s)

    def measured(self, op: str, dims: Dims, size: str) -> np.ndarray:
        """The values of `size` at which `op` was measured; empty if it was not."""
        return np.unique(self._group(op, dims)[size].to_numpy(float)) if self.has(op, dims) else np.zeros(0)

    def _surface(self, op: str, dims: Dims) -> Surface:
        key = (op, *(dims[name] for name in fixed_dims(op, self.rows)))
        if key not in self._surfaces:
            self._surfaces[key] = fit_rows(op, self._group(op, dims), self.rows)
        return self._surfaces[key]

    def _group(self, op: str, dims: Dims) -> pd.DataFrame:
        frame = self.rows.tables[op]
        same = np.ones(len(frame), dtype=bool)
        for name in fixed_dims(op, self.rows):
            same &= frame[name].to_numpy() == dims[name]
        return frame[same]


class Floors(Kernels):
    """The same questions answered by the roofline floor alone; what was not measured has none."""

    floors_only = True

    def us(self, op: str, dims: Dims, **steps: np.ndarray) -> np.ndarray:
        return self._floor(op, self._columns(op, dims, steps))

    def analytic_us(self, op: str, dims: Dims, **steps: np.ndarray) -> np.ndarray:
        return np.zeros(len(steps[OPS[op].steps[0]]))


def analytic_us(op: str, columns: Columns, bytes_s: float, flops_s: float) -> np.ndarray:
    """All bytes and FLOPs at the assumed shares of the ceilings (`specs.toml`), not under the assumed
    shortest kernel: what the analytic roofline says of one operation, microseconds."""
    cost, a = OPS[op].cost, assumed()
    assert cost is not None
    does = cost(columns)
    share = a.attention_compute_share if op == "prefill" else a.compute_share
    touched = (does.cold + does.warm) / (bytes_s * a.bandwidth_share)
    return np.maximum(a.small_kernel_us, np.maximum(touched, does.flops / (flops_s * share)) * 1e6)


def fixed_dims(op: str, rows: KernelRows) -> tuple[str, ...]:
    """Model sizes that a surface of `op` does not interpolate over: it is fitted to rows that share them."""
    spec = OPS[op]
    return tuple(name for name in spec.dims if not (rows.model_grid and name in spec.between))


def fit_rows(op: str, frame: pd.DataFrame, rows: KernelRows) -> Surface:
    """The surface through `frame`, rows of `op` that agree in its `fixed_dims`."""
    spec = OPS[op]
    axes = (*spec.steps, *(name for name in spec.dims if name not in fixed_dims(op, rows)))
    return surface.fit(
        axes,
        columns_of(frame, op),
        frame["us"].to_numpy(float),
        lambda columns: law_terms(op, columns, rows.bytes_s, rows.flops_s),
        monotone=len(spec.steps),
    )
