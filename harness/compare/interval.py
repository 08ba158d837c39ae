"""A ratio with its 95% interval from paired log ratios, one per seed.

The interval is Student's t on the log ratios. With few seeds a bootstrap over seeds is far too narrow
(at 5 seeds its 95% interval covers 82%, at 2 seeds 50%), and with many it is no better; figures and
method in docs/statistics.md. The BCa bootstrap stands beside it as a check for skew, never decides.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats

CONFIDENCE = 0.95
BOOTSTRAP_SEEDS = 10
"""Seeds from which on a bootstrap interval is shown: below, it covers less than 89%."""
RESAMPLES = 2000


def t_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """Two-sided 95% Student-t interval of the mean of independent `values`; None for fewer than two."""
    n = len(values)
    if n < 2:
        return None
    mean, deviation = float(np.mean(values)), float(np.std(values, ddof=1))
    half = float(stats.t.ppf(0.5 + CONFIDENCE / 2, n - 1)) * deviation / math.sqrt(n)
    return mean - half, mean + half


def bootstrap_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """BCa bootstrap 95% interval of the mean (scipy, fixed stream); None for few or equal values."""
    if len(values) < BOOTSTRAP_SEEDS or np.ptp(values) == 0:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)
        done = stats.bootstrap(
            (np.asarray(values),),
            np.mean,
            confidence_level=CONFIDENCE,
            n_resamples=RESAMPLES,
            method="BCa",
            random_state=np.random.default_rng(0),
        )
    low, high = map(float, done.confidence_interval)
    return (low, high) if math.isfinite(low) and math.isfinite(high) else None


def ratio(pairs: Mapping[int, tuple[float | None, float | None]]) -> dict[str, Any]:
    """Geometric mean over seeds of numerator / denominator, with interval.

    `pairs` maps a seed to (numerator, denominator). The result holds `estimate`, `low`, `high` (None
    with one seed), `n`, `method`, `by_seed`, `bootstrap`; where a value is missing or not positive,
    all are None and `reason` says which.
    """
    for seed, pair in pairs.items():
        if any(v is None or not (math.isfinite(v) and v > 0) for v in pair):
            return _missing(len(pairs), f"seed {seed} has no positive value on both sides")
    if not pairs:
        return _missing(0, "no seeds")
    logs = {seed: math.log(a) - math.log(b) for seed, (a, b) in pairs.items() if a and b}
    return from_logs(logs)


def from_logs(logs: Mapping[int, float]) -> dict[str, Any]:
    """The same from log ratios by seed (at least one)."""
    values = list(logs.values())
    interval, check = t_interval(values), bootstrap_interval(values)
    return {
        "estimate": math.exp(float(np.mean(values))),
        "low": None if interval is None else math.exp(interval[0]),
        "high": None if interval is None else math.exp(interval[1]),
        "n": len(values),
        "method": "student-t on log ratios paired by seed",
        "by_seed": {str(seed): math.exp(v) for seed, v in logs.items()},
        "bootstrap": None if check is None else [math.exp(check[0]), math.exp(check[1])],
        "reason": "one seed gives no interval" if interval is None else None,
    }


def outcome(found: Mapping[str, Any]) -> str:
    """`faster`, `slower` or `undecided` by where 1 lies; `unknown` without an interval."""
    if found["low"] is None:
        return "unknown"
    if found["low"] > 1.0:
        return "faster"
    return "slower" if found["high"] < 1.0 else "undecided"


def _missing(n: int, reason: str) -> dict[str, Any]:
    nothing = dict.fromkeys(("estimate", "low", "high", "by_seed", "bootstrap"))
    return {**nothing, "n": n, "method": None, "reason": reason}
