"""What a step costs here and now: the model's table, corrected by measurement, prompt chunks included."""

from __future__ import annotations

import math

import numpy as np

from harness.contract import Observation, StepLatency
from harness.policy.base import PolicyContext
from harness.policy.correction import LatencyCorrection
from harness.policy.costs import StepCosts
from harness.policy.mixed import MixedSteps

EAGER_TICKS = 16
"""Ticks at the start of a run in which measured steps are learned from at once; later in blocks, for costs
change slowly."""


class RunningCosts:
    """Joins `StepCosts`, `LatencyCorrection` and `MixedSteps` for a policy that looks at every tick."""

    def __init__(self, context: PolicyContext, block_ticks: int) -> None:
        self.model = StepCosts(context)
        self.correction = LatencyCorrection(self.model, context.max_k, context.price_spread)
        self.table = self.model.seconds(context.mean_context)
        """float64[ranges, max_k + 1]: uncorrected seconds of decode-only steps at the last context."""
        self._mixed = MixedSteps(self.model)
        self._block_ticks = block_ticks
        self._context = context.mean_context
        self._tick = 0
        self._trainer_steps = 0
        self._waiting: list[tuple[StepLatency, bool]] = []

    def update(self, observation: Observation, ks: np.ndarray) -> np.ndarray:
        """Learn from a tick that ran at K = `ks` [ranges]; returns the seconds charged to the decoding
        sequences of a step, float64[ranges, max_k + 1]."""
        self._tick += 1
        if math.isfinite(observation.mean_context) and observation.mean_context > 0:
            self._context = observation.mean_context
        self.table = self.model.seconds(self._context)
        training = observation.trainer.steps > self._trainer_steps
        self._trainer_steps = observation.trainer.steps
        self._waiting += [(s, training) for s in observation.steps]
        if self._tick <= EAGER_TICKS or self._tick % self._block_ticks == 0:
            self.correction.update(self._waiting, self.table)
            self._waiting.clear()
        alone = self.correction.correct(self.table)
        k = int(ks[self.model.range_of(observation.batch)])
        self._mixed.update(observation, k, alone, math.exp(self.correction.now))
        return self._mixed.add(alone, self.correction)
