"""`static:K`: the same K at every batch size, the drafter as it was delivered, no training."""

from __future__ import annotations

from typing import ClassVar

from harness.contract import STATIC, Observation, Plan, constant_k
from harness.policy.base import Policy, PolicyContext, check_k, whole_number


class StaticK(Policy):
    """`static:0` is not `none`: its engine carries a drafter, and pays for it."""

    trains: ClassVar[bool] = False
    argument: ClassVar[str] = "K"

    def __init__(self, k: int = 3) -> None:
        self.k = k

    @classmethod
    def from_argument(cls, argument: str) -> StaticK:
        return cls(whole_number(argument, "K of policy static:K", least=0))

    def reset(self, context: PolicyContext) -> Plan:
        check_k(self.k, context.max_k, f"policy static:{self.k}")
        return self._plan()

    def decide(self, observation: Observation) -> Plan:
        return self._plan()

    def _plan(self) -> Plan:
        return Plan(k_by_batch=constant_k(self.k), drafter=STATIC)
