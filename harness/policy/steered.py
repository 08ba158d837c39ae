"""A bandit whose K somebody else chooses: what a learned policy sees, and what it decides.

Everything but K at the running batch sizes is `bandit`'s: what is believed, which drafter serves, when to publish, when
to train. The simulator's Gymnasium environment (where K is learned) and `ppo` (which runs what was learned, simulated
or live) are both steered bandits, so both ends mean the same. Nothing in the vector has a unit: speeds are ratios to
K = 0 on the same machine. What was learned on one server can therefore be tried on another.
"""

from __future__ import annotations

import math
from abc import abstractmethod

import numpy as np

from harness.contract import Observation, Plan
from harness.policy.bandit import Bandit
from harness.policy.base import PolicyContext
from harness.policy.lengths import mixed_lengths

MOST_K = 7
"""Largest K that can be chosen; engines that allow less get their most."""

FEATURES = (
    *(f"worth of K={k}" for k in range(1, MOST_K + 1)),
    *(f"doubt at position {i}" for i in range(MOST_K)),
    "K",
    "ticks without drafts",
    "batch",
    "waiting",
    "kv use",
    "prefill",
    "slower than predicted",
    "slower for the trainer",
    "trainer on",
    "drafter's age",
)
"""Names of the vector's entries, in order. A file learned with other ones is refused."""


class Steered(Bandit):
    """Asks `steer` for K at every tick."""

    argument = ""

    @abstractmethod
    def steer(self, features: np.ndarray, most: int) -> tuple[int, float]:
        """K for the coming tick, 0..`most`, and the probability with which it was chosen; `features` is
        float32[len(FEATURES)], each within -5..5."""

    def reset(self, context: PolicyContext) -> Plan:
        self._k = self._idle_ticks = 0
        return super().reset(context)

    def _explore(
        self, observation: Observation, hazards: np.ndarray, seconds: np.ndarray
    ) -> tuple[np.ndarray, float]:
        row = self._costs.model.range_of(observation.batch)
        self._idle_ticks = 0 if self._traffic.offered[:, 0].any() else self._idle_ticks + 1
        features = np.array(
            [
                *self._worths(hazards, seconds[row]),
                *self._doubts(),
                self._k / MOST_K,
                math.log1p(self._idle_ticks) / 4.0,
                *self._load(observation),
                float(observation.trainer.alive and self._training),
                math.log1p(max(0.0, observation.drafter_age)) / 8.0,
            ]
        )
        features = np.nan_to_num(features, nan=0.0).clip(-5.0, 5.0).astype(np.float32)
        self._k, propensity = self.steer(features, min(MOST_K, self._context.max_k))
        ks = self._ks.copy()
        ks[max(0, row - 1) : row + 2] = self._k  # the batch moves within a tick
        return ks, propensity

    def _worths(self, hazards: np.ndarray, seconds: np.ndarray) -> np.ndarray:
        """log of tokens per second at K = 1..MOST_K over K = 0; -1 where the engine allows no such K."""
        worth, most = np.full(MOST_K, -1.0), min(MOST_K, self._context.max_k)
        score = np.log((mixed_lengths(hazards, self._traffic.mix) / seconds)[: most + 1])
        worth[:most] = score[1:] - score[0]
        return worth

    def _doubts(self) -> np.ndarray:
        """1 / sqrt(1 + drafts of recent evidence) by position, over the running mix; 1 where none can be."""
        doubt, most = np.ones(MOST_K), min(MOST_K, self._context.max_k)
        evidence = self._traffic.mix @ self._drafters.belief.offered
        doubt[:most] = 1.0 / np.sqrt(1.0 + evidence[:most])
        return doubt

    def _load(self, o: Observation) -> list[float]:
        correction = self._costs.correction
        return [
            math.log2(1.0 + o.batch) / 8.0,
            math.log1p(o.waiting / (1.0 + o.running)),
            o.kv_use,
            math.log1p(o.prefill_tokens / max(1, o.engine_steps)) / 8.0,
            correction.now,
            correction.interference[0],
        ]
