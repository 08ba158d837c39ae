"""The drafter versions a policy has met: what is believed about each, and which one should serve."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from harness.contract import STATIC, TRAINED, Observation, TrainerState
from harness.policy.belief import PRIOR_STRENGTH, Belief
from harness.policy.lengths import lengths, mixed_hazards, step_variance, with_length
from harness.policy.promotion import DESIGN_EFFECT, Clock, heldout_difference, pays

STATIC_KEY = -1
PROMISE_STRENGTH = 60.0
"""Pseudo-drafts at each position of what newly published weights are expected to do."""

LEAST_STEPS = 200.0
"""Verify steps of live evidence over the running mix without which a version that rests is not considered."""

MAX_VERSIONS = 5
"""Versions remembered, the static one included; the oldest idle one goes first."""


@dataclass(frozen=True)
class Market:
    """What a drafter is worth now: traffic mix [groups], corrected seconds and load by batch range."""

    mix: np.ndarray
    seconds: np.ndarray
    """float64[ranges, max_k + 1]."""
    load: np.ndarray
    """float64[ranges], share of engine time."""
    reference_k: int
    """K of held-out acceptance lengths."""
    running_k: int
    """K that runs now, at least 1: live and other figures are compared there, where evidence is."""
    domains: Mapping[str, float]
    """Traffic mix by domain; empty when unlabelled."""

    def value(self, hazards: np.ndarray) -> float:
        """Tokens per second per sequence, at the best K of each range, hazards [max_k]."""
        return float(self.load @ (lengths(hazards) / self.seconds).max(axis=1))

    def gain(self, hazards: np.ndarray, k: int, now: float, other: float) -> float:
        """Relative gain of acceptance length `other` over `now`, both at K = `k`; `hazards` [max_k] give the
        shape over positions."""
        return self.value(with_length(hazards, k, other)) / self.value(with_length(hazards, k, now)) - 1.0


class Drafters:
    """Beliefs by version, and the choice among versions at hand (a published one, static, earlier ones)."""

    def __init__(self, static_prior: np.ndarray, memory: float, fastest: float, initial: str) -> None:
        self._settings = (memory, fastest)
        self._beliefs: dict[int, Belief] = {STATIC_KEY: Belief(static_prior, memory, fastest)}
        self._promised: np.ndarray | None = None
        self._key = STATIC_KEY
        self._newest: int | None = None
        self._calibration = 1.0
        self._decided_at = 0.0
        self._wanted: int | None = None
        self.name = initial
        """What the plan shall say: `trained`, `static` or `version:N`."""

    @property
    def belief(self) -> Belief:
        """About the drafter that serves."""
        return self._beliefs[self._key]

    def arrive(self, observation: Observation) -> bool:
        """Take note of which drafter serves; True when it is another one than at the last tick."""
        key = STATIC_KEY if observation.drafter == STATIC else observation.drafter_version
        if key != STATIC_KEY:
            self._newest = key if self._newest is None else max(self._newest, key)
        if key == self._wanted:
            self._wanted = None
        if key == self._key:
            return False
        if key not in self._beliefs:
            # New weights: the ordered publication, if one was ordered. A candidate's number need not be
            # the version it gets when it is published.
            prior = self.belief.hazards() if self._promised is None else self._promised
            self._promised = None
            self._beliefs[key] = Belief(prior.copy(), *self._settings, prior_strength=PROMISE_STRENGTH)
        self._key = key
        self._drop_oldest()
        return True

    def weaken(self, strength: float, rows: list[int] | None = None) -> None:
        """See `Belief.weaken`; a change of the traffic or of the verifier concerns every version."""
        for belief in self._beliefs.values():
            belief.weaken(strength, rows)

    def promise(self, prior: np.ndarray, time: float) -> None:
        """A publication was ordered: `prior` [groups, max_k] are the hazards expected of it."""
        self._promised = prior
        self._wanted = None
        self._decided_at = time
        self.name = TRAINED

    def waiting(self, time: float, limit: float) -> bool:
        """Whether an ordered change of drafter is still under way (given up after `limit` seconds)."""
        ordered = self._wanted is not None or self._promised is not None
        return ordered and time - self._decided_at < limit

    def give_up(self) -> None:
        """The ordered change failed: what serves now goes on."""
        self._wanted = self._promised = None
        self.name = self._name_of(self._key)

    def reconsider(
        self, observation: Observation, market: Market, clock: Clock, z: float, horizon: float
    ) -> bool:
        """Change to another version at hand if it is credibly better and the stall pays; True if so."""
        k, strength = market.running_k, self.belief.strength(market.mix)
        hazards = mixed_hazards(self.belief.hazards(), market.mix)
        now = float(lengths(hazards)[k])
        self._calibrate(observation, market, now, strength)
        ceiling = now + z * _error(step_variance(hazards, k), strength)
        others = {key: self._floor(key, observation, market, z) for key in self._credible(market.mix)}
        best = max(others, key=lambda key: others[key], default=self._key)
        if best == self._key or others[best] <= ceiling:
            return False
        gain = market.gain(hazards, k, ceiling, others[best])
        if gain < 0.01 or not pays(gain, max(horizon, clock.since(observation.time)), clock.stall):
            return False
        self._wanted, self._decided_at = best, observation.time
        self.name = self._name_of(best)
        return True

    def _credible(self, mix: np.ndarray) -> list[int]:
        """Other versions at hand that served enough of this mix to be judged; always the static one."""
        return [
            key
            for key, belief in self._beliefs.items()
            if key != self._key and (key == STATIC_KEY or belief.strength(mix) >= LEAST_STEPS)
        ]

    def _floor(self, key: int, observation: Observation, market: Market, z: float) -> float:
        """Lower confidence bound on the acceptance length of version `key` at the running K."""
        belief, k = self._beliefs[key], market.running_k
        hazards = mixed_hazards(belief.hazards(), market.mix)
        if key == STATIC_KEY:
            found = self._heldout_static(observation.trainer, market, hazards)
            if found is not None:
                low = 1.0 + self._calibration * max(0.0, found[0] - z * found[1] - 1.0)
                return float(lengths(with_length(hazards, market.reference_k, low))[k])
        error = _error(step_variance(hazards, k), belief.strength(market.mix))
        return float(lengths(hazards)[k]) - z * error

    def _heldout_static(
        self, trainer: TrainerState, market: Market, hazards: np.ndarray
    ) -> tuple[float, float] | None:
        """Mean and error of the static drafter's held-out acceptance length over the mix."""
        nothing = dict.fromkeys(trainer.heldout_static, 0.0)
        variance = step_variance(hazards, market.reference_k)
        return heldout_difference(trainer, trainer.heldout_static, nothing, market.domains, variance)

    def _calibrate(self, observation: Observation, market: Market, now: float, strength: float) -> None:
        """While static serves, learn how its live length relates to its held-out one."""
        if self._key != STATIC_KEY or strength < 20 * PRIOR_STRENGTH:
            return
        hazards = mixed_hazards(self.belief.hazards(), market.mix)
        found = self._heldout_static(observation.trainer, market, hazards)
        if found is not None and found[0] > 1.0:
            heldout = lengths(with_length(hazards, market.reference_k, found[0]))[market.running_k]
            ratio = (now - 1.0) / max(float(heldout) - 1.0, 1e-3)
            self._calibration += 0.1 * (min(max(ratio, 0.7), 1.3) - self._calibration)

    def _name_of(self, key: int) -> str:
        if key == STATIC_KEY:
            return STATIC
        return TRAINED if key == self._newest else f"version:{key}"

    def _drop_oldest(self) -> None:
        idle = [key for key in self._beliefs if key not in (STATIC_KEY, self._key, self._wanted)]
        while len(self._beliefs) > MAX_VERSIONS and idle:
            oldest = min(idle)
            idle.remove(oldest)
            del self._beliefs[oldest]


def _error(variance: float, steps: float) -> float:
    """Standard error of a live mean acceptance length over `steps` verify steps."""
    return float(np.sqrt(DESIGN_EFFECT * variance / steps))
