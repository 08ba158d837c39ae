"""The weights of a recorded step: robust in what they follow, unbiased in the mean.

Steps alike (batch, K, draft passes, drafter, and bins of prompt tokens and context) are one cell with their
median seconds. Weights are the non-negative least squares of the relative error over cells, by their steps,
where cells far off count less (Huber). Then two means are kept, for throughput is made of means, not medians. What
is left of steps with the same draft passes, stalls aside, goes to the terms that only they have: a machine that was
slower for a part of the run made one arm dearer, not all. What is still missing makes predicted seconds sum to the
measured ones: stalls, which fall on steps alike however long they are.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.optimize import lsq_linear, nnls

from harness.latency.recorded_basis import Basis, basis_of

BINS_PER_OCTAVE = 4
ROUNDS = 6
HUBER = 2.0
"""Residuals beyond so many scales (1.4826 x median absolute one) count linearly, not squared."""
LEAST_SCALE = 0.005
BY_PASSES = ("gap", "idle", "once", "each", "next")
"""Terms whose first weight counts a drafter and its passes, whatever the sizes of the step."""
STALL_TIMES = 1.5
"""A step of more than so many times its prediction met a stall."""
HICCUP_S, HICCUP_TIMES = 1.0, 20.0
"""A step both longer than this and than so many times its prediction is compilation or the host, no step."""


@dataclass(frozen=True, eq=False)
class Cells:
    """Steps gathered into cells; see the head of the file."""

    steps: pd.DataFrame
    of: np.ndarray
    """int64[steps]: the cell of each step."""
    count: np.ndarray
    median_s: np.ndarray
    basis: Basis
    terms: list[str]
    design: np.ndarray
    """float64[cells, terms]: each term's mean over the cell's steps."""


@dataclass(frozen=True, eq=False)
class Weights:
    """Seconds per unit of each term, stalls included."""

    values: np.ndarray
    typical: np.ndarray
    """The same before stalls."""
    stall_s: float
    """Seconds by which the mean step is longer than its typical one. Below 0 they were taken off in proportion."""
    hiccups: int
    """Steps that count neither as steps nor as stalls."""
    hiccup_s: float


def gather(steps: pd.DataFrame) -> Cells:
    """Cells of rows as `recorded_steps.step_rows` gives them."""
    key = steps[["batch", "k", "passes", "loaded"]].assign(
        prefill=_bins(steps["prefill"]), context=_bins(steps["context"])
    )
    groups = key.groupby(list(key.columns), sort=True)
    of = groups.ngroup().to_numpy(np.int64)
    count = np.bincount(of).astype(np.float64)
    basis = basis_of(steps)
    terms, means = [], []
    for term, column in basis.columns(steps):
        terms.append(term)
        means.append(np.bincount(of, weights=column) / count)
    median = steps["seconds"].groupby(of).median().to_numpy(np.float64)
    return Cells(steps, of, count, median, basis, terms, np.stack(means, axis=1))


def _bins(sizes: pd.Series) -> pd.Series:
    return np.round(BINS_PER_OCTAVE * np.log2(1.0 + sizes))


def fit(cells: Cells, keep: np.ndarray | None = None) -> Weights:
    """Weights from the cells where `keep` (bool[cells]; None: all) holds."""
    own = np.ones(len(cells.count), bool) if keep is None else keep
    values = _huber(cells.design[own], cells.median_s[own], cells.count[own])
    inside = own[cells.of]
    seconds = cells.steps["seconds"].to_numpy()[inside]
    values += _by_passes(cells, values, cells.of[inside], seconds)
    predicted = (cells.design @ values)[cells.of[inside]]
    hiccup = (seconds > HICCUP_S) & (seconds > HICCUP_TIMES * predicted)
    stall = float((seconds - predicted)[~hiccup].mean())
    with_stalls = (
        values * float(seconds[~hiccup].sum() / predicted[~hiccup].sum()) if stall < 0 else values.copy()
    )
    with_stalls[cells.terms.index("gap")] += max(stall, 0.0)
    return Weights(with_stalls, values, stall, int(hiccup.sum()), float(seconds[hiccup].sum()))


def _huber(design: np.ndarray, seconds: np.ndarray, count: np.ndarray) -> np.ndarray:
    """Iteratively reweighted: errors are relative to the prediction of the round before."""
    scale = np.maximum(design.max(axis=0), 1e-300)
    against, weight = seconds, count
    values = np.zeros(design.shape[1])
    for _ in range(ROUNDS):
        root = np.sqrt(weight) / against
        values = nnls(design / scale * root[:, None], seconds * root)[0] / scale
        against = np.maximum(design @ values, 1e-9)
        residual = np.abs(seconds / against - 1.0)
        spread = max(LEAST_SCALE, 1.4826 * _median(residual, count))
        weight = count * np.minimum(1.0, HUBER * spread / np.maximum(residual, 1e-12))
    return values


def _by_passes(cells: Cells, values: np.ndarray, of: np.ndarray, seconds: np.ndarray) -> np.ndarray:
    """float64[terms]: what to add so that steps with the same draft passes are right in the mean, but for stalls.

    As far as weights stay at 0 or above. `of` is the cell of each step.
    """
    own = [cells.terms.index(term) for term in BY_PASSES if term in cells.terms]
    predicted = (cells.design @ values)[of]
    usual = seconds <= STALL_TIMES * predicted
    passes, group, count = np.unique(
        cells.design[:, own][of[usual]], axis=0, return_inverse=True, return_counts=True
    )
    left = np.bincount(group.ravel(), weights=(seconds - predicted)[usual]) / count
    root = np.sqrt(count)
    found = lsq_linear(passes * root[:, None], left * root, bounds=(-values[own], np.inf), method="bvls")
    added = np.zeros_like(values)
    added[own] = found.x
    return added


def _median(values: np.ndarray, count: np.ndarray) -> float:
    order = np.argsort(values)
    reached = np.cumsum(count[order])
    return float(values[order][np.searchsorted(reached, reached[-1] / 2)])
