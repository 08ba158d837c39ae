"""What is believed about the acceptance of one drafter version: discounted Beta posteriors on hazards.

For every traffic group and position, an accepted and an offered count, both discounted as new evidence
comes. The feedback of a verify step is nested and censored: with K drafts it tells the outcome at positions
0..K-1 up to the first rejection and nothing deeper. Dividing by *offered at that position* keeps each
hazard unbiased whatever K was; positions that no recent step reached lean on the group's others through
the prior, which is the version's shape over positions moved by the log-odds that the group has shown.
"""

from __future__ import annotations

import numpy as np

from harness.policy.base import HAZARD_FLOOR
from harness.policy.lengths import expit, logit

PRIOR_STRENGTH = 12.0
"""Pseudo-drafts of the prior at each position."""

GROUP_STRENGTH = 24.0
"""Pseudo-drafts that hold a group's log-odds shift at zero."""


class Belief:
    """Counts float64[groups, max_k] of one version, with prior hazards of the same shape."""

    def __init__(self, prior: np.ndarray, memory: float, fastest: float) -> None:
        self.accepted = np.zeros_like(prior)
        self.offered = np.zeros_like(prior)
        self.set_prior(prior)
        self._memory = memory
        self._fastest = fastest
        self._hazards: np.ndarray | None = None

    def set_prior(self, prior: np.ndarray) -> None:
        """Replace the prior hazards [groups, max_k]; the counts stay."""
        self._prior = np.clip(prior, HAZARD_FLOOR, 1.0 - HAZARD_FLOOR)
        self._prior_logit = logit(self._prior)
        self._hazards = None

    def observe(self, offered: np.ndarray, accepted: np.ndarray) -> None:
        """Add one tick's counts [groups, max_k].

        A group forgets by its own evidence: e^(-n / memory) for n new verify steps, at least `fastest`.
        A group (or drafter) that is not running forgets nothing, so a domain that returns is known.
        """
        keep = np.maximum(np.exp(offered[:, :1] / -self._memory), self._fastest)
        self.offered *= keep
        self.accepted *= keep
        self.offered += offered
        self.accepted += accepted
        self._hazards = None

    def weaken(self, strength: float, rows: np.ndarray | None = None) -> None:
        """Cut the evidence of groups `rows` (bool[groups]; None: all) to at most `strength` drafts a
        position, its mean unchanged: something has changed, and what comes now shall count."""
        keep = np.minimum(1.0, strength / np.maximum(self.offered.max(axis=1, keepdims=True), strength))
        if rows is not None:
            keep = np.where(rows[:, None], keep, 1.0)
        self.offered *= keep
        self.accepted *= keep
        self._hazards = None

    def hazards(self) -> np.ndarray:
        """Posterior mean hazards float64[groups, max_k]; do not write into it."""
        if self._hazards is None:
            self._hazards = self._posterior()
        return self._hazards

    def strength(self, mix: np.ndarray) -> float:
        """Effective verify steps behind the first position, over `mix` [groups]: 1 / sum w^2 / n."""
        n = self.offered[:, 0] + PRIOR_STRENGTH
        return float(1.0 / max(1e-12, (mix**2 / n).sum()))

    def _posterior(self) -> np.ndarray:
        seen = self.offered.sum(axis=1) + GROUP_STRENGTH
        held = GROUP_STRENGTH * self._prior[:, 0]
        found = (self.accepted.sum(axis=1) + held) / seen
        expected = ((self.offered * self._prior).sum(axis=1) + held) / seen
        shift = logit(np.clip(found, 1e-3, 1.0 - 1e-3)) - logit(expected)
        prior = expit(self._prior_logit + shift[:, None])
        mean = (self.accepted + PRIOR_STRENGTH * prior) / (self.offered + PRIOR_STRENGTH)
        return np.clip(mean, HAZARD_FLOOR, 1.0 - HAZARD_FLOOR)


class ShiftDetector:
    """Two-sided CUSUM (Page 1954) per group on the standardised residual of each tick's acceptance.

    The residual's variance is binomial times an overdispersion that is learned: requests differ, so ticks
    vary more than coin flips do, most of all at small batches.
    """

    def __init__(self, groups: int, drift: float, threshold: float) -> None:
        self._up = np.zeros(groups)
        self._down = np.zeros(groups)
        self._spread = np.full(groups, 2.0)
        self._drift, self._threshold = drift, threshold

    def update(self, belief: Belief, offered: np.ndarray, accepted: np.ndarray) -> np.ndarray:
        """bool[groups]: where the acceptance of this tick's counts ends a run that `belief` (which has not
        seen them) cannot explain."""
        hazards = belief.hazards()
        expected = offered * hazards
        own = belief.offered[:, 0] + PRIOR_STRENGTH
        spread = self._spread * (1.0 + offered[:, 0] / own)
        variance = (expected * (1.0 - hazards)).sum(axis=1) * spread
        seen = offered[:, 0] > 0
        score = (accepted.sum(axis=1) - expected.sum(axis=1)) / np.sqrt(np.where(seen, variance, 1.0))
        score = np.clip(np.where(seen, score, 0.0), -10.0, 10.0)
        self._learn_spread(score, seen)
        self._up = np.maximum(0.0, self._up + score - np.where(seen, self._drift, 0.0))
        self._down = np.maximum(0.0, self._down - score - np.where(seen, self._drift, 0.0))
        alarm = (self._up > self._threshold) | (self._down > self._threshold)
        if alarm.any():
            self._up[alarm] = self._down[alarm] = 0.0
        return alarm

    def _learn_spread(self, score: np.ndarray, seen: np.ndarray) -> None:
        # Clipped, so that a true shift raises the alarm before it raises the noise level.
        square = np.minimum(score * score, 6.0)
        self._spread *= np.where(seen, 1.0 + 0.05 * (square - 1.0), 1.0)
        np.clip(self._spread, 1.0, 30.0, out=self._spread)
