"""`bandit`: the default adaptive policy. Learns acceptance and cost while serving, and explores on a budget.

One tick, top to bottom in `decide`:
1. counts by traffic group -> discounted Beta posteriors on the hazard of every position of the serving
   drafter version (`estimates.py`, `belief.py`); a CUSUM detects shifts and cuts the memory;
2. measured steps -> corrected step seconds, prompt chunks included (`running_costs.py`);
3. K for each range of batch sizes = argmax of expected tokens per corrected second; now and then, with a
   logged probability and a bounded expected loss, a K whose worth is unknown (`probing.py`);
4. drafter: publish a candidate when the lower confidence bound of its gain pays for the stall
   (`promotion.py`), return to static or an earlier version when the live one is credibly worse
   (`drafters.py`), train while the expected gain pays for the trainer (`pacing.py`).

Acceptance feedback is nested: K drafts tell about every smaller K, so arms are not independent and
posterior-mean choice with optimism for *unreached* positions replaces per-arm Thompson or UCB indices.
Tokens per second at a given batch is also the inverse of TPOT there, so the same K serves throughput when
requests queue and latency when they do not; SLO attainment therefore needs no second objective.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from harness.contract import KSchedule, Observation, Plan, TrainPlan, constant_k
from harness.errors import InputError
from harness.policy.base import Policy, PolicyContext
from harness.policy.buckets import to_schedule
from harness.policy.correction import KNOWN
from harness.policy.estimates import Estimates, EstimateSettings
from harness.policy.lengths import lengths, mixed_hazards, mixed_lengths
from harness.policy.pacing import TrainerPacing
from harness.policy.payback import Payback
from harness.policy.probing import Probe, Prober
from harness.policy.publishing import Publisher
from harness.rng import stream

PROBE_TICKS = 4
"""Ticks for which a proposal to probe stands while batch range and K stay the same."""


@dataclass(frozen=True)
class BanditSettings(EstimateSettings):
    """Every number that a user could want to change, with its reason (docs/policies.md has the table)."""

    hysteresis: float = 0.003
    """Relative gain below which K stays as it is."""
    probe_budget: float = 0.01
    """Expected share of tokens per second spent on probes."""
    probe_most: float = 0.1
    """Largest probability of a probe in a tick, however cheap it is."""
    stale_ticks: int = 8
    """Ticks without any verify step (K = 0) after which acceptance counts as unknown."""
    deep_stale_ticks: int = 32
    """Ticks without evidence after which a position deeper than K does."""
    enough: float = 64.0
    """Drafts offered at a position that count as evidence."""
    confidence: float = 2.0
    """Standard errors by which a rollback must win; it is looked at often, so more than one look needs."""
    publish_confidence: float = 0.25
    """Standard errors by which a candidate must win; more after one that did not hold."""
    switch_horizon: float = 30.0
    """Seconds for which a change between resident versions is assumed to be worth something at least."""
    swap_limit: float = 60.0
    """Seconds after which an ordered swap that did not arrive is given up."""
    speed_worth: float = 10.0
    """What a server faster by 1% is worth, in percent of a server, while no requests queue (then it is 1)."""
    horizon: float = 60.0
    """Seconds for which what is learnt is expected to last before any shift was seen."""
    patience: float = 300.0
    """Seconds without a figure to judge by before the trainer is paused, and of the longest pause."""
    mix_change: float = 0.25
    """Total variation of the traffic mix that wakes a paused trainer."""


class Bandit(Policy):
    """See the module's docstring. `bandit:0.35` sets `speed_worth`: how dear a trainer may be."""

    argument: ClassVar[str] = "WORTH"

    def __init__(self, settings: BanditSettings | None = None) -> None:
        self.settings = settings or BanditSettings()

    @classmethod
    def from_argument(cls, argument: str) -> Bandit:
        if not argument:
            return cls()
        try:
            worth = float(argument)
        except ValueError:
            worth = math.nan
        if not 0.0 <= worth < math.inf:
            raise InputError(
                f"WORTH of policy bandit:WORTH is {argument!r}; it must be a number of 0 or more"
            )
        return cls(BanditSettings(speed_worth=worth))

    def reset(self, context: PolicyContext) -> Plan:
        s = self.settings
        self._context = context
        self._rng = stream(context.seed, "policy", "bandit")
        self._estimates = Estimates(context, s)
        self._costs, self._traffic = self._estimates.costs, self._estimates.traffic
        self._drafters, self._clock = self._estimates.drafters, self._estimates.clock
        self._ranges = self._costs.model.ranges
        self._prober = Prober(
            context.max_k, s.probe_budget, s.probe_most, s.stale_ticks, s.deep_stale_ticks, s.enough
        )
        payback = Payback(s.horizon, s.speed_worth, s.patience)
        self._pacing = TrainerPacing(
            payback, context.trainer_accelerators, context.max_batch, s.patience, s.mix_change
        )
        self._publisher = Publisher(s.publish_confidence, s.swap_limit)
        self._tick = 0
        self._training = context.trainer and s.speed_worth > 0.0
        self._probe: Probe | None = None
        self._probe_for = (-1, -1)
        self._probe_until = 0
        self._ks = np.zeros(len(self._ranges), dtype=np.intp)
        self._in_force = self._ks
        self._written: list[int] = []
        self._schedule: KSchedule = ()
        self._rows = np.arange(len(self._ranges))
        if context.max_k == 0:
            return Plan(k_by_batch=constant_k(0), drafter=self._drafters.name)
        self._choose_k(lengths(context.hazards), self._costs.table)
        return self._plan(self._ks, self._training, publish=False, propensity=1.0)

    def decide(self, observation: Observation) -> Plan:
        if self._context.max_k == 0:
            return Plan(k_by_batch=constant_k(0), drafter=self._drafters.name)
        self._tick += 1
        news = self._estimates.update(observation, self._in_force)
        if news.failed:
            self._publisher.failed(observation)
        self._prober.note(self._traffic.offered.sum(axis=0))
        hazards, seconds = self._estimates.hazards, self._estimates.seconds
        self._choose_k(mixed_lengths(hazards, self._traffic.mix), seconds)
        publish = self._choose_drafter(observation)
        self._training = self._context.trainer and self._pacing.on(
            observation, self._traffic, news.shifted, self._costs.correction.interference
        )
        ks, propensity = self._explore(observation, hazards, seconds)
        return self._plan(ks, self._training, publish, propensity)

    # --- what to do ---------------------------------------------------------------------------

    def _choose_k(self, length: np.ndarray, seconds: np.ndarray) -> None:
        score = length / seconds
        best = score.argmax(axis=1)
        stay = score[self._rows, self._ks] >= (1.0 - self.settings.hysteresis) * score[self._rows, best]
        self._ks = np.where(stay, self._ks, best)

    def _explore(
        self, observation: Observation, hazards: np.ndarray, seconds: np.ndarray
    ) -> tuple[np.ndarray, float]:
        """K by range for the coming tick, and the probability of that choice."""
        row = self._costs.model.range_of(observation.batch)
        k = int(self._ks[row])
        if (row, k) != self._probe_for or self._tick >= self._probe_until:
            known = self._costs.correction.steps[row] >= KNOWN
            hoped_cost = self._costs.correction.hoped(self._costs.table, row, k)
            mixed = mixed_hazards(hazards, self._traffic.mix)
            self._probe = self._prober.propose(k, mixed, seconds[row], known, hoped_cost)
            self._probe_for, self._probe_until = (row, k), self._tick + PROBE_TICKS
        probe = self._probe
        if probe is None:
            return self._ks, 1.0
        if self._rng.random() >= probe.probability:
            return self._ks, 1.0 - probe.probability
        self._probe_until = 0
        ks = self._ks.copy()
        ks[max(0, row - 1) : row + 2] = probe.k
        return ks, probe.probability

    def _choose_drafter(self, observation: Observation) -> bool:
        """Settle `self._drafters.name`; True to publish the candidate."""
        s, drafters = self.settings, self._drafters
        self._publisher.follow(observation)
        review = self._tick % s.review_ticks == 0
        if (
            not self._context.trainer
            or not (review or self._publisher.news(observation))
            or drafters.waiting(observation.time, s.swap_limit)
        ):
            return False
        market = self._estimates.market(observation, self._ks)
        if self._publisher.worth_publishing(observation, market, self._clock, drafters):
            prior = self._publisher.promised(observation, market, drafters, self._traffic)
            drafters.promise(prior, observation.time)
            return True
        if review and drafters.reconsider(observation, market, self._clock, s.confidence, s.switch_horizon):
            self._publisher.contradicted(observation)
        return False

    def _plan(self, ks: np.ndarray, train: bool, publish: bool, propensity: float) -> Plan:
        self._in_force = ks
        chosen = ks.tolist()
        if chosen != self._written:
            self._written, self._schedule = chosen, to_schedule(self._ranges, chosen)
        return Plan(
            k_by_batch=self._schedule,
            drafter=self._drafters.name,
            train=TrainPlan(on=train),
            publish=publish,
            propensity=propensity,
        )
