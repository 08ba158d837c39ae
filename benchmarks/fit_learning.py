"""Fit the learning curve to Aurora's published curves, and print the fit beside them.

    python benchmarks/fit_learning.py [--check]

Free: five global constants (`harness/sim/learning.toml`), the ceiling of each of the four segments
and the transfer of segments 2 to 4 (`workloads/domains.toml`): 12 numbers for 20 published points
and the two dips. The transfer of segment 1 is the mean of the others: nothing published depends on
it but the shuffled stream. `--check` fits nothing and prints the errors of the shipped constants.
"""

from __future__ import annotations

import argparse
from dataclasses import replace

import numpy as np
from scipy.optimize import least_squares

from harness.sim import aurora
from harness.sim.learning import LearningCurve, LearningParams, load_params
from workloads.domains import DomainProfile, domain

GLOBALS = ("fast_share", "fast_rate", "slow_rate", "cross", "replay_share")
LOWER = [0.05, 5e-5, 1e-5, 0.02, 0.02] + [1.05] * 4 + [0.05] * 3
UPPER = [0.90, 3e-3, 3e-4, 1.00, 0.50] + [2.10] * 4 + [0.95] * 3
STARTS = 4
BELOW_STATIC = {1: 1_050, 2: 1_050}
"""Segments that start below the static drafter, and the middle of the published 600 to 1,500 requests."""

Model = tuple[LearningParams, list[DomainProfile]]


def shipped() -> Model:
    return load_params(), [domain(s.domain) for s in aurora.ORDERED]


def unpack(x: np.ndarray) -> Model:
    params, profiles = shipped()
    params = replace(params, **dict(zip(GLOBALS, x[:5].tolist(), strict=True)))
    transfers = [float(x[9:].mean()), *x[9:].tolist()]
    pairs = zip(profiles, x[5:9].tolist(), transfers, strict=True)
    return params, [replace(p, ceiling=c, transfer=t) for p, c, t in pairs]


def pack(model: Model) -> np.ndarray:
    params, profiles = model
    values = [getattr(params, n) for n in GLOBALS]
    return np.array(values + [p.ceiling for p in profiles] + [p.transfer for p in profiles[1:]])


def points(model: Model) -> list[tuple[str, float, float]]:
    """(what, published, modelled) for every published acceptance length that training moves."""
    params, profiles = model
    found = []
    for start, column in (("pretrained", "online"), ("untrained", "scratch")):
        replayed = aurora.replay_ordered(LearningCurve(profiles, params, start))
        for segment, got in zip(aurora.ORDERED, replayed, strict=True):
            begin, end = getattr(segment, column)
            found += [(f"{segment.domain} {column} start", begin, got.start)]
            found += [(f"{segment.domain} {column} end", end, got.end)]
        curve = aurora.MIXED_ONLINE if column == "online" else aurora.MIXED_SCRATCH
        at = tuple(n for n, _ in curve[1:])
        lengths = aurora.replay_mixed(LearningCurve(profiles, params, start), at)
        found += [(f"mixed {column} {n}", y, m) for (n, y), m in zip(curve[1:], lengths, strict=True)]
    return found


def dips(model: Model) -> dict[int, tuple[float, int]]:
    """Per segment of BELOW_STATIC: acceptance length over the static drafter's in the middle of the
    published time of recovery, and the requests until the serving drafter has recovered."""
    params, profiles = model
    found = {}
    replayed = aurora.replay_ordered(LearningCurve(profiles, params))
    for index, middle in BELOW_STATIC.items():
        curve = LearningCurve(profiles, params)
        for before in range(index):
            curve.consume(np.eye(4)[before] * aurora.ORDERED[before].requests)
        curve.consume(np.eye(4)[index] * middle)
        gap = curve.reference_length(curve.candidate()) - curve.reference_length(curve.static())
        found[index] = (float(gap[index]), replayed[index].below_static)
    return found


def residuals(x: np.ndarray) -> np.ndarray:
    """Errors in acceptance length, with their squares so that none grows large, and weak priors."""
    model = unpack(x)
    errors = np.array([modelled - published for _, published, modelled in points(model)])
    recovered = np.array([gap for gap, _ in dips(model).values()])
    priors = np.concatenate([0.02 * (x[5:9] - 1.5), 0.05 * (x[9:] - 0.5)])
    return np.concatenate([errors, 4.0 * errors**2, 0.5 * recovered, priors])


def fit() -> np.ndarray:
    lower, upper = np.array(LOWER), np.array(UPPER)
    rng = np.random.default_rng(0)
    starts = [pack(shipped())] + [rng.uniform(lower, upper) for _ in range(STARTS - 1)]
    options = {"bounds": (lower, upper), "x_scale": upper - lower, "max_nfev": 60}
    found = [least_squares(residuals, np.clip(s, lower, upper), **options) for s in starts]
    return min(found, key=lambda f: f.cost).x


def report(model: Model) -> None:
    params, profiles = model
    print({n: float(f"{getattr(params, n):.4g}") for n in GLOBALS})
    for p in profiles:
        print(f"{p.name}: ceiling {p.ceiling:.3f}, transfer {p.transfer:.3f}")
    rows = points(model)
    for what, published, modelled in rows:
        error = modelled - published
        print(f"{what:28s} published {published:.2f}  modelled {modelled:.2f}  error {error:+.2f}")
    errors = np.array([modelled - published for _, published, modelled in rows])
    print(f"{len(rows)} points: error max {np.abs(errors).max():.3f}, RMS {np.sqrt((errors**2).mean()):.3f}")
    for index, (gap, below) in dips(model).items():
        print(f"segment {index + 1}: below static for {below} requests; {gap:+.3f} at {BELOW_STATIC[index]}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="print the errors of the shipped constants")
    report(shipped() if parser.parse_args().check else unpack(fit()))


if __name__ == "__main__":
    main()
