"""`cadence[:N[@K]]`: Aurora's released behaviour.

Fixed K, trains always, publishes every N finished requests whatever the candidate is worth: no check
before a swap, no rollback, never K = 0. N = 400 is 50 trainer steps of 8 requests, as in the released
examples (togethercomputer/aurora, commit 8358be4); K = 5 is the lower end of its 5-7 draft steps.
"""

from __future__ import annotations

from typing import ClassVar

from harness.contract import TRAINED, Observation, Plan, TrainPlan, constant_k
from harness.policy.base import Policy, PolicyContext, check_k, whole_number

DEFAULT_K = 5


class Cadence(Policy):
    """Publishes on a fixed count of requests; when no candidate is ready then, as soon as one is."""

    argument: ClassVar[str] = "[N][@K]"
    learner = "aurora"

    def __init__(self, every: int | None = None, k: int | None = None) -> None:
        self.every = every
        """Finished requests between publications; None: the context's `publish_requests`."""
        self.k = k
        """None: 5, or `max_k` when that is less."""

    @classmethod
    def from_argument(cls, argument: str) -> Cadence:
        every, at, k = argument.partition("@")
        return cls(
            every=whole_number(every, "N of policy cadence:N@K", least=1) if every else None,
            k=whole_number(k, "K of policy cadence:N@K", least=0) if at else None,
        )

    def reset(self, context: PolicyContext) -> Plan:
        k = min(DEFAULT_K, context.max_k) if self.k is None else self.k
        self._schedule = constant_k(check_k(k, context.max_k, f"policy {self.name or 'cadence'}"))
        self._every = context.publish_requests if self.every is None else self.every
        self._train = TrainPlan(on=context.trainer)
        self._since = 0
        self._published: int | None = None
        return self._plan(publish=False)

    def decide(self, observation: Observation) -> Plan:
        self._since += observation.finished
        candidate = observation.trainer.candidate
        due = self._train.on and self._since >= self._every
        # A swap takes time: the candidate just sent still stands as ready at the next ticks.
        publish = due and candidate is not None and candidate != self._published
        if publish:
            self._since = 0
            self._published = candidate
        return self._plan(publish)

    def _plan(self, publish: bool) -> Plan:
        return Plan(k_by_batch=self._schedule, drafter=TRAINED, train=self._train, publish=publish)
