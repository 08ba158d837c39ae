"""What training does to acceptance: learning, transfer, forgetting, a target that changed.

The state of a drafter is its *gain* per domain: accepted tokens per verify step at K = `reference_k`,
as a multiple of what the static drafter had on the verifier it was made for (1 static, 0 untrained).
A gain becomes logits by the one shift of the domain's static logits that yields it.

Each gain is the sum of a fast and a slow part (easy features are learned before rare ones: the
spectral modes of a linear learner). While requests of a mix p are trained on, part m of domain d moves

    dg/dn = rate_m * ( p_d * (C - g)  +  (1 - p_d) * cross * r * (T - g) )

with C its share of the domain's ceiling and T = transfer * C the level that training on other domains
alone reaches. Below T, other domains teach (r = 1); above it they make forget, and the domain's own
share in the mix protects, as replay does: r = exp(-p_d / replay_share). The equation is linear on
either side of T, so `consume` solves it exactly: the result does not depend on how a stretch of
constant mix is cut. Constants: `learning.toml`; fit and errors: docs/calibration.md.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
from numba import njit
from scipy.special import expit

from harness.errors import InputError, MissingPart, UnknownName
from harness.sim.acceptance import MAX_K, acceptance_length, chain_probability, solve_logits
from workloads.domains import DomainProfile

LEARNING_FILE = Path(__file__).with_name("learning.toml")

STEPS_PER_REQUEST = 60
"""Verify steps of one request (about 150 tokens): how held-out steps cluster."""

_SHIFTS = np.arange(-280, 241) * 0.05  # logit shifts of the gain table; holds 0 exactly


@dataclass(frozen=True, slots=True)
class LearningParams:
    """Global constants of the learning curve. Rates are per request trained on."""

    fast_share: float
    """Share of a gain that is learned fast."""
    fast_rate: float
    slow_rate: float
    cross: float
    """Pull of one request of another domain, over that of one of the domain itself."""
    replay_share: float
    """Share of its own in the mix at which a domain's forgetting falls by 1/e."""
    reference_k: int = 5
    """The K at which gains are defined (Aurora unrolls 5 to 7 draft steps)."""

    def __post_init__(self) -> None:
        positive = (self.fast_rate, self.slow_rate, self.replay_share)
        if not (0 <= self.fast_share <= 1 and self.cross >= 0 and min(positive) > 0):
            raise InputError(
                f"{self}: shares lie in 0..1, rates and replay_share above 0, cross at or above 0"
            )
        if not 1 <= self.reference_k <= MAX_K:
            raise InputError(f"reference_k is {self.reference_k}; it must lie in 1..{MAX_K}")


@cache
def load_params(path: Path = LEARNING_FILE) -> LearningParams:
    """The fitted constants, from the shipped file unless told otherwise."""
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
        return LearningParams(**table)
    except OSError as error:
        raise MissingPart(f"cannot read learning constants from {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, TypeError) as error:
        raise InputError(f"{path} holds no learning constants: {error}") from error


@dataclass(frozen=True, slots=True)
class DrafterState:
    """Immutable weights, as far as the simulator knows them."""

    version: int
    gains: tuple[float, ...]
    """Per domain, on the verifier of `verifier_version`."""
    verifier_version: int = 0
    samples: float = 0.0
    """Requests trained on so far."""


class LearningCurve:
    """The training weights, and what any drafter's weights are worth on the current verifier.

    `consume` and `verifier_update` change the training weights; all else reads.
    """

    def __init__(
        self,
        profiles: Sequence[DomainProfile],
        params: LearningParams | None = None,
        start: Literal["pretrained", "untrained"] = "pretrained",
    ) -> None:
        if start not in ("pretrained", "untrained"):
            raise UnknownName("start of the drafter", start, ("pretrained", "untrained"))
        self.profiles = tuple(profiles)
        self.params = params or load_params()
        self.verifier_version = 0
        self._index = {p.name: i for i, p in enumerate(self.profiles)}
        self._maps = [_gain_map(p, self.params.reference_k) for p in self.profiles]
        fast = self.params.fast_share
        self._ceilings = np.outer((fast, 1.0 - fast), [p.ceiling for p in self.profiles])
        self._transfers = np.array([p.transfer for p in self.profiles])
        self._rates = np.array([self.params.fast_rate, self.params.slow_rate])
        skill = 1.0 if start == "pretrained" else 0.0
        self._parts = np.outer((fast, 1.0 - fast), np.full(len(self.profiles), skill))
        self._retained: list[float] = []
        self._samples, self._version = 0.0, 0

    def consume(self, counts: np.ndarray) -> None:
        """Train on `counts[d]` requests of each domain (float64[n_domains], fractions allowed), mixed."""
        counts = np.asarray(counts, dtype=np.float64)
        if counts.shape != (len(self.profiles),) or not np.all(np.isfinite(counts) & (counts >= 0)):
            raise InputError(f"counts are {counts.tolist()}; they must be one finite number >= 0 per domain")
        total = float(counts.sum())
        if total == 0.0:
            return
        cross, guard = self.params.cross, self.params.replay_share
        _train(self._parts, self._ceilings, self._transfers, self._rates, cross, guard, counts / total, total)
        self._samples += total
        self._version += 1

    def candidate(self) -> DrafterState:
        """The training weights as they are now; before any training, the drafter of the start."""
        gains = tuple(self._parts.sum(axis=0).tolist())
        return DrafterState(self._version, gains, self.verifier_version, self._samples)

    def static(self) -> DrafterState:
        """The pretrained drafter that never changes, made for verifier 0."""
        return DrafterState(0, (1.0,) * len(self.profiles))

    @staticmethod
    def corrupted(state: DrafterState, keep: float = 0.0) -> DrafterState:
        """`state` as a broken or poisoned checkpoint that keeps the share `keep` of its gains."""
        return replace(state, gains=tuple(keep * g for g in state.gains))

    def verifier_update(self, retained: float) -> None:
        """The target changed: every drafter made before keeps the share `retained` (0..1) of its gains.

        Training weights lose it too and may relearn; other states are discounted whenever they are read.
        """
        if not 0.0 <= retained <= 1.0:
            raise InputError(
                f"retained is {retained}; the share of accepted tokens that is kept lies in 0..1"
            )
        self._retained.append(retained)
        self.verifier_version += 1
        self._parts *= retained

    def gains(self, state: DrafterState) -> np.ndarray:
        """float64[n_domains]: what the state's gains are worth on the current verifier."""
        return np.array(state.gains) * math.prod(self._retained[state.verifier_version :])

    def logits(self, state: DrafterState) -> np.ndarray:
        """float64[n_domains, MAX_K] for the current verifier; -inf where the drafter knows nothing."""
        gains = self.gains(state).tolist()
        return np.array([m.logits(g) for m, g in zip(self._maps, gains, strict=True)])

    def reference_length(self, state: DrafterState) -> np.ndarray:
        """float64[n_domains]: true acceptance length at K = `reference_k` on the current verifier."""
        return 1.0 + self.gains(state) * np.array([m.static_gain for m in self._maps])

    def acceptance_length(self, state: DrafterState, domain: str, k: int) -> float:
        """True acceptance length at K = `k` on the current verifier, pooled over verify steps."""
        row = self._row(state, domain)
        return acceptance_length(row, self.profiles[self._at(domain)].latent_sd, k)

    def heldout(
        self, state: DrafterState, domain: str, samples: int, rng: np.random.Generator, k: int
    ) -> float:
        """Acceptance length at K = `k` as measured on `samples` >= 1 held-out verify steps.

        The steps come from samples / STEPS_PER_REQUEST requests, each with its own latent: the error
        of the estimate has the clustering that a real one has.
        """
        if samples < 1:
            raise InputError(f"samples is {samples}; a held-out estimate needs at least one verify step")
        row = self._row(state, domain)
        sd = self.profiles[self._at(domain)].latent_sd
        latent = rng.normal(0.0, sd, size=-(-samples // STEPS_PER_REQUEST))
        steps_weight = 1.0 / (1.0 + chain_probability(row, latent, k).sum(axis=1))
        alive = rng.multinomial(samples, steps_weight / steps_weight.sum())
        accepted = 0
        for depth in range(k):
            alive = rng.binomial(alive, expit(row[depth] + latent))
            accepted += int(alive.sum())
        return 1.0 + accepted / samples

    def _row(self, state: DrafterState, domain: str) -> np.ndarray:
        index = self._at(domain)
        return self._maps[index].logits(float(self.gains(state)[index]))

    def _at(self, domain: str) -> int:
        try:
            return self._index[domain]
        except KeyError:
            raise UnknownName("domain of this run", domain, self._index) from None


@dataclass(frozen=True, eq=False)
class _GainMap:
    """Between a domain's gain and the shift of its static logits."""

    static: np.ndarray  # float64[MAX_K] logits
    static_gain: float
    """Accepted tokens per verify step of the static drafter at the reference K."""
    gains: np.ndarray
    """Gain at each of `_SHIFTS`, rising."""

    def logits(self, gain: float) -> np.ndarray:
        if gain < self.gains[0]:
            return np.full(MAX_K, -np.inf)
        return self.static + np.interp(gain, self.gains, _SHIFTS)


def _gain_map(profile: DomainProfile, reference_k: int) -> _GainMap:
    found = _gain_map_of(profile.hazards, profile.latent_sd, profile.measured_k, reference_k)
    reach = profile.ceiling * found.static_gain
    if found.static_gain <= 0.0 or reach > 0.98 * reference_k:
        raise InputError(
            f"domain {profile.name!r}: its static drafter gains {found.static_gain:.2f} tokens a step at "
            f"K = {reference_k} and its ceiling {reach:.2f}; both must lie above 0 and below "
            f"{0.98 * reference_k:.2f}"
        )
    return found


@lru_cache(maxsize=256)
def _gain_map_of(hazards: tuple[float, ...], sd: float, measured_k: int, reference_k: int) -> _GainMap:
    static = solve_logits(hazards, sd, measured_k)
    accepted = np.array([acceptance_length(static + s, sd, reference_k) - 1.0 for s in _SHIFTS])
    own = float(accepted[np.searchsorted(_SHIFTS, 0.0)])
    return _GainMap(static, own, accepted / own if own > 0 else accepted)


@njit(cache=True)
def _train(
    parts: np.ndarray,  # float64[2, n_domains], changed in place
    ceilings: np.ndarray,  # float64[2, n_domains]
    transfers: np.ndarray,  # float64[n_domains]
    rates: np.ndarray,  # float64[2]
    cross: float,
    replay_share: float,
    mix: np.ndarray,  # float64[n_domains], sums to 1
    requests: float,
) -> None:
    for d in range(mix.size):
        guard = math.exp(-mix[d] / replay_share)
        for m in range(2):
            own, other = rates[m] * mix[d], rates[m] * cross * (1.0 - mix[d])
            level = transfers[d] * ceilings[m, d]
            parts[m, d] = _pulled(parts[m, d], ceilings[m, d], level, own, other, guard, requests)


@njit(cache=True)
def _pulled(
    gain: float, ceiling: float, level: float, own: float, other: float, guard: float, requests: float
) -> float:
    """Solve the module's equation for one part over `requests` requests of one mix, exactly.

    From below the transfer level the solution crosses it at most once; from above it never does.
    """
    rate = own + other
    if gain < level and rate > 0.0:
        rest = (own * ceiling + other * level) / rate
        crossing = math.log((rest - gain) / (rest - level)) / rate if rest > level else math.inf
        if requests <= crossing:
            return rest + (gain - rest) * math.exp(-rate * requests)
        gain, requests = level, requests - crossing
    rate = own + other * guard
    if rate == 0.0:
        return gain
    rest = (own * ceiling + other * guard * level) / rate
    return rest + (gain - rest) * math.exp(-rate * requests)
