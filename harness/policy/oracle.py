"""`oracle`, `oracle-load`, `oracle-content`: upper bounds, in the simulator only.

All three publish and choose between static and trained weights by true acceptance; they differ in what
K knows. `oracle` has the true acceptance and the true load; `oracle-load` the true load and context but the
offline acceptance; `oracle-content` the true acceptance but a fixed typical batch. So `oracle` minus one
of the others is what the missing axis is worth. Greedy per tick, hence a bound on K control, not on
every conceivable publication plan.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import numpy as np

from harness.contract import STATIC, TRAINED, Observation, Plan, TrainPlan
from harness.errors import InputError
from harness.policy.base import Policy, PolicyContext, Truth
from harness.policy.buckets import to_schedule
from harness.policy.costs import StepCosts, best_k
from harness.policy.lengths import lengths
from harness.policy.promotion import Clock, pays

SWITCH_HORIZON = 30.0
"""Seconds that a choice between resident drafters is assumed to last at least."""


class Oracle(Policy):
    """Knows the acceptance of the running mix and the batch, under every drafter at hand."""

    needs_truth: ClassVar[bool] = True
    knows_load: ClassVar[bool] = True
    knows_content: ClassVar[bool] = True

    _truth: Callable[[], Truth] | None = None

    def bind_truth(self, truth: Callable[[], Truth]) -> None:
        self._truth = truth

    def reset(self, context: PolicyContext) -> Plan:
        if self._truth is None:
            raise InputError(
                f"policy {self.name or 'oracle'!r} needs the simulator's truth; it cannot run live"
            )
        self._costs = StepCosts(context)
        self._offline = lengths(context.hazards)
        self._context = context
        self._clock = Clock(context.swap_stall)
        self._drafter = TRAINED if context.trainer else STATIC
        self._published: int | None = None
        return self._plan(self._truth(), publish=False)

    def decide(self, observation: Observation) -> Plan:
        assert self._truth is not None, "reset comes before decide"
        truth = self._truth()
        if self._clock.update(observation):
            self._published = None
        publish = self._publishes(observation, truth)
        if publish:
            self._published = observation.trainer.candidate
            self._drafter = TRAINED
        else:
            self._choose_drafter(observation, truth)
        return self._plan(truth, publish)

    def _publishes(self, observation: Observation, truth: Truth) -> bool:
        candidate = observation.trainer.candidate
        if not self._context.trainer or candidate is None or candidate == self._published:
            return False
        if truth.candidate_acceptance_length is None:
            return False
        gain = self._gain(truth, truth.candidate_acceptance_length, truth.acceptance_length)
        return pays(gain, self._clock.since(observation.time), self._clock.stall)

    def _choose_drafter(self, observation: Observation, truth: Truth) -> None:
        horizon = max(SWITCH_HORIZON, self._clock.since(observation.time))
        if observation.drafter != STATIC:
            gain = self._gain(truth, truth.static_acceptance_length, truth.acceptance_length)
            if self._drafter == TRAINED and pays(gain, horizon, self._clock.stall):
                self._drafter = STATIC
        elif truth.trained_acceptance_length is not None:
            gain = self._gain(truth, truth.trained_acceptance_length, truth.acceptance_length)
            if pays(gain, horizon, self._clock.stall):
                self._drafter = TRAINED

    def _gain(self, truth: Truth, other: tuple[float, ...], now: tuple[float, ...]) -> float:
        """Relative gain in tokens per second of `other` over `now`, each at its own best K."""
        row = self._costs.range_of(max(1, truth.batch))
        seconds = self._costs.seconds(truth.context)[row]
        return float((np.array(other) / seconds).max() / (np.array(now) / seconds).max()) - 1.0

    def _plan(self, truth: Truth, publish: bool) -> Plan:
        length = np.array(truth.acceptance_length) if self.knows_content else self._offline
        if self.knows_load:
            ks = best_k(length, self._costs.seconds(truth.context)).tolist()
        else:
            row = self._costs.range_of(self._context.typical_batch)
            table = self._costs.seconds(self._context.mean_context)
            ks = [int(best_k(length, table[row : row + 1])[0])] * len(self._costs.ranges)
        return Plan(
            k_by_batch=to_schedule(self._costs.ranges, ks),
            drafter=self._drafter,
            train=TrainPlan(on=self._context.trainer),
            publish=publish,
        )


class OracleLoad(Oracle):
    """True load and context, offline acceptance."""

    knows_content: ClassVar[bool] = False


class OracleContent(Oracle):
    """True acceptance, one typical batch size and context."""

    knows_load: ClassVar[bool] = False
