"""`schedule`: a batch-size table tuned offline, then left alone.

What vLLM's `num_speculative_tokens_per_batch_size` gives a careful user: K for each range of batch
sizes is the argmax of expected tokens per step over predicted step seconds, with the acceptance and
the context known before the run. It follows load; it is blind to drift.
"""

from __future__ import annotations

from typing import ClassVar

from harness.contract import STATIC, Observation, Plan
from harness.policy.base import Policy, PolicyContext
from harness.policy.buckets import to_schedule
from harness.policy.costs import StepCosts, best_k
from harness.policy.lengths import lengths


class Schedule(Policy):
    """The static drafter under a fixed K table; no training."""

    trains: ClassVar[bool] = False

    _plan: Plan

    def reset(self, context: PolicyContext) -> Plan:
        costs = StepCosts(context)
        ks = best_k(lengths(context.hazards), costs.seconds(context.mean_context))
        self._plan = Plan(k_by_batch=to_schedule(costs.ranges, ks.tolist()), drafter=STATIC)
        return self._plan

    def decide(self, observation: Observation) -> Plan:
        return self._plan
