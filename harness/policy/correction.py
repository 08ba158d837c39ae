"""Repairs a latency model from measured steps, without mistaking the time for the K.

A measured step differs from the predicted one by a factor, and its logarithm is taken apart:

    log(measured / predicted) = now + theta * training + log(1 + (beta - 1) x) + range + cell + noise

`now` wanders with time (clocks, neighbours) and concerns every K alike, as does `theta`, what a trainer at
work takes from the server; x is the share of the predicted step that speculation adds, so `beta` repairs the
price of a draft everywhere; `range` belongs to a range of batch sizes and `cell` to one (range, K). Only beta
and cell change which K is best. A Kalman filter (now, beta and theta with their covariance, the others with
their variances) shares each surprise out by what was uncertain: a change while K stays goes to `now`, a change
that comes with another K to the cell and to beta. How much `now` moves is learned as well (an adaptive filter: the
innovations of known cells are to be as large as expected), for on a restless machine, such as a shared one, the
moment at which a K ran would pass for its price. Taking plain averages by cell instead would blame a K for
whatever went on while it ran.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy.optimize import isotonic_regression

from harness.contract import StepLatency
from harness.policy.costs import StepCosts

NOW_SPREAD, THETA_SPREAD, RANGE_SPREAD, CELL_SPREAD = 0.3, 0.2, 0.12, 0.06
"""Standard deviations assumed at first (of log factors); beta's, of the factor itself, is what the operator knows
of the latency model (`PolicyContext.price_spread`)."""

NOW_DRIFT, BETA_DRIFT, THETA_DRIFT, RANGE_DRIFT, CELL_DRIFT = 0.03, 0.004, 0.004, 0.002, 0.002
"""Random-walk standard deviation of each per update."""

FIXED_SPREAD = 0.12
"""Per unit of `price_spread`: of what a round of drafting costs whatever K >= 1 is (launches, a second model's fixed
work), unknown until K = 0 has been seen beside K >= 1, for beta alone cannot tell it from the price per draft."""

LEAST_PRICE = 2.0
"""Standard deviations (`price_spread`) below the model's price of a draft that a draft costs at least."""

STEP_NOISE, BLOCK_NOISE = 0.10, 0.01
"""Of one measured step, and of a block of steps however long (its contexts differ from the mean)."""

KNOWN = 24.0
"""Measured steps above which a cell's cost counts as known."""

UNREST_RATE = 0.1
"""Weight of a block in what is learned of the machine's unrest."""

_FIRST_CELLS = 3.0
_KEEP = 0.998
_LOAD_RATE = 0.1
_BETA = (0.1, 10.0)
_WALK = (NOW_DRIFT**2, BETA_DRIFT**2, THETA_DRIFT**2)


class LatencyCorrection:
    """Learns from `Observation.steps`: `update` now and then, `correct` at every tick."""

    def __init__(self, costs: StepCosts, max_k: int, price_spread: float = 1.0) -> None:
        self._costs = costs
        self._max_k = max_k
        self._price_spread = min(price_spread, 1.0 / LEAST_PRICE)
        self._fixed_var = (FIXED_SPREAD * price_spread) ** 2
        self._most = (NOW_SPREAD**2, price_spread**2, THETA_SPREAD**2)
        shape = (len(costs.ranges), max_k + 1)
        self.steps = np.zeros(shape)
        """float64[ranges, max_k + 1]: discounted measured steps by cell."""
        self.ratio = np.ones(shape)
        """float64[ranges, max_k + 1]: measured over predicted, as believed now."""
        self.load = np.full(len(costs.ranges), 1.0 / len(costs.ranges))
        """float64[ranges], sums to 1: share of recent engine time by batch range."""
        self._x = [0.0, 1.0, 0.0]
        self._p = [[most if i == j else 0.0 for j in range(3)] for i, most in enumerate(self._most)]
        self._range = [0.0] * shape[0]
        self._range_var = [RANGE_SPREAD**2] * shape[0]
        self._cell = np.zeros(shape)
        self._cell_var = np.full(shape, CELL_SPREAD**2)
        self._surprise, self._surprises = _FIRST_CELLS * CELL_SPREAD**2, _FIRST_CELLS
        self.unrest = 0.0
        """Variance by which `now` moves from block to block beyond `NOW_DRIFT`: next to 0 on a steady
        machine."""

    @property
    def now(self) -> float:
        """Log factor of the moment."""
        return self._x[0]

    @property
    def beta(self) -> float:
        """Factor on what speculation adds to a step."""
        return self._x[1]

    @property
    def interference(self) -> tuple[float, float]:
        """Log factor of a trainer at work on the server's steps, and its standard deviation."""
        return self._x[2], math.sqrt(self._p[2][2])

    def update(self, measured: Sequence[tuple[StepLatency, bool]], table: np.ndarray) -> None:
        """Learn from steps, each with whether the trainer was at work; `table` [ranges, max_k + 1] is the
        uncorrected prediction for them.

        Steps between two K are passed over: one of K = 0 that drafts for the next is as slow as one of K > 0, and
        where K changes with the batch some cells consist of little else."""
        rows = [
            (s.batch, s.k, s.steps, s.seconds / s.steps, training)
            for s, training in measured
            if s.drafted is None
            and s.steps > 0
            and s.batch >= 1
            and 0 <= s.k <= self._max_k
            and 0.0 < s.seconds < math.inf
        ]
        if not rows:
            return
        data = np.array(rows, dtype=np.float64)
        batch, k, weight = data[:, 0], data[:, 1].astype(np.intp), data[:, 2]
        predicted = self._costs.at(table, batch, k)
        share = 1.0 - self._costs.at(table, batch, np.zeros_like(k)) / predicted
        at = np.minimum(np.searchsorted(self._costs.ends, batch), len(self._costs.ends) - 1)
        time = np.bincount(at, weight * data[:, 3], minlength=len(self.load))
        self.load += _LOAD_RATE * (time / time.sum() - self.load)
        self._drift()
        for row in _gathered(at, k, data[:, 4], weight, np.log(data[:, 3] / predicted), share):
            self._learn(*row)
        self._refresh(table)

    def correct(self, table: np.ndarray) -> np.ndarray:
        """The corrected `table` [ranges, max_k + 1] (a new array), positive, with no draft cheaper than it can be."""
        seconds = table * self.ratio
        price = np.diff(table)
        least = np.zeros_like(table)
        least[:, 1:] = np.cumsum(price - LEAST_PRICE * self._price_spread * np.abs(price), axis=1)
        least *= math.exp(self.now)
        above = seconds - least
        for at in np.flatnonzero((np.diff(above) < 0.0).any(axis=1)):
            seconds[at] = isotonic_regression(above[at], weights=1.0 + self.steps[at]).x + least[at]
        return seconds

    def correct_mixed(self, extra: np.ndarray) -> np.ndarray:
        """What a prompt adds to a step [ranges, max_k + 1], corrected: no cell was measured for it, so only by
        the factor of the moment and, where it depends on K, by the price of a draft."""
        base = extra[:, :1]
        return (base + self.beta * (extra - base)) * math.exp(self.now)

    def hoped(self, table: np.ndarray, at: int, k: int) -> np.ndarray:
        """float64[max_k + 1]: the share of its estimate that each K may cost in range `at`, relative to the
        running `k`: two standard deviations below; 1 where it was measured."""
        share = 1.0 - table[at, 0] / table[at]
        cell = np.where(self.steps[at] < 1.0, self._surprise / self._surprises, self._cell_var[at])
        variance = self._p[1][1] * (share - share[k]) ** 2 + cell
        variance[1:] += self._fixed_var * (k == 0)
        variance[0] += self._fixed_var * (k > 0)
        return np.where(self.steps[at] >= KNOWN, 1.0, np.exp(-2.0 * np.sqrt(variance)))

    def _drift(self) -> None:
        self._p[0][0] += self.unrest
        for i in range(3):
            self._p[i][i] = min(self._p[i][i] + _WALK[i], self._most[i])
        self._range_var = [min(v + RANGE_DRIFT**2, RANGE_SPREAD**2) for v in self._range_var]
        np.minimum(self._cell_var + CELL_DRIFT**2, CELL_SPREAD**2, out=self._cell_var)
        self.steps *= _KEEP

    def _learn(self, at: int, k: int, training: float, steps: float, log_ratio: float, share: float) -> None:
        """One Kalman update with a block of `steps` steps in cell (at, k)."""
        factor = 1.0 + (self.beta - 1.0) * share
        slope = share / factor
        reach = [row[0] + row[1] * slope + row[2] * training for row in self._p]
        # Blocks of one update are not of one moment.
        noise = BLOCK_NOISE**2 + STEP_NOISE**2 / steps + self.unrest
        others = reach[0] + reach[1] * slope + reach[2] * training + self._range_var[at] + noise
        expected = self.now + training * self._x[2] + math.log(factor)
        error = log_ratio - (expected + self._range[at] + float(self._cell[at, k]))
        error = min(max(error, -1.5), 1.5)
        cell_var = float(self._cell_var[at, k])
        if self.steps[at, k] < 1.0:
            # How far off unmeasured cells have been, as far as nothing else explained it.
            cell_var = max(cell_var, self._surprise / self._surprises)
            self._surprise += (cell_var / (others + cell_var) * error) ** 2
            self._surprises += 1.0
        total = others + cell_var
        if self.steps[at, k] >= KNOWN:
            # Surprises are to be as large as the filter expects; those of known cells tell of the machine.
            excess = min(error**2, 9.0 * total) - total
            self.unrest = max(0.0, self.unrest + UNREST_RATE * excess)
        self._x = [x + r * error / total for x, r in zip(self._x, reach, strict=True)]
        self._x[1] = min(max(self._x[1], _BETA[0]), _BETA[1])
        self._p = [[self._p[i][j] - reach[i] * reach[j] / total for j in range(3)] for i in range(3)]
        self._range[at] += self._range_var[at] / total * error
        self._range_var[at] -= self._range_var[at] ** 2 / total
        self._cell[at, k] += cell_var / total * error
        self._cell_var[at, k] = cell_var - cell_var**2 / total
        self.steps[at, k] += steps

    def _refresh(self, table: np.ndarray) -> None:
        share = 1.0 - table[:, :1] / table
        level = self.now + np.array(self._range)[:, None] + self._cell
        self.ratio = (1.0 + (self.beta - 1.0) * share) * np.exp(level)


Block = tuple[int, int, float, float, float, float]


def _gathered(
    at: np.ndarray,
    k: np.ndarray,
    training: np.ndarray,
    weight: np.ndarray,
    log_ratio: np.ndarray,
    share: np.ndarray,
) -> list[Block]:
    """Rows of one cell and trainer state joined, values weighted by steps; in order of first appearance."""
    sums: dict[tuple[int, int, float], tuple[float, float, float]] = {}
    columns = (c.tolist() for c in (at, k, training, weight, log_ratio, share))
    for a, j, t, w, y, x in zip(*columns, strict=True):
        n, sum_y, sum_x = sums.get((a, j, t), (0.0, 0.0, 0.0))
        sums[a, j, t] = (n + w, sum_y + w * y, sum_x + w * x)
    return [(a, j, t, n, y / n, x / n) for (a, j, t), (n, y, x) in sums.items()]
