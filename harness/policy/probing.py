"""When to try a K that the model does not favour, and how often: exploration with a bounded cost.

A verify step reveals every smaller K as well, so nothing is gained by trying small K for acceptance. What
can be unknown is the acceptance at positions that no recent step reached (all of them at K = 0) and the cost
of a (batch, K) cell never measured. Both are met with optimism: would this K win if the unknown were as
good as it can be? If so it is tried now and then, so seldom that the expected loss stays under a budget.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from harness.policy.lengths import expit, lengths, logit

OPTIMISTIC_HAZARD = 0.95
"""Hoped for where nothing at all is known: at K = 0."""

OPTIMISTIC_LOG_ODDS = 1.0
"""Hoped for above the estimate at a deep position, while shallower ones are seen: they move together."""


@dataclass(frozen=True, slots=True)
class Probe:
    """Try `k` with `probability` in the coming tick."""

    k: int
    probability: float


class Prober:
    """Keeps which positions have been seen lately; proposes at most one K to try."""

    def __init__(
        self, max_k: int, budget: float, most: float, stale_ticks: int, deep_stale_ticks: int, enough: float
    ) -> None:
        self._seen = np.zeros(max_k)
        self._recent = np.zeros(max_k)
        self._tick = 0
        self._budget, self._most = budget, most
        self._stale_ticks, self._deep_stale_ticks, self._enough = stale_ticks, deep_stale_ticks, enough

    def note(self, offered: np.ndarray) -> None:
        """Count one tick's drafts offered [max_k] over all traffic."""
        self._tick += 1
        self._recent += offered
        reached = self._recent >= self._enough
        self._seen[reached] = self._tick
        self._recent[reached] = 0.0

    def stale(self) -> np.ndarray:
        """bool[max_k]: positions without fresh evidence."""
        age = self._tick - self._seen
        return age > (self._stale_ticks if age[0] > self._stale_ticks else self._deep_stale_ticks)

    def propose(
        self, k: int, hazards: np.ndarray, seconds: np.ndarray, known: np.ndarray, hoped_cost: np.ndarray
    ) -> Probe | None:
        """The nearest K to `k` that is unknown and could win; None when there is nothing to learn.

        hazards [max_k] of the running mix; seconds, known (bool: cost was measured) and hoped_cost (the share
        of its estimate that each K may cost) [max_k + 1] at the running batch size.
        """
        stale = self.stale()
        unknown = ~known
        unknown[1:] |= np.logical_or.accumulate(stale)
        expected = lengths(hazards) / seconds
        hoped = lengths(_hoped(hazards, stale)) / seconds if stale.any() else expected
        hoped = hoped / hoped_cost
        wanted = [j for j in np.flatnonzero(unknown & (hoped > expected[k])).tolist() if j != k]
        if not wanted:
            return None
        # Ties go up: a deeper K also tells about the shallower ones.
        chosen = min(wanted, key=lambda j: (abs(j - k), -j))
        loss = max(1.0 - float(expected[chosen] / expected[k]), 1e-3)
        return Probe(chosen, min(self._most, self._budget / loss))


def _hoped(hazards: np.ndarray, stale: np.ndarray) -> np.ndarray:
    """Hazards [max_k] with the stale ones as good as they can be."""
    if stale[0]:
        return np.where(stale, np.maximum(hazards, OPTIMISTIC_HAZARD), hazards)
    return np.where(stale, expit(logit(hazards) + OPTIMISTIC_LOG_ODDS), hazards)
