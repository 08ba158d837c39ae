"""Predicted seconds of a step by (batch range, K), cached so that a tick costs no prediction."""

from __future__ import annotations

import math
from bisect import bisect_left
from dataclasses import replace

import numpy as np

from harness.errors import InputError
from harness.latency.shape import StepShape, decode_shape
from harness.policy.base import PolicyContext
from harness.policy.buckets import batch_ranges, middle

_FIRST_LEVEL = 256.0
_PREFILL = (0, 256, 1024, 4096)
"""Prompt tokens per step at which tables of mixed steps are computed."""


class StepCosts:
    """Tables float64[ranges, max_k + 1] of seconds per step, as a function of the mean context.

    Tables are computed at contexts 0, 256, 1024, 4096, ... when first needed and interpolated linearly: at a
    fixed batch the cost of attention is (nearly) affine in the context, so following it needs a handful of
    tables in a whole run rather than a new one every time the context moves.
    """

    def __init__(self, context: PolicyContext) -> None:
        self.ranges = batch_ranges(context.max_batch)
        self.batches = np.array([middle(r) for r in self.ranges], dtype=np.float64)
        """float64[ranges]: the batch size each row was computed at."""
        self.ends = np.array([hi for _, hi in self.ranges], dtype=np.float64)
        self._predict = context.predict
        self._max_k = context.max_k
        self._reference = context.mean_context
        self._levels: dict[int, np.ndarray] = {}
        self._extra = {0: np.zeros((len(self.ranges), context.max_k + 1))}
        self._without: np.ndarray | None = None
        self._prompts: dict[int, float] = {0: 0.0}

    def seconds(self, mean_context: float) -> np.ndarray:
        """The decode-only table at `mean_context` tokens per sequence, >= 0 (a new array)."""
        level = 0
        if mean_context >= _FIRST_LEVEL:
            level = 1 + int(math.log2(mean_context / _FIRST_LEVEL) / 2.0)
        low, high = _level_context(level), _level_context(level + 1)
        return _between(self._table(level), self._table(level + 1), (mean_context - low) / (high - low))

    def prompt_extra(self, prefill: float) -> np.ndarray:
        """What `prefill` prompt tokens add to a step, float64[ranges, max_k + 1] seconds: at the context known
        before the run, for attention over other sequences' contexts adds to both alike."""
        few, many = _bracket(_PREFILL, prefill)
        part = min((prefill - few) / (many - few), 1.0)
        return _between(self._prompt_table(few), self._prompt_table(many), part)

    def prompt_alone(self, prefill: float) -> float:
        """Seconds of a step with `prefill` prompt tokens and nothing else."""
        few, many = _bracket(_PREFILL, prefill)
        part = min((prefill - few) / (many - few), 1.0)
        return self._prompt_step(few) + part * (self._prompt_step(many) - self._prompt_step(few))

    def prefill_of(self, extra: float, batch: float, k: int) -> float:
        """Prompt tokens per step, 0..4096, that explain `extra` seconds beyond a decode-only step at `batch`
        and K = `k`: what a server does not report, read off its step time."""
        row, few, below = self.range_of(batch), 0, 0.0
        for many in _PREFILL[1:]:
            above = float(self._prompt_table(many)[row, k])
            if extra < above:
                return few + (many - few) * max(0.0, extra - below) / (above - below)
            few, below = many, max(below, above)
        return float(_PREFILL[-1])

    def range_of(self, batch: float) -> int:
        """Index of the range that holds `batch`; the last one for anything larger."""
        return min(int(self.ends.searchsorted(batch)), len(self.ranges) - 1)

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
            self._levels[level] = self._compute(_level_context(level), 0)
        return self._levels[level]

    def _prompt_table(self, tokens: int) -> np.ndarray:
        if tokens not in self._extra:
            self._extra[tokens] = self._compute(self._reference, tokens) - self._at_reference()
        return self._extra[tokens]

    def _at_reference(self) -> np.ndarray:
        if self._without is None:
            self._without = self._compute(self._reference, 0)
        return self._without

    def _prompt_step(self, tokens: int) -> float:
        if tokens not in self._prompts:
            pairs = tokens * (tokens + 1) / 2
            alone = StepShape(
                prefill_seqs=1,
                prefill_tokens=tokens,
                prefill_pairs=pairs,
                sampled_rows=1,
                drafter_loaded=True,
            )
            self._prompts[tokens] = self._predict(alone)
        return self._prompts[tokens]

    def _compute(self, context: float, prefill: int) -> np.ndarray:
        ks = range(self._max_k + 1)
        table = np.array(
            [[self._predict(_shape(int(b), k, context, prefill)) for k in ks] for b in self.batches],
            dtype=np.float64,
        )
        if not (np.isfinite(table).all() and (table > 0).all()):
            raise InputError(
                f"the latency model predicts {table.min()} s for a step; it must be positive and finite"
            )
        return table


def best_k(length: np.ndarray, seconds: np.ndarray) -> np.ndarray:
    """argmax over K of acceptance length [max_k + 1] / step seconds [ranges, max_k + 1] -> int[ranges].

    Tokens per second at a given batch; ties go to the smaller K.
    """
    return np.argmax(length / seconds, axis=1)


def _between(low: np.ndarray, high: np.ndarray, weight: float) -> np.ndarray:
    return low + weight * (high - low)


def _bracket(levels: tuple[int, ...], value: float) -> tuple[int, int]:
    """The neighbouring levels round `value`; the last two for anything above them."""
    at = min(max(bisect_left(levels, value), 1), len(levels) - 1)
    return levels[at - 1], levels[at]


def _level_context(level: int) -> float:
    return 0.0 if level == 0 else _FIRST_LEVEL * 4.0 ** (level - 1)


def _shape(batch: int, k: int, context: float, prefill: int) -> StepShape:
    """A decode step, with the first `prefill` tokens of one prompt in it."""
    shape = decode_shape(batch, k, context)
    if prefill == 0:
        return shape
    pairs = prefill * (prefill + 1) / 2
    return replace(shape, prefill_seqs=1, prefill_tokens=prefill, prefill_pairs=pairs)
