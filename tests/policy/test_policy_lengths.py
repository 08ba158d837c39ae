"""Acceptance length against closed forms and simulation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.policy.lengths import lengths, logit, mixed_hazards, mixed_lengths, step_variance, with_length


@pytest.mark.parametrize("a", [0.1, 0.5, 0.8])
def test_constant_hazard_is_the_geometric_formula(a: float) -> None:
    k = np.arange(8)
    assert lengths(np.full(7, a)) == pytest.approx((1 - a ** (k + 1)) / (1 - a))


def test_published_positions_give_the_published_length() -> None:
    """vLLM's Llama-3.1-8B baseline: unconditional .730 / .521 / .355 and 2.60 tokens a step at K = 3."""
    unconditional = np.array([0.730, 0.521, 0.355])
    hazards = unconditional / np.array([1.0, 0.730, 0.521])
    assert lengths(hazards)[3] == pytest.approx(2.606)


@given(st.lists(st.floats(0.2, 0.9), min_size=1, max_size=8).map(np.array), st.floats(0.1, 0.8))
def test_a_length_is_met_by_one_shift_of_all_hazards(hazards: np.ndarray, share: float) -> None:
    k = len(hazards)
    target = 1.0 + share * k
    moved = with_length(hazards, k, target)
    assert lengths(moved)[k] == pytest.approx(target, abs=0.05)
    shifts = logit(moved) - logit(hazards)
    clipped = (moved > 0.99) | (moved < 0.01)
    assert clipped.any() or np.ptp(shifts) < 1e-6
    assert np.all(np.diff(lengths(hazards)) > 0)


def test_a_mix_of_groups_keeps_the_mean_length() -> None:
    rows = np.array([[0.9, 0.9, 0.9], [0.2, 0.3, 0.4]])
    weights = np.array([0.3, 0.7])
    mean = weights @ lengths(rows)
    assert lengths(mixed_hazards(rows, weights)) == pytest.approx(mean)
    assert mixed_lengths(rows, weights) == pytest.approx(mean)
    assert np.all(np.diff(mixed_hazards(rows, weights)) > 0), "survivors come from the easy group"


def test_variance_of_a_step_matches_simulation() -> None:
    hazards = np.array([0.7, 0.5, 0.6])
    draws = np.random.default_rng(0).random((200_000, 3)) < hazards
    accepted = np.cumprod(draws, axis=1).sum(axis=1)
    assert step_variance(hazards, 3) == pytest.approx(accepted.var(), rel=0.01)
