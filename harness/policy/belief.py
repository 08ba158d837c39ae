"""What is believed about the acceptance of one drafter version: discounted Beta posteriors on hazards.

For every traffic group and position, an accepted and an offered count, both discounted as new evidence
comes. The feedback of a verify step is nested and censored: with K drafts it tells the outcome at positions
0..K-1 up to the first rejection and nothing deeper. Dividing by *offered at that position* keeps each
hazard unbiased whatever K was; positions that no recent step reached lean on the group's others through
the prior, which is the version's shape over positions moved by the log-odds that the group has shown.
"""

from __future__ import annotations

import math

import numpy as np

from harness.policy.base import HAZARD_FLOOR
from harness.policy.lengths import expit, logit

PRIOR_STRENGTH = 12.0
"""Pseudo-drafts of the prior at each position."""

GROUP_STRENGTH = 24.0
"""Pseudo-drafts that hold a group's log-odds shift at zero."""


class Belief:
    """Counts float64[groups, max_k] of one version, with prior hazards of the same shape."""

    def __init__(
        self, prior: np.ndarray, memory: float, fastest: float, prior_strength: float = PRIOR_STRENGTH
    ) -> None:
        self.accepted = np.zeros_like(prior)
        self.offered = np.zeros_like(prior)
        self._prior = np.clip(prior, HAZARD_FLOOR, 1.0 - HAZARD_FLOOR)
        self._prior_logit = logit(self._prior)
        self._prior_strength = prior_strength
        self._memory = memory
        self._fastest = fastest
        self._hazards: np.ndarray | None = None

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

    def weaken(self, strength: float, rows: list[int] | None = None) -> None:
        """Cut the evidence of groups `rows` (None: all) to at most `strength` drafts a position, its mean
        unchanged: something has changed, and what comes now shall count."""
        chosen = slice(None) if rows is None else rows
        most = self.offered[chosen].max(axis=1, keepdims=True)
        keep = strength / np.maximum(most, strength)
        self.offered[chosen] *= keep
        self.accepted[chosen] *= keep
        self._hazards = None

    def hazards(self) -> np.ndarray:
        """Posterior mean hazards float64[groups, max_k]; do not write into it."""
        if self._hazards is None:
            self._hazards = self._posterior()
        return self._hazards

    def strength(self, mix: np.ndarray) -> float:
        """Effective verify steps of live evidence behind the mean over `mix` [groups]: 1 / sum (w^2 / n).

        The prior hardly counts here: an expectation is not a measurement."""
        n = self.offered[:, 0] + 1.0
        return float(1.0 / max(1e-12, (mix**2 / n).sum()))

    def _posterior(self) -> np.ndarray:
        held = GROUP_STRENGTH * self._prior[:, 0]
        found = self.accepted.sum(axis=1) + held
        missed = self.offered.sum(axis=1) + GROUP_STRENGTH - found
        expected = (self.offered * self._prior).sum(axis=1) + held
        unexpected = found + missed - expected
        # The log-odds of found over those of expected; both were regularised by the same pseudo-drafts.
        shift = np.log(found * unexpected / (np.maximum(missed, 1e-6) * expected))
        prior = expit(self._prior_logit + shift[:, None])
        strength = self._prior_strength
        mean = (self.accepted + strength * prior) / (self.offered + strength)
        return mean.clip(HAZARD_FLOOR, 1.0 - HAZARD_FLOOR)


MOST_TOGETHER = 0.4
"""Correlation of successive residuals that is believed at most: with more of it, a shift passes for a hard request
(closed world of the tests, two requests at a time: at 0.4 none of 60 shifts is missed, one false alarm comes in 500
ticks; at 0.8 18 are missed; at 0 a false alarm comes every 64)."""


class ShiftDetector:
    """Two-sided CUSUM (Page 1954) per group on the standardised residual of each tick's acceptance.

    The residual's variance is binomial times an overdispersion that is learned: requests differ, so ticks
    vary more than coin flips do, most of all at small batches. A request lasts over several ticks, so residuals hang
    together, too: by how much is learned, and scores are divided by the standard deviation that their sum then has
    (a first-order autoregression: (1 + r) / (1 - r) times the variance).
    """

    def __init__(self, groups: int, drift: float, threshold: float) -> None:
        self._up = [0.0] * groups
        self._down = [0.0] * groups
        self._spread = [2.0] * groups
        self._together = [0.0] * groups
        self._last = [0.0] * groups
        self._drift, self._threshold = drift, threshold

    def update(self, belief: Belief, offered: np.ndarray, accepted: np.ndarray) -> list[int]:
        """Groups in which this tick's counts end a run that `belief` (which has not seen them) cannot
        explain."""
        hazards = belief.hazards()
        expected = offered * hazards
        variance = (expected * (1.0 - hazards)).sum(axis=1).tolist()
        excess = (accepted - expected).sum(axis=1).tolist()
        known = belief.offered[:, 0].tolist()
        return [
            row
            for row, n in enumerate(offered[:, 0].tolist())
            if n > 0
            and self._alarm(row, excess[row], variance[row] * (1.0 + n / (known[row] + PRIOR_STRENGTH)))
        ]

    def _alarm(self, row: int, excess: float, variance: float) -> bool:
        score = excess / math.sqrt(variance * self._spread[row])
        score = min(max(score, -10.0), 10.0)
        # Clipped, so that a true shift raises the alarm before it raises the noise level.
        spread = self._spread[row] * (1.0 + 0.05 * (min(score * score, 6.0) - 1.0))
        self._spread[row] = min(max(spread, 1.0), 30.0)
        score *= self._thinned(row, score)
        self._up[row] = max(0.0, self._up[row] + score - self._drift)
        self._down[row] = max(0.0, self._down[row] - score - self._drift)
        if max(self._up[row], self._down[row]) <= self._threshold:
            return False
        self._up[row] = self._down[row] = 0.0
        return True

    def _thinned(self, row: int, score: float) -> float:
        """What a score counts for, as like its predecessors as scores have been."""
        pair = min(max(score * self._last[row], -2.0), 2.0)
        self._last[row] = score
        r = self._together[row] + 0.05 * (pair - self._together[row])
        r = self._together[row] = min(max(r, 0.0), MOST_TOGETHER)
        return math.sqrt((1.0 - r) / (1.0 + r))
