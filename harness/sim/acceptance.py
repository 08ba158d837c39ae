"""Parametric acceptance: a per-request latent on top of per-position hazards, drawn by counter.

The draft at depth i of a verify step that starts at output position p is accepted when

    uniform(key, request, p + i) < sigmoid(logit[domain, i] + latent[request])

and the step ends at the first rejection. The uniform belongs to the request's output position, not
to the arm, the step or K, so arms run under one key meet the same luck (common random numbers), and
the result for K' < K is the result for K cut at K'. A run uses every position at most once (the
next step starts behind the rejected or bonus token), so steps of one request are independent given
its latent.

Compiled functions serve the engine; the quadrature functions below them give the same model's
population figures. *Population* means pooled over the verify steps of a closed set of requests, as
published figures are: a hard request needs more steps for its tokens, so the latent z counts with
weight 1 / (acceptance length at z). The pooled acceptance length is the harmonic mean over requests.
"""

from __future__ import annotations

import math
from functools import cache

import numpy as np
from numba import njit
from scipy.optimize import brentq
from scipy.special import expit

from harness.errors import InputError
from workloads.domains import MAX_HAZARDS, DomainProfile

MAX_K = MAX_HAZARDS
"""Deepest chain of draft tokens the model knows."""

SOURCE = (
    "per-domain hazards and request latents fitted to published acceptance (Llama-3.1-8B + EAGLE-3, arXiv "
    "2601.11580 traces; SPEED-Bench) or assumed; learning fitted to Aurora's curves: docs/calibration.md"
)
"""Where the numbers of this acceptance model come from, for the record of a run."""

_NODES = 48
"""Gauss-Hermite nodes over the latent: population figures are exact to 1e-10 at a sd of 1, 1e-6 at 2."""

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)
_LATENT_SALT = np.uint64(0xD1B54A32D192ED03)
_TO_UNIT = 1.0 / (1 << 53)


# --- compiled: draws by counter ---------------------------------------------------------------


@njit(cache=True)
def _mix(x: np.uint64) -> np.uint64:
    """The splitmix64 finaliser (Steele, Lea & Flood 2014): a bijection of 64-bit words."""
    x = (x ^ (x >> np.uint64(30))) * _MIX_1
    x = (x ^ (x >> np.uint64(27))) * _MIX_2
    return x ^ (x >> np.uint64(31))


@njit(cache=True)
def _word(key: np.uint64, stream: int, counter: int) -> np.uint64:
    """64 random bits of `counter` in the splitmix64 stream that (key, stream) seeds."""
    seed = _mix(np.uint64(key) + _mix(np.uint64(stream) * _GOLDEN + _GOLDEN))
    return _mix(seed + (np.uint64(counter) + np.uint64(1)) * _GOLDEN)


@njit(cache=True)
def uniform(key: np.uint64, request_id: int, position: int) -> float:
    """The uniform in [0, 1) of an output position of a request: 53 bits, a pure function."""
    return np.float64(_word(key, request_id, position) >> np.uint64(11)) * _TO_UNIT


@njit(cache=True)
def request_latent(key: np.uint64, request_id: int, sd: float) -> float:
    """The request's easiness on the logit scale: `sd` times its standard normal (Box-Muller)."""
    salted = np.uint64(key) ^ _LATENT_SALT
    radius = math.sqrt(-2.0 * math.log(1.0 - uniform(salted, request_id, 0)))
    return sd * radius * math.cos(2.0 * math.pi * uniform(salted, request_id, 1))


@njit(cache=True)
def accepted_drafts(
    key: np.uint64,
    request_id: int,
    position: int,
    k: int,
    logits: np.ndarray,  # float64[n_domains, MAX_K]
    domain: int,
    latent: float,
) -> int:
    """How many of `k` drafts are accepted in the verify step that starts at `position`; 0 <= k <= MAX_K."""
    for depth in range(k):
        p = 1.0 / (1.0 + math.exp(-(logits[domain, depth] + latent)))
        if uniform(key, request_id, position + depth) >= p:
            return depth
    return k


# --- population figures by quadrature ---------------------------------------------------------


def latent_nodes(sd: float) -> tuple[np.ndarray, np.ndarray]:
    """Nodes z float64[n] and weights float64[n] (sum 1) of Normal(0, sd)."""
    if sd == 0.0:
        return np.zeros(1), np.ones(1)
    nodes, weights = _standard_nodes()
    return sd * nodes, weights


@cache
def _standard_nodes() -> tuple[np.ndarray, np.ndarray]:
    nodes, weights = np.polynomial.hermite_e.hermegauss(_NODES)
    return nodes, weights / weights.sum()


def chain_probability(logits_row: np.ndarray, latent: np.ndarray, k: int) -> np.ndarray:
    """float64[n, k]: probability that drafts 0..i are all accepted, for each latent[n]."""
    if not 0 <= k <= MAX_K:
        raise InputError(f"K is {k}; the acceptance model knows 0..{MAX_K}")
    return np.cumprod(expit(logits_row[None, :k] + np.asarray(latent)[:, None]), axis=1)


def population_acceptance(logits_row: np.ndarray, sd: float, k: int) -> tuple[float, ...]:
    """Unconditional acceptance at positions 0..k-1, pooled over verify steps that draft `k` tokens."""
    latent, weights = latent_nodes(sd)
    chains = chain_probability(logits_row, latent, k)
    weights = weights / (1.0 + chains.sum(axis=1))
    return tuple((weights @ chains / weights.sum()).tolist())


def acceptance_length(logits_row: np.ndarray, sd: float, k: int) -> float:
    """Tokens per verify step with K = `k`, bonus token included, pooled over verify steps."""
    return 1.0 + sum(population_acceptance(logits_row, sd, k))


def hazard_logits(profile: DomainProfile) -> np.ndarray:
    """float64[MAX_K] logits whose population hazards at K = `profile.measured_k` are `profile.hazards`."""
    return solve_logits(profile.hazards, profile.latent_sd, profile.measured_k)


def solve_logits(
    hazards: tuple[float, ...], sd: float, measured_k: int, tolerance: float = 1e-10
) -> np.ndarray:
    """float64[MAX_K] logits with these population hazards at K = `measured_k`; the last hazard repeats.

    Survivors of a depth are easy requests, so with equal logits the population hazards would rise;
    each logit is solved against the latent distribution of the survivors before it. The weights of
    the population depend on all logits through the acceptance length, hence the outer fixed point.
    """
    targets = np.array([hazards[min(i, len(hazards) - 1)] for i in range(MAX_K)])
    latent, prior = latent_nodes(sd)
    logits = _solve_chain(targets, latent, prior)
    for _ in range(200):
        lengths = 1.0 + chain_probability(logits, latent, measured_k).sum(axis=1)
        updated = _solve_chain(targets, latent, prior / lengths)
        finite = np.isfinite(updated)
        if np.all(np.abs(updated[finite] - logits[finite]) < tolerance):
            return updated
        logits = updated
    raise InputError(f"no logits give hazards {hazards} under a latent_sd of {sd}; lower it")


def _solve_chain(hazards: np.ndarray, latent: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Logits with `sum_j w_j S_ij sigmoid(l_i + z_j) = hazard_i * sum_j w_j S_ij`, S the survivors."""
    logits = np.full(MAX_K, -np.inf)
    alive = weights.copy()
    for i, hazard in enumerate(hazards):
        if hazard <= 0.0:
            break
        alive = alive / alive.sum()
        logits[i] = brentq(_excess, -60.0, 60.0, args=(latent, alive, hazard), xtol=1e-13)
        alive = alive * expit(logits[i] + latent)
    return logits


def _excess(logit: float, latent: np.ndarray, weights: np.ndarray, hazard: float) -> float:
    return float(weights @ expit(logit + latent)) - hazard
