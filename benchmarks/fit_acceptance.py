"""Fit the acceptance of the domains with published per-position data, and print it beside the data.

    python benchmarks/fit_acceptance.py DATA/specdec/acceptance.csv

For each (drafter, domain) that the file has at K = 1, 3, 5 and 7 (replays of the traces of arXiv
2601.11580: Llama-3.1-8B on an H100), logits and the latent's standard deviation are fitted to all
unconditional acceptances and to the 5th and 95th percentile of the per-request mean acceptance
length. The hazards printed are the fitted model's at K = 7; `workloads/domains.toml` holds them.
Domains with only a published acceptance length (`anchor` there) follow, shaped like chat.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.optimize import brentq, least_squares
from scipy.special import expit
from scipy.stats import norm

from harness.sim.acceptance import (
    MAX_K,
    acceptance_length,
    chain_probability,
    hazard_logits,
    latent_nodes,
    population_acceptance,
)
from workloads.domains import domain, load_domains

KS = (1, 3, 5, 7)
REQUEST_TOKENS = 256
"""Output tokens of a request in the published replay: assumed (not published); sets the sampling noise."""
ACCEPTANCE_SCALE = 0.01
LENGTH_SCALE = 0.10
"""Residual scales: what counts as one unit of misfit for an acceptance and for a percentile."""
ALPHA_SPREAD = {("EAGLE-3", "chat(ShareGPT)"): 0.102, ("ngram", "code-edit(InstructCoder)"): 0.197}
"""Standard deviation over requests of the first-draft acceptance: the published Beta(13.4, 8.1) and
Beta(2.9, 2.5). Misfit is measured in ACCEPTANCE_SCALE."""


@dataclass(frozen=True)
class Published:
    """One drafter on one domain: unconditional acceptance by K, and per-request percentiles by K."""

    drafter: str
    domain: str
    accepted: dict[int, np.ndarray]
    percentiles: dict[int, tuple[float, float]]


def read(path: Path) -> list[Published]:
    """The complete series of the file."""
    rows = pd.read_csv(path)
    rows = rows[rows.source.str.contains("SpecDecode-Bench/simulator")]
    found = []
    for (drafter, traffic), group in rows.groupby(["drafter", "domain"]):
        value = {(int(r.k), r.position_or_mean): float(r.value) for r in group.itertuples()}
        accepted = {k: np.array([value[k, f"pos{i + 1}"] for i in range(k)]) for k in KS}
        percentiles = {k: (value[k, "request_p5"], value[k, "request_p95"]) for k in KS}
        found.append(Published(str(drafter).split()[0], str(traffic), accepted, percentiles))
    return found


def request_percentiles(logits: np.ndarray, sd: float, k: int) -> tuple[float, float]:
    """5th and 95th percentile over requests of the mean acceptance length of REQUEST_TOKENS tokens.

    Given the latent the mean over a request's verify steps is taken as normal.
    """
    latent, weights = latent_nodes(sd)
    chains = chain_probability(logits, latent, k)
    mean = 1.0 + chains.sum(axis=1)
    second = (chains * (2 * np.arange(1, k + 1) - 1)).sum(axis=1)  # E[a^2] = sum (2i - 1) P(a >= i)
    noise = np.sqrt((second - (mean - 1.0) ** 2) * mean / REQUEST_TOKENS)

    def excess(length: float, share: float) -> float:
        return float(weights @ norm.cdf((length - mean) / noise)) - share

    low, high = (brentq(excess, 0.5, k + 2.0, args=(share,)) for share in (0.05, 0.95))
    return low, high


def residuals(x: np.ndarray, data: Published) -> np.ndarray:
    logits, sd = _unpack(x)
    parts = []
    for k in KS:
        parts.append((population_acceptance(logits, sd, k) - data.accepted[k]) / ACCEPTANCE_SCALE)
        parts.append(np.subtract(request_percentiles(logits, sd, k), data.percentiles[k]) / LENGTH_SCALE)
    spread = ALPHA_SPREAD.get((data.drafter, data.domain))
    if spread is not None:
        parts.append(np.array([(alpha_spread(logits, sd) - spread) / ACCEPTANCE_SCALE]))
    return np.concatenate(parts)


def alpha_spread(logits: np.ndarray, sd: float) -> float:
    """Standard deviation over requests of the acceptance of the first draft."""
    latent, weights = latent_nodes(sd)
    first = expit(logits[0] + latent)
    return float(np.sqrt(weights @ (first - weights @ first) ** 2))


def fit(data: Published) -> tuple[np.ndarray, float]:
    """(logits float64[MAX_K], latent_sd) of the least squares."""
    start = np.append(np.full(max(KS), 0.5), 0.5)
    found = least_squares(residuals, start, args=(data,), bounds=([-8.0] * 7 + [0.01], [8.0] * 7 + [2.5]))
    return _unpack(found.x)


def _unpack(x: np.ndarray) -> tuple[np.ndarray, float]:
    return np.append(x[:7], np.full(MAX_K - 7, x[6])), float(x[7])


def report(data: Published) -> None:
    logits, sd = fit(data)
    print(f"\n{data.drafter} {data.domain}: latent_sd = {sd:.3f}, ", end="")
    print(f"sd of request alpha {alpha_spread(logits, sd):.3f}")
    print("  hazards =", hazards_at_7(logits, sd))
    print("  lag-1 autocorrelation at K = 7:", round(autocorrelation(logits, sd, 7), 3))
    for k in KS:
        model = np.array(population_acceptance(logits, sd, k))
        low, high = request_percentiles(logits, sd, k)
        print(
            f"  K={k}: length {1 + model.sum():.3f} (data {1 + data.accepted[k].sum():.3f}), "
            f"acceptance error max {np.abs(model - data.accepted[k]).max():.3f}, first {model[0]:.3f} "
            f"({data.accepted[k][0]:.3f}), p5 {low:.2f} ({data.percentiles[k][0]:.2f}), "
            f"p95 {high:.2f} ({data.percentiles[k][1]:.2f})"
        )


def hazards_at_7(logits: np.ndarray, sd: float) -> list[float]:
    unconditional = np.array(population_acceptance(logits, sd, 7))
    return (unconditional / np.append(1.0, unconditional[:-1])).round(4).tolist()


def report_anchored() -> None:
    """Hazards of the shipped domains of which only one acceptance length is published.

    They have the shape of `chat`: its logits, shifted to meet the domain's anchor.
    """
    shape = hazard_logits(domain("chat"))
    print("\nanchored domains: the logits of chat, shifted")
    for profile in load_domains().values():
        if profile.anchor is None:
            continue
        k, length = profile.anchor
        sd = profile.latent_sd
        shift = brentq(_miss, -8.0, 8.0, args=(shape, sd, k, length))
        print(f"  {profile.name}: K={k} length {length}: hazards = {hazards_at_7(shape + shift, sd)}")


def _miss(shift: float, shape: np.ndarray, sd: float, k: int, length: float) -> float:
    return acceptance_length(shape + shift, sd, k) - length


def autocorrelation(logits: np.ndarray, sd: float, k: int) -> float:
    """Correlation of the accepted counts of two verify steps of one request: the share of the latent."""
    latent, weights = latent_nodes(sd)
    chains = chain_probability(logits, latent, k)
    weights = weights / (1.0 + chains.sum(axis=1))
    weights = weights / weights.sum()
    mean = chains.sum(axis=1)
    second = weights @ (chains * (2 * np.arange(1, k + 1) - 1)).sum(axis=1)
    between = weights @ (mean - weights @ mean) ** 2
    return float(between / (second - (weights @ mean) ** 2))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("acceptance", type=Path, help="acceptance.csv")
    for data in read(parser.parse_args().acceptance):
        report(data)
    report_anchored()


if __name__ == "__main__":
    main()
