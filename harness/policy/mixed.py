"""Steps that carry prompt tokens beside the decoding sequences: how many there are, what drafts cost in them.

Under load most steps are mixed. A draft token that is nearly free in a memory-bound decode step costs its full
price in a step that a prompt chunk has already made compute-bound. Prompts arrive at a rate that K does not
change and have to be computed anyway, so decoding is charged only for what it *adds* to a mixed step, and the best
K is smaller than the decode-only table says.

A server does not report its chunks; their size is read off the time left after the decode-only steps.
"""

from __future__ import annotations

import numpy as np

from harness.contract import Observation
from harness.policy.correction import LatencyCorrection
from harness.policy.costs import StepCosts

RATE = 0.25
"""Weight of a tick in the averages."""

LEAST_SHARE = 0.05
"""Share of mixed steps below which they are left out."""


class MixedSteps:
    """Follows the share of mixed steps and the prompt tokens they carry."""

    def __init__(self, costs: StepCosts) -> None:
        self._costs = costs
        self.share = 0.0
        """Share of engine steps that also carry prompt tokens, a moving average."""
        self.prefill = 0.0
        """Prompt tokens of such a step, a moving average."""
        self._known_for: float | None = None
        self._extra = np.zeros(0)
        self._time: float | None = None
        self._busy = False

    def update(self, observation: Observation, k: int, alone: np.ndarray, factor: float) -> None:
        """Take note of a tick that ran at K = `k`; `alone`: the corrected decode-only table; `factor`: measured
        over predicted step time just now.

        Only ticks with work throughout tell: at both ends requests must be running."""
        elapsed = None if self._time is None else observation.time - self._time
        busy = self._busy and observation.running > 0
        self._time, self._busy = observation.time, observation.running > 0
        mixed = observation.engine_steps - sum(s.steps for s in observation.steps)
        if elapsed is None or not busy or observation.engine_steps <= 0 or mixed < 0:
            return
        self.share += RATE * (mixed / observation.engine_steps - self.share)
        swapped = observation.last_swap is not None and observation.drafter_age <= elapsed
        if mixed and not swapped:
            seconds = (elapsed - sum(s.seconds for s in observation.steps)) / mixed
            decode = float(alone[self._costs.range_of(observation.running), k])
            tokens = self._costs.prefill_of((seconds - decode) / factor, observation.running, k)
            self.prefill += RATE * (tokens - self.prefill)

    def add(self, alone: np.ndarray, correction: LatencyCorrection) -> np.ndarray:
        """Mean seconds charged to the decoding sequences of a step, float64[ranges, max_k + 1], mixed steps
        included; `alone` is the corrected decode-only table."""
        if self.share < LEAST_SHARE or self.prefill <= 0.0:
            return alone
        prefill = round(self.prefill, -1)
        if self._known_for != prefill:
            self._known_for = prefill
            self._extra = self._costs.prompt_extra(prefill) - self._costs.prompt_alone(prefill)
        return np.maximum(alone + self.share * correction.correct_mixed(self._extra), 0.05 * alone)
