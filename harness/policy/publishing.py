"""Whether a candidate is worth a swap, and what is expected of it afterwards."""

from __future__ import annotations

import numpy as np

from harness.contract import UNKNOWN, Observation
from harness.policy.drafters import Drafters, Market
from harness.policy.lengths import lengths, mixed_hazards, step_variance, with_length
from harness.policy.promotion import Clock, heldout_difference, pays
from harness.policy.traffic import Traffic

_MOST_DOUBT = 4
_FIRST_RETRY = 10.0


class Publisher:
    """Compares a candidate with the serving drafter on held-out figures, over the traffic that runs.

    It grows careful: each published version that live traffic contradicts raises the number of standard
    errors the next one must win by; each that holds lowers it again. Failed swaps are retried after 10, 20,
    40, ... seconds.
    """

    def __init__(self, confidence: float, hold: float) -> None:
        self._confidence = confidence
        self._hold = hold
        self._doubt = 0
        self._trial: float | None = None
        self._failures = 0
        self._not_before = 0.0
        self._sent: int | None = None
        self._looked: int | None = None

    def news(self, observation: Observation) -> bool:
        """Whether there is a candidate that was not looked at yet."""
        return observation.trainer.candidate not in (None, self._looked)

    def failed(self, observation: Observation) -> None:
        """An ordered swap failed: what serves goes on, the candidate gets another chance later."""
        self._not_before = observation.time + _FIRST_RETRY * 2.0 ** min(self._failures, 6)
        self._failures += 1
        self._trial = self._sent = None

    def follow(self, observation: Observation) -> None:
        """Take note of a published version that has held for a while."""
        if self._trial is not None and observation.time - self._trial > self._hold:
            self._trial = None
            self._failures = 0
            self._doubt = max(0, self._doubt - 1)

    def contradicted(self, observation: Observation) -> None:
        """The policy changed away from what serves; soon after a publication that speaks against it."""
        if self._trial is not None:
            self._trial = None
            self._doubt = min(_MOST_DOUBT, self._doubt + 1)

    def worth_publishing(
        self, observation: Observation, market: Market, clock: Clock, drafters: Drafters
    ) -> bool:
        """Whether the lower confidence bound of the candidate's gain in tokens per second pays the stall."""
        candidate = self._looked = observation.trainer.candidate
        if candidate is None or observation.time < self._not_before or candidate == self._sent:
            return False
        hazards = mixed_hazards(drafters.belief.hazards(), market.mix)
        found = self._difference(observation, market, hazards)
        if found is None:
            return False
        low = found[0] - (self._confidence + self._doubt) * found[1]
        now = float(lengths(hazards)[market.reference_k])
        if low <= 0.0:
            return False
        gain = market.gain(hazards, market.reference_k, now, now + low)
        if not pays(gain, clock.since(observation.time), clock.stall):
            return False
        self._trial = observation.time
        self._sent = candidate
        return True

    def promised(
        self, observation: Observation, market: Market, drafters: Drafters, traffic: Traffic
    ) -> np.ndarray:
        """Hazards [groups, max_k] expected of the candidate: what serves, moved by the held-out difference
        of each group's domain; the mean difference for a domain without one, and before any group was met."""
        hazards = drafters.belief.hazards().copy()
        trainer = observation.trainer
        k = market.reference_k
        found = self._difference(observation, market, mixed_hazards(hazards, market.mix))
        overall = 0.0 if found is None else found[0]
        for row, domain in traffic.groups or ((0, UNKNOWN),):
            step = overall
            if domain in trainer.heldout_candidate and domain in trainer.heldout_serving:
                step = trainer.heldout_candidate[domain] - trainer.heldout_serving[domain]
            hazards[row] = with_length(hazards[row], k, float(lengths(hazards[row])[k]) + step)
        return hazards

    def _difference(
        self, observation: Observation, market: Market, hazards: np.ndarray
    ) -> tuple[float, float] | None:
        trainer = observation.trainer
        variance = step_variance(hazards, market.reference_k)
        return heldout_difference(
            trainer, trainer.heldout_candidate, trainer.heldout_serving, market.domains, variance
        )
