"""Predicted seconds of a decode step by (batch range, K), cached so that a tick costs no prediction."""

from __future__ import annotations

import math

import numpy as np

from harness.errors import InputError
from harness.latency.shape import decode_shape
from harness.policy.base import PolicyContext
from harness.policy.buckets import batch_ranges, middle

_FIRST_LEVEL = 64.0


class StepCosts:
    """Tables float64[ranges, max_k + 1] of seconds per step, as a function of the mean context.

    Tables are computed at contexts 0, 64, 128, 256, ... when first needed and interpolated linearly:
    at a fixed batch the cost of attention is (nearly) affine in the context, so following it needs
    some ten tables in a whole run rather than a new one every time the context moves.
    """

    def __init__(self, context: PolicyContext) -> None:
        self.ranges = batch_ranges(context.max_batch)
        self.batches = np.array([middle(r) for r in self.ranges], dtype=np.float64)
        """float64[ranges]: the batch size each row was computed at."""
        self.ends = np.array([hi for _, hi in self.ranges], dtype=np.float64)
        self._predict = context.predict
        self._max_k = context.max_k
        self._levels: dict[int, np.ndarray] = {}

    def seconds(self, mean_context: float) -> np.ndarray:
        """The table at `mean_context` tokens per sequence, >= 0 (a new array)."""
        level = 0 if mean_context < _FIRST_LEVEL else 1 + int(math.log2(mean_context / _FIRST_LEVEL))
        low, high = _level_context(level), _level_context(level + 1)
        weight = (mean_context - low) / (high - low)
        below = self._table(level)
        return below + weight * (self._table(level + 1) - below)

    def range_of(self, batch: float) -> int:
        """Index of the range that holds `batch`; the last one for anything larger."""
        return min(int(np.searchsorted(self.ends, batch)), len(self.ranges) - 1)

    def at(self, table: np.ndarray, batch: np.ndarray, k: np.ndarray) -> np.ndarray:
        """`table` at batch sizes [n] and K [n], linear between (and beyond) the rows' batch sizes."""
        if len(self.batches) == 1:
            return table[0, k]
        right = np.clip(np.searchsorted(self.batches, batch), 1, len(self.batches) - 1)
        low, high = self.batches[right - 1], self.batches[right]
        below, above = table[right - 1, k], table[right, k]
        return np.maximum(below + (above - below) * (batch - low) / (high - low), 1e-9)

    def _table(self, level: int) -> np.ndarray:
        if level not in self._levels:
            self._levels[level] = self._compute(_level_context(level))
        return self._levels[level]

    def _compute(self, context: float) -> np.ndarray:
        table = np.array(
            [
                [self._predict(decode_shape(int(b), k, context)) for k in range(self._max_k + 1)]
                for b in self.batches
            ],
            dtype=np.float64,
        )
        if not (np.isfinite(table).all() and (table > 0).all()):
            raise InputError(
                f"the latency model predicts {table.min()} s for a step; it must be positive and finite"
            )
        return table


def _level_context(level: int) -> float:
    return 0.0 if level == 0 else _FIRST_LEVEL * 2.0 ** (level - 1)


def best_k(length: np.ndarray, seconds: np.ndarray) -> np.ndarray:
    """argmax over K of acceptance length [max_k + 1] / step seconds [ranges, max_k + 1] -> int[ranges].

    Tokens per second at a given batch; ties go to the smaller K.
    """
    return np.argmax(length / seconds, axis=1)
