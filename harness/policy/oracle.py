"""`oracle`, `oracle-load`, `oracle-content`: what perfect knowledge of acceptance is worth, in simulation only.

All three publish, and choose between static and trained weights, by true acceptance; they differ in what K
knows. `oracle` has the true acceptance and the true load; `oracle-load` the true load and context but the offline
acceptance; `oracle-content` the true acceptance but a fixed typical batch. So `oracle` minus one of the others is
what the missing axis is worth. They are greedy: the best K for the tokens per second of this moment, not the best
plan over time; costs (prompt chunks, a trainer that slows the server) they measure as any policy does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import numpy as np

from harness.contract import STATIC, TRAINED, Observation, Plan, TrainPlan
from harness.errors import InputError
from harness.policy.base import Policy, PolicyContext, Truth
from harness.policy.buckets import to_schedule
from harness.policy.costs import best_k
from harness.policy.lengths import lengths
from harness.policy.peaks import Peaks
from harness.policy.promotion import Clock, pays
from harness.policy.running_costs import RunningCosts

SWITCH_HORIZON = 30.0
"""Seconds that a choice between resident drafters is assumed to last at least."""

GAIN_RATE = 0.05
"""Weight of a tick in the average gain of another drafter: the mix that runs changes with every request."""


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
            name = self.name or "oracle"
            raise InputError(f"policy {name!r} needs the simulator's truth; it cannot run live")
        self._costs = RunningCosts(context, block_ticks=1)
        self._offline = lengths(context.hazards)
        self._context = context
        self._clock = Clock(context.swap_stall)
        self._peaks = Peaks(context.max_batch)
        self._drafter = TRAINED if context.trainer else STATIC
        self._published: int | None = None
        self._other_gain = 0.0
        self._ks = self._choose_k(self._truth(), self._costs.table)
        return self._plan(train=context.trainer, publish=False)

    def decide(self, observation: Observation) -> Plan:
        assert self._truth is not None, "reset comes before decide"
        truth = self._truth()
        if self._clock.update(observation):
            self._published = None
        seconds = self._costs.update(observation, self._ks)
        publish = self._publishes(observation, truth, seconds)
        if publish:
            self._published = observation.trainer.candidate
            self._drafter = TRAINED
            self._other_gain = 0.0
        else:
            self._choose_drafter(observation, truth, seconds)
        self._ks = self._choose_k(truth, seconds)
        aside = self._peaks.in_the_way(observation, self._costs.correction.interference)
        return self._plan(self._context.trainer and not aside, publish)

    def _choose_k(self, truth: Truth, seconds: np.ndarray) -> np.ndarray:
        length = np.array(truth.acceptance_length) if self.knows_content else self._offline
        if self.knows_load:
            return best_k(length, seconds)
        model = self._costs.model
        row = model.range_of(self._context.typical_batch)
        typical = model.seconds(self._context.mean_context)[row : row + 1]
        return np.full(len(model.ranges), int(best_k(length, typical)[0]))

    def _publishes(self, observation: Observation, truth: Truth, seconds: np.ndarray) -> bool:
        candidate = observation.trainer.candidate
        if not self._context.trainer or candidate is None or candidate == self._published:
            return False
        if truth.candidate_acceptance_length is None:
            return False
        gain = self._gain(truth, truth.candidate_acceptance_length, seconds)
        return pays(gain, self._clock.since(observation.time), self._clock.stall)

    def _choose_drafter(self, observation: Observation, truth: Truth, seconds: np.ndarray) -> None:
        """Static weights for trained ones or back, when that has been better for a while."""
        on_static = observation.drafter == STATIC
        other = truth.trained_acceptance_length if on_static else truth.static_acceptance_length
        if other is None:
            return
        self._other_gain += GAIN_RATE * (self._gain(truth, other, seconds) - self._other_gain)
        horizon = max(SWITCH_HORIZON, self._clock.since(observation.time))
        wanted = TRAINED if on_static else STATIC
        if self._drafter != wanted and pays(self._other_gain, horizon, self._clock.stall):
            self._drafter = wanted
            self._other_gain = 0.0

    def _gain(self, truth: Truth, other: tuple[float, ...], seconds: np.ndarray) -> float:
        """Relative gain in tokens per second of `other` over what serves, each at its own best K."""
        row = seconds[self._costs.model.range_of(max(1, truth.batch))]
        now = np.array(truth.acceptance_length)
        return float((np.array(other) / row).max() / (now / row).max()) - 1.0

    def _plan(self, train: bool, publish: bool) -> Plan:
        return Plan(
            k_by_batch=to_schedule(self._costs.model.ranges, self._ks.tolist()),
            drafter=self._drafter,
            train=TrainPlan(on=train),
            publish=publish,
        )


class OracleLoad(Oracle):
    """True load and context, offline acceptance."""

    knows_content: ClassVar[bool] = False


class OracleContent(Oracle):
    """True acceptance, one typical batch size and context."""

    knows_load: ClassVar[bool] = False
