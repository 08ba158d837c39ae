"""Acceptance length from per-position hazards, and back.

With h_i the chance that the draft at position i is accepted given that all before it were, a verify
step with K drafts yields 1 + sum_{j=1..K} prod_{i<j} h_i tokens on average (the bonus token included).
With one hazard a at every position that is (1 - a^(K+1)) / (1 - a) (Leviathan et al., arXiv 2211.17192,
equation 1).
"""

from __future__ import annotations

import numpy as np

from harness.policy.base import HAZARD_FLOOR

_SHIFTS = np.linspace(-8.0, 8.0, 49)


def lengths(hazards: np.ndarray) -> np.ndarray:
    """float64[..., max_k] hazards -> float64[..., max_k + 1] acceptance lengths for K = 0..max_k."""
    out = np.ones((*hazards.shape[:-1], hazards.shape[-1] + 1))
    hazards.cumprod(axis=-1, out=out[..., 1:])
    return out.cumsum(axis=-1)


def mixed_lengths(hazards: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Acceptance lengths float64[max_k + 1] of a mix of groups: hazards [groups, max_k], weights [groups]."""
    return weights @ lengths(hazards)


def mixed_hazards(hazards: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Hazards [max_k] of a mix of groups: hazards [groups, max_k], weights [groups] that sum to 1.

    Not the average of hazards: survivors to a deep position come from the easy groups.
    """
    survival = weights @ hazards.cumprod(axis=1)
    mixed = survival.copy()
    mixed[1:] /= np.maximum(survival[:-1], 1e-12)
    return mixed.clip(HAZARD_FLOOR, 1.0 - HAZARD_FLOOR)


def logit(p: np.ndarray) -> np.ndarray:
    return np.log(p / (1.0 - p))


def expit(x: np.ndarray) -> np.ndarray:
    return 1.0 / (1.0 + np.exp(-x))


def with_length(hazards: np.ndarray, k: int, length: float) -> np.ndarray:
    """`hazards` [max_k], all moved by one log-odds so that K = `k` yields `length` tokens a step.

    Lengths out of reach end at a shift of 8 log-odds. The shape over positions is kept, which is
    what a drafter that got better or worse as a whole does, to first order.
    """
    shifted = expit(logit(hazards) + _SHIFTS[:, None])
    reached = lengths(shifted)[:, k]
    shift = float(np.interp(length, reached, _SHIFTS))
    return np.clip(expit(logit(hazards) + shift), HAZARD_FLOOR, 1.0 - HAZARD_FLOOR)


def step_variance(hazards: np.ndarray, k: int) -> float:
    """Variance of the tokens of one verify step with K = `k`, hazards [max_k], steps independent.

    From P(N >= j) = S_j: E N = sum S_j and E N^2 = sum (2j - 1) S_j.
    """
    survival = np.cumprod(hazards[:k])
    weights = 2.0 * np.arange(1, k + 1) - 1.0
    return float(weights @ survival - survival.sum() ** 2)
