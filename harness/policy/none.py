"""`none`: no speculation, no drafter in the engine. The baseline of every speedup."""

from __future__ import annotations

from typing import ClassVar

from harness.contract import STATIC, Observation, Plan, constant_k
from harness.policy.base import Policy, PolicyContext


class NoSpeculation(Policy):
    """K = 0 for ever, in an engine started without a drafter."""

    trains: ClassVar[bool] = False
    uses_drafter: ClassVar[bool] = False

    def reset(self, context: PolicyContext) -> Plan:
        return Plan(k_by_batch=constant_k(0), drafter=STATIC)

    def decide(self, observation: Observation) -> Plan:
        return Plan(k_by_batch=constant_k(0), drafter=STATIC)
