"""What a policy has learned while serving: acceptance by drafter version and traffic group, step costs, the mix.

`bandit` decides by it with rules of its own, a learned policy sees it as numbers (`interface.py`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from harness.contract import STATIC, TRAINED, Observation
from harness.policy.base import PolicyContext
from harness.policy.belief import ShiftDetector
from harness.policy.drafters import Drafters, Market
from harness.policy.promotion import Clock
from harness.policy.running_costs import RunningCosts
from harness.policy.traffic import MAX_GROUPS, Traffic


@dataclass(frozen=True)
class EstimateSettings:
    """Memories and alarms; docs/policies.md has the reasons."""

    memory: float = 4000.0
    """Verify steps of a group after which its evidence has weight 1/e."""
    fastest: float = 0.75
    """Least share of evidence kept over one tick: at least some four ticks are averaged."""
    mix_rate: float = 0.5
    """Weight of a tick in the traffic mix that K is chosen for."""
    slow_mix_rate: float = 0.05
    """Weight of a tick in the traffic mix that publications are judged on."""
    drift: float = 0.5
    """CUSUM allowance, in standard deviations of a tick's residual."""
    threshold: float = 8.0
    """CUSUM alarm level, in the same unit."""
    after_shift: float = 24.0
    """Drafts of old evidence kept at each position after an alarm."""
    review_ticks: int = 6
    """Ticks between looks at the drafter choice and at step costs; a new candidate is looked at when it comes."""


@dataclass(frozen=True, slots=True)
class News:
    """What a tick brought beside counts."""

    shifted: bool
    """Acceptance, the mix or the verifier has changed."""
    failed: bool
    """A swap that was ordered has failed."""


class Estimates:
    """Begun with a run, told every observation."""

    def __init__(self, context: PolicyContext, settings: EstimateSettings) -> None:
        s = self._settings = settings
        self._context = context
        self.costs = RunningCosts(context, s.review_ticks)
        self.traffic = Traffic(context.max_k, s.mix_rate, s.slow_mix_rate)
        self.clock = Clock(context.swap_stall)
        prior = np.tile(context.hazards, (MAX_GROUPS, 1))
        self.drafters = Drafters(prior, s.memory, s.fastest, TRAINED if context.trainer else STATIC)
        self.seconds = self.costs.table
        """float64[ranges, max_k + 1]: what a step is charged to its decoding sequences, corrected by measurement."""
        self._detector = ShiftDetector(MAX_GROUPS, s.drift, s.threshold)
        self._verifier: int | None = None
        self._shifts = 0

    def update(self, observation: Observation, ks: np.ndarray) -> News:
        """Learn from a tick that ran at K = `ks` [ranges]."""
        failed = self.clock.update(observation)
        if failed:
            self.drafters.give_up()
        shifted = self._learn_acceptance(observation)
        if observation.trainer.shifts > self._shifts:
            # The learner sees every request's label, also while nothing is drafted.
            self._shifts, shifted = observation.trainer.shifts, True
            self.traffic.forget()
        self.seconds = self.costs.update(observation, ks)
        return News(shifted, failed)

    @property
    def hazards(self) -> np.ndarray:
        """float64[groups, max_k] of the drafter that serves; do not write into it."""
        return self.drafters.belief.hazards()

    def market(self, observation: Observation, ks: np.ndarray) -> Market:
        """What a drafter is worth now, at K = `ks` [ranges]."""
        traffic, costs = self.traffic, self.costs
        return Market(
            mix=traffic.slow_mix,
            seconds=self.seconds,
            load=costs.correction.load,
            reference_k=self._context.reference_k,
            running_k=max(1, int(ks[costs.model.range_of(observation.batch)])),
            domains=traffic.domain_mix(),
        )

    def _learn_acceptance(self, observation: Observation) -> bool:
        """Update the serving version's belief; True when acceptance or the verifier has shifted."""
        after = self._settings.after_shift
        changed = self.drafters.arrive(observation)
        updated = self._verifier is not None and observation.verifier_version != self._verifier
        self._verifier = observation.verifier_version
        if updated:
            self.drafters.weaken(after)
        traffic = self.traffic
        steps = traffic.read(observation.positions)
        # Counts of a tick in which the weights or the verifier changed belong to two different worlds.
        if changed or updated or steps == 0:
            return updated
        belief = self.drafters.belief
        alarm = self._detector.update(belief, traffic.offered, traffic.accepted)
        if alarm:
            self.drafters.weaken(after, alarm)
        belief.observe(traffic.offered, traffic.accepted)
        return bool(alarm)
