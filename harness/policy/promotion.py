"""When is a swap worth its stall, and what do held-out figures say about a candidate.

The stall rule. Let the drafter's gain in tokens per second grow by rho per second of training and a
swap stall the server for s seconds. Publishing every T seconds loses rho T / 2 to waiting and s / T to
stalls; the sum is least at T* = sqrt(2 s / rho) (the economic order quantity, Harris 1913), and there
the gain at hand is g = rho T*, so g T* = 2 s. Publishing when `gain * seconds since the last swap >=
2 * stall` therefore finds the best interval without knowing rho, and reacts at once to a large gain.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from harness.contract import Observation, TrainerState

HELDOUT_CORRELATION = 0.5
"""Assumed correlation of two drafters' outcomes on the same held-out steps (same prefixes, so paired)."""

DESIGN_EFFECT = 6.0
"""Inflation of the variance of a mean over verify steps, because steps come in requests and requests differ.

1 + (m - 1) ICC, with m = 60 steps a request (150 tokens) and ICC = 0.08: request-level acceptance of about
Beta(13.4, 8.1) (published, chat with EAGLE-3) moves the acceptance length at K = 5 by 0.46 (sd) between
requests, against a variance of 2.5 from step to step."""


def pays(gain: float, seconds: float, stall: float) -> bool:
    """Whether a relative `gain` in tokens per second, `seconds` after the last swap, pays for `stall`."""
    return gain > 0.0 and gain * seconds >= 2.0 * stall


class Clock:
    """Follows swaps: what a stall costs here, and how long ago the last one was."""

    def __init__(self, expected_stall: float) -> None:
        self.stall = expected_stall
        """Seconds; a moving average of the measured ones, begun at the expectation."""
        self.last = 0.0
        """Run time of the last successful swap (0: the start of the run)."""
        self._seen: tuple[float, int] | None = None

    def update(self, observation: Observation) -> bool:
        """Take note of the last swap; True when it is news and it failed."""
        swap = observation.last_swap
        if swap is None or (swap.time, swap.version) == self._seen:
            return False
        self._seen = (swap.time, swap.version)
        if math.isfinite(swap.stall) and swap.stall >= 0:
            self.stall += 0.5 * (swap.stall - self.stall)
        if swap.ok:
            self.last = swap.time
        return not swap.ok

    def since(self, time: float) -> float:
        """Seconds from the last swap to `time`, >= 0."""
        return max(0.0, time - self.last)


def heldout_difference(
    trainer: TrainerState,
    better: Mapping[str, float],
    worse: Mapping[str, float],
    mix: Mapping[str, float],
    step_variance: float,
) -> tuple[float, float] | None:
    """Mean and standard error of (better - worse) held-out acceptance length over the traffic mix.

    `mix` weighs domains (any positive scale); domains it lacks are left out. When it shares none with the
    held-out figures (no labels on the traffic), the held-out samples themselves are the weights.
    `step_variance` is the variance of one step's tokens. None when no domain has both figures and samples.
    """
    domains = [d for d in better if d in worse and trainer.heldout_samples.get(d, 0) > 0]
    domains = [d for d in domains if math.isfinite(better[d]) and math.isfinite(worse[d])]
    weights = np.array([max(0.0, mix.get(d, 0.0)) for d in domains])
    samples = np.array([trainer.heldout_samples[d] for d in domains], dtype=np.float64)
    if not domains:
        return None
    if weights.sum() <= 0.0:
        weights = samples
    weights = weights / weights.sum()
    mean = float(weights @ np.array([better[d] - worse[d] for d in domains]))
    per_step = 2.0 * (1.0 - HELDOUT_CORRELATION) * DESIGN_EFFECT * step_variance
    return mean, math.sqrt(per_step * float((weights**2 / samples).sum()))
