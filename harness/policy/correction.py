"""Repairs a latency model from measured steps.

Two levels. First the model's shape: measured ~ alpha * base + beta * extra, where base is the predicted
step at K = 0 and extra what speculation adds to it; a ridge regression towards alpha = beta = 1 on relative
errors, so one measured K already tells about the others. Then each (batch range, K) that was measured often
gets its own ratio, shrunk towards the first level.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from harness.contract import StepLatency
from harness.policy.costs import StepCosts

CELL_STRENGTH = 4.0
"""Steps at which a cell's own measured ratio weighs as much as the two-number fit."""

RIDGE = 2.0
"""Steps' worth of belief in the latency model as it is."""

KNOWN = 24.0
"""Measured steps above which a cell's cost counts as known."""

FIRST_SPREAD = 0.18
"""Assumed standard deviation of log(measured / estimated) of a cell never measured."""

FIRST_CELLS = 2.0
"""Cells' worth of belief in it; each first measurement of a cell adds one."""

_MOST_STEPS = 4000.0
_KEEP = 0.998
_LARGEST_RATIO = 8.0
_LOAD_RATE = 0.1
_FEWEST = 4.0


class LatencyCorrection:
    """Learns from `Observation.steps`; `update` now and then, `correct` at every tick."""

    def __init__(self, costs: StepCosts, max_k: int) -> None:
        self._costs = costs
        self._max_k = max_k
        shape = (len(costs.ranges), max_k + 1)
        self.steps = np.zeros(shape)
        """float64[ranges, max_k + 1]: discounted measured steps by cell."""
        self.load = np.full(len(costs.ranges), 1.0 / len(costs.ranges))
        """float64[ranges], sums to 1: share of recent engine time by batch range."""
        self.ratio = np.ones(shape)
        """float64[ranges, max_k + 1]: measured over predicted, as believed now."""
        self._log_ratio = np.zeros(shape)
        self._surprise = FIRST_CELLS * FIRST_SPREAD**2
        self._surprises = FIRST_CELLS
        self._xx = np.zeros((2, 2))
        self._xy = np.zeros(2)

    def update(self, measured: Sequence[StepLatency], table: np.ndarray) -> None:
        """Learn from steps measured while `table` was the uncorrected prediction [ranges, max_k + 1]."""
        rows = [
            (s.batch, s.k, s.steps, s.seconds / s.steps)
            for s in measured
            if s.steps > 0 and s.batch >= 1 and 0 <= s.k <= self._max_k and 0.0 < s.seconds < math.inf
        ]
        if not rows:
            return
        data = np.array(rows, dtype=np.float64)
        batch, k, weight = data[:, 0], data[:, 1].astype(np.intp), data[:, 2]
        cell = np.minimum(np.searchsorted(self._costs.ends, batch), len(self._costs.ends) - 1)
        self._learn_spread(table, data, cell, k)
        predicted = self._costs.at(table, batch, k)
        ratio = np.clip(data[:, 3] / predicted, 1.0 / _LARGEST_RATIO, _LARGEST_RATIO)
        self._fit(weight, self._costs.at(table, batch, np.zeros_like(k)) / predicted, ratio)
        self._count(cell, k, weight, np.log(ratio))
        self._refresh(table)
        share = np.bincount(cell, weight * data[:, 3], minlength=len(self.load))
        self.load += _LOAD_RATE * (share / share.sum() - self.load)

    def correct(self, table: np.ndarray) -> np.ndarray:
        """The corrected `table` [ranges, max_k + 1] (a new array), positive."""
        return table * self.ratio

    def _refresh(self, table: np.ndarray) -> None:
        alpha, beta = self.factors()
        base = table[:, :1]
        fitted = np.log(np.maximum(alpha * base + beta * (table - base), 1e-9) / table)
        mean_log = (self._log_ratio + CELL_STRENGTH * fitted) / (self.steps + CELL_STRENGTH)
        self.ratio = np.exp(mean_log)

    def optimistic(self) -> float:
        """Share of its estimate that a never measured cell may cost: two standard deviations below, as first
        measurements have differed from estimates so far. Near 1 once the model has proved right."""
        return math.exp(-2.0 * math.sqrt(self._surprise / self._surprises))

    def factors(self) -> tuple[float, float]:
        """alpha (on the step without speculation) and beta (on what speculation adds); 1, 1 at first."""
        xx = self._xx + RIDGE * np.eye(2)
        xy = self._xy + RIDGE
        det = xx[0, 0] * xx[1, 1] - xx[0, 1] * xx[1, 0]
        alpha = (xx[1, 1] * xy[0] - xx[0, 1] * xy[1]) / det
        beta = (xx[0, 0] * xy[1] - xx[1, 0] * xy[0]) / det
        low, high = 1.0 / _LARGEST_RATIO, _LARGEST_RATIO
        return float(min(max(alpha, low), high)), float(min(max(beta, low), high))

    def _learn_spread(self, table: np.ndarray, data: np.ndarray, cell: np.ndarray, k: np.ndarray) -> None:
        first = (self.steps[cell, k] < 1.0) & (data[:, 2] >= _FEWEST)
        if first.any():
            estimate = self._costs.at(self.correct(table), data[first, 0], k[first])
            log_ratio = np.clip(np.log(data[first, 3] / estimate), -1.0, 1.0)
            self._surprise += float(log_ratio @ log_ratio)
            self._surprises += log_ratio.size

    def _fit(self, weight: np.ndarray, base_share: np.ndarray, ratio: np.ndarray) -> None:
        extra_share = 1.0 - base_share
        keep = _KEEP if self._xx[0, 0] < _MOST_STEPS else 0.95
        self._xx *= keep
        self._xy *= keep
        cross = float(weight @ (base_share * extra_share))
        self._xx += [[float(weight @ base_share**2), cross], [cross, float(weight @ extra_share**2)]]
        self._xy += [float(weight @ (base_share * ratio)), float(weight @ (extra_share * ratio))]

    def _count(self, cell: np.ndarray, k: np.ndarray, weight: np.ndarray, log_ratio: np.ndarray) -> None:
        keep = np.where(self.steps > _MOST_STEPS, 0.95, _KEEP)
        self.steps *= keep
        self._log_ratio *= keep
        np.add.at(self.steps, (cell, k), weight)
        np.add.at(self._log_ratio, (cell, k), weight * log_ratio)
