"""Arrival processes: endless streams of arrival times in seconds, as non-decreasing float64 chunks.

Every process draws from one NumPy generator that the caller names, starts in its steady state (as if
looked in on at a random moment, so the expected number of arrivals in [0, T] is rate * T from the first
second on), and gives the same times however far it is read.

Sources: stationary start of a renewal process: Cox, Renewal Theory (1962), section 2.2; the Markov-modulated
Poisson process: Fischer & Meier-Hellstern, Performance Evaluation 18 (1993); per-client superposition:
ServeGen (arXiv 2505.09999).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np

from workloads.rates import ConstantRate, Floats, RateCurve

CHUNK = 4096
Law = Literal["exponential", "gamma", "weibull"]


@dataclass(frozen=True, slots=True)
class Gaps:
    """A law of gaps between arrivals, scaled to mean 1. `Gaps.of` takes the coefficient of variation
    instead."""

    law: Law = "exponential"
    shape: float = 1.0
    """Shape of the Gamma or Weibull law; the exponential one has none."""

    @classmethod
    def of(cls, law: Law, cv: float) -> Gaps:
        """The law of that name with standard deviation `cv` times its mean (exponential: always 1)."""
        if law == "gamma":
            return cls(law, cv**-2)
        return cls(law, weibull_shape(cv)) if law == "weibull" else cls(law)

    @property
    def weibull_mean(self) -> float:
        return math.gamma(1 + 1 / self.shape)

    def draw(self, rng: np.random.Generator, n: int) -> Floats:
        """`n` independent gaps, float64[n]."""
        if self.law == "gamma":
            return rng.standard_gamma(self.shape, n) / self.shape
        if self.law == "weibull":
            return rng.weibull(self.shape, n) / self.weibull_mean
        return rng.standard_exponential(n)

    def draw_first(self, rng: np.random.Generator) -> float:
        """Time to the first arrival in the steady state: a uniform share of a length-biased gap.

        Length-biased Gamma(a) is Gamma(a + 1); of a Weibull(c) gap W, W^c is Gamma(1 + 1/c).
        """
        share = rng.random()
        if self.law == "gamma":
            return float(share * rng.standard_gamma(self.shape + 1) / self.shape)
        if self.law == "weibull":
            biased = rng.standard_gamma(1 + 1 / self.shape) ** (1 / self.shape)
            return float(share * biased / self.weibull_mean)
        return float(share * rng.standard_gamma(2.0))


@lru_cache(maxsize=4096)
def weibull_shape(cv: float) -> float:
    """The Weibull shape c with coefficient of variation `cv` (0.02..60).

    It solves Gamma(1 + 2/c) / Gamma(1 + 1/c)^2 = 1 + cv^2.
    """
    low, high = math.log(0.15), math.log(80.0)
    for _ in range(56):  # the left side falls with c; 56 halvings leave rounding error only
        middle = (low + high) / 2
        inverse = math.exp(-middle)
        excess = math.lgamma(1 + 2 * inverse) - 2 * math.lgamma(1 + inverse) - math.log1p(cv * cv)
        low, high = (middle, high) if excess > 0 else (low, middle)
    return math.exp((low + high) / 2)


def renewal(rng: np.random.Generator, rate: RateCurve | float, gaps: Gaps | None = None) -> Iterator[Floats]:
    """Renewal arrivals with the given gap law (default exponential: Poisson), at a rate that may change."""
    gaps = gaps or Gaps()
    curve = rate if not isinstance(rate, int | float) else ConstantRate(float(rate))
    clock = gaps.draw_first(rng)
    yield curve.inverse(np.array([clock]))
    while True:
        # a running sum, so that no bit of a time depends on the size of a chunk
        steps = np.cumsum(np.concatenate(([clock], gaps.draw(rng, CHUNK))))
        clock = float(steps[-1])
        yield curve.inverse(steps[1:])


def markov_modulated(
    rng: np.random.Generator, rates: Sequence[float], dwell: Sequence[float]
) -> Iterator[Floats]:
    """Poisson arrivals whose rate jumps between states at exponential times.

    `rates[i]` (req/s, >= 0, not all 0) holds for a mean of `dwell[i]` seconds, then one of the other states
    follows with equal chance. The share of time in i is dwell[i] / sum(dwell), so the mean rate is
    sum(rates * dwell) / sum(dwell).
    """
    rate, mean_dwell = np.asarray(rates, dtype=np.float64), np.asarray(dwell, dtype=np.float64)
    states = len(rate)
    state = int(rng.choice(states, p=mean_dwell / mean_dwell.sum()))
    per_visit = float((rate * mean_dwell).mean())
    visits = int(np.clip(CHUNK / max(per_visit, 1e-9), 1, CHUNK))
    start = 0.0
    while True:
        jumps = rng.integers(1, states, visits) if states > 1 else np.zeros(visits, dtype=np.int64)
        path = (state + np.concatenate(([0], np.cumsum(jumps)))) % states
        state, path = int(path[-1]), path[:-1]
        seconds = rng.standard_exponential(visits) * mean_dwell[path]
        time = np.concatenate(([0.0], np.cumsum(seconds)))
        area = np.concatenate(([0.0], np.cumsum(seconds * rate[path])))
        clock = np.sort(rng.random(rng.poisson(area[-1]))) * area[-1]
        yield start + np.interp(clock, area, time)
        start += float(time[-1])


@dataclass(frozen=True, slots=True)
class ClientWindow:
    """What one client does in one window."""

    rate: float
    """Requests per second, >= 0."""
    gaps: Gaps = Gaps()


@dataclass(slots=True)
class _Client:
    rng: np.random.Generator
    wait: float | None = None
    """Operational time to its next arrival; None before it was ever active."""

    def window(self, law: ClientWindow, seconds: float) -> Floats:
        """Its arrivals in seconds from the window's start; the gap that is open at the end goes on in the
        next.

        Carrying the open gap (in operational time, which stands still at rate 0) keeps the mean rate exact;
        a fresh start in each window would add (cv^2 - 1) / 2 arrivals to every one of them.
        """
        length = law.rate * seconds
        if self.wait is None and length > 0:
            self.wait = law.gaps.draw_first(self.rng)
        if self.wait is None or self.wait >= length:
            self.wait = None if self.wait is None else self.wait - length
            return np.empty(0)
        found = [np.array([self.wait])]
        while found[-1][-1] < length:
            n = 8 + int(length - found[-1][-1])
            found.append(np.cumsum(np.concatenate((found[-1][-1:], law.gaps.draw(self.rng, n))))[1:])
        clock = np.concatenate(found)
        count = int(np.searchsorted(clock, length, side="left"))
        self.wait = float(clock[count] - length)
        return clock[:count] / law.rate


def superpose(
    rngs: Sequence[np.random.Generator], windows: Iterator[Sequence[ClientWindow]], seconds: float
) -> Iterator[tuple[Floats, np.ndarray]]:
    """Arrivals of many clients: per window of `seconds`, sorted times and the index of each one's client.

    `windows` gives, window after window, one entry per generator of `rngs`; it ends the stream. A window
    without arrivals is not yielded.
    """
    clients = [_Client(rng) for rng in rngs]
    for number, laws in enumerate(windows):
        parts = [client.window(law, seconds) for client, law in zip(clients, laws, strict=True)]
        times = np.concatenate(parts)
        if not len(times):
            continue
        owners = np.repeat(np.arange(len(parts)), [len(p) for p in parts])
        order = np.argsort(times, kind="stable")
        yield number * seconds + times[order], owners[order]
