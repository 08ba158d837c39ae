"""`goodput`: model-based K without exploration, in the way of SmartSpec / TurboSpec (arXiv 2406.14066).

Keeps a moving average of the hazard at each position over all traffic, and at every tick takes for each
range of batch sizes the K with the most expected tokens per predicted second. Trains throughout and
publishes when the held-out acceptance length of the candidate beats the serving one's.

It learns nothing that its own choices do not reveal: positions deeper than its K keep their last (at
first the offline) estimate, and once it has chosen K = 0 everywhere it has no new evidence at all and
stays there for as long as the load lasts. It trusts the latency model as it is.
"""

from __future__ import annotations

import numpy as np

from harness.contract import STATIC, TRAINED, Observation, Plan, TrainPlan
from harness.policy.base import HAZARD_FLOOR, Policy, PolicyContext
from harness.policy.buckets import to_schedule
from harness.policy.costs import StepCosts, best_k
from harness.policy.lengths import lengths
from harness.policy.promotion import Clock, heldout_difference

MEMORY = 4000.0
"""Offered drafts that an average remembers: the weight of a tick with n of them is n / (n + MEMORY / 2)."""


class Goodput(Policy):
    """Argmax of the model at the moving-average acceptance; greedy."""

    def reset(self, context: PolicyContext) -> Plan:
        self._costs = StepCosts(context)
        self._hazards = context.hazards
        self._context_tokens = context.mean_context
        self._train = TrainPlan(on=context.trainer)
        self._drafter = TRAINED if context.trainer else STATIC
        self._clock = Clock(context.swap_stall)
        self._published: int | None = None
        return self._plan(publish=False)

    def decide(self, observation: Observation) -> Plan:
        self._learn(observation)
        if self._clock.update(observation):
            self._published = None
        if observation.mean_context > 0:
            self._context_tokens = observation.mean_context
        publish = self._train.on and self._candidate_is_better(observation)
        if publish:
            self._published = observation.trainer.candidate
        return self._plan(publish)

    def _learn(self, observation: Observation) -> None:
        max_k = len(self._hazards)
        offered, accepted = np.zeros(max_k), np.zeros(max_k)
        for counts in observation.positions.values():
            n = min(len(counts.offered), max_k)
            offered[:n] += counts.offered[:n]
            accepted[:n] += counts.accepted[:n]
        rate = accepted / np.maximum(offered, 1.0)
        step = offered / (offered + MEMORY / 2)
        self._hazards += step * (rate - self._hazards)
        np.clip(self._hazards, HAZARD_FLOOR, 1.0 - HAZARD_FLOOR, out=self._hazards)

    def _candidate_is_better(self, observation: Observation) -> bool:
        trainer = observation.trainer
        if trainer.candidate is None or trainer.candidate == self._published:
            return False
        mix = {domain: 0.0 for domain, _ in observation.positions}
        for (domain, _), counts in observation.positions.items():
            mix[domain] += counts.offered[0] if counts.offered else 0
        found = heldout_difference(trainer, trainer.heldout_candidate, trainer.heldout_serving, mix, 1.0)
        return found is not None and found[0] > 0.0

    def _plan(self, publish: bool) -> Plan:
        ks = best_k(lengths(self._hazards), self._costs.seconds(self._context_tokens))
        return Plan(
            k_by_batch=to_schedule(self._costs.ranges, ks.tolist()),
            drafter=self._drafter,
            train=self._train,
            publish=publish,
        )
