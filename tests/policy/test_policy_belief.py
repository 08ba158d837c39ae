"""Hazard posteriors under censored feedback, and the detection of shifts."""

from __future__ import annotations

import numpy as np
import pytest

from harness.policy.belief import Belief, ShiftDetector
from harness.policy.lengths import expit, logit

TRUE = np.array([0.7, 0.5, 0.6, 0.4])


def offers(
    rng: np.random.Generator, k: int, steps: int, hazards: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """One group's counts [1, max_k] of `steps` verify steps with K = `k`."""
    offered, accepted = np.zeros((1, len(hazards))), np.zeros((1, len(hazards)))
    left = steps
    for i in range(k):
        offered[0, i] = left
        left = int(rng.binomial(left, hazards[i]))
        accepted[0, i] = left
    return offered, accepted


def test_hazards_are_unbiased_under_a_changing_k() -> None:
    """K switches at random; dividing by drafts made instead of drafts offered would be far off."""
    rng = np.random.default_rng(1)
    ends, naive = [], []
    for _ in range(60):
        belief = Belief(np.full((1, 4), 0.5), memory=1e9, fastest=0.0)
        drafts, accepted_all = np.zeros(4), np.zeros(4)
        for _ in range(40):
            k = int(rng.integers(0, 5))
            offered, accepted = offers(rng, k, 200, TRUE)
            belief.observe(offered, accepted)
            drafts += 200 * (k > 0)
            accepted_all += accepted[0]
        ends.append(belief.hazards()[0])
        naive.append(accepted_all / drafts)
    error = np.abs(np.mean(ends, axis=0) - TRUE)
    assert error.max() < 0.01
    biased = np.abs(np.mean(naive, axis=0) / np.cumprod(TRUE) - 1.0)
    assert biased[3] > 0.5, "the shortcut must be visibly wrong, or this test shows nothing"


def test_unreached_positions_move_with_the_reached_ones() -> None:
    prior = np.array([[0.6, 0.6, 0.7, 0.8]])
    belief = Belief(prior, memory=4000, fastest=0.75)
    belief.observe(np.array([[4000.0, 0, 0, 0]]), np.array([[1200.0, 0, 0, 0]]))
    hazards = belief.hazards()[0]
    assert hazards[0] == pytest.approx(0.3, abs=0.01)
    moved = expit(logit(prior[0, 1:]) + logit(np.array(0.3)) - logit(np.array(0.6)))
    assert hazards[1:] == pytest.approx(moved, abs=0.02)


def test_no_evidence_leaves_the_prior() -> None:
    prior = np.array([[0.6, 0.5, 0.4], [0.2, 0.3, 0.9]])
    belief = Belief(prior, memory=4000, fastest=0.75)
    belief.observe(np.zeros((2, 3)), np.zeros((2, 3)))
    assert belief.hazards() == pytest.approx(prior)


def test_a_group_that_rests_forgets_nothing() -> None:
    belief = Belief(np.full((2, 1), 0.5), memory=1000, fastest=0.5)
    belief.observe(np.array([[5000.0], [0.0]]), np.array([[1000.0], [0.0]]))
    before = belief.hazards()[0, 0]
    for _ in range(100):
        belief.observe(np.array([[0.0], [5000.0]]), np.array([[0.0], [4000.0]]))
    assert belief.hazards()[0, 0] == before


def test_weaken_keeps_the_mean_and_lets_news_in() -> None:
    belief = Belief(np.full((2, 2), 0.5), memory=1e9, fastest=0.0)
    belief.observe(np.full((2, 2), 9000.0), np.full((2, 2), 6000.0))
    belief.weaken(24.0, [0])
    assert belief.offered.max(axis=1).tolist() == [24.0, 9000.0]
    assert belief.hazards()[0, 0] == pytest.approx(2 / 3, abs=0.06)
    belief.observe(np.full((2, 2), 500.0), np.full((2, 2), 100.0))
    assert belief.hazards()[0, 0] < 0.25
    assert belief.hazards()[1, 0] > 0.6


def run_detector(change: float, seed: int, batch: int = 16, ticks: int = 400, at: int = 200) -> list[int]:
    """Ticks of alarm, with requests whose log-odds differ (sd 0.4) and stay for some ten ticks."""
    rng = np.random.default_rng(seed)
    belief = Belief(np.array([[0.6, 0.6]]), memory=4000, fastest=0.75)
    detector = ShiftDetector(1, drift=0.5, threshold=8.0)
    latent = rng.normal(0.0, 0.4, size=batch)
    alarms = []
    for tick in range(ticks):
        replaced = rng.random(batch) < 0.1
        latent[replaced] = rng.normal(0.0, 0.4, size=int(replaced.sum()))
        rates = expit(0.4 + latent + (change if tick >= at else 0.0))
        first = rng.binomial(32, rates)
        second = rng.binomial(first, rates)
        offered = np.array([[32.0 * batch, first.sum()]])
        accepted = np.array([[first.sum(), second.sum()]], dtype=float)
        if detector.update(belief, offered, accepted):
            alarms.append(tick)
            belief.weaken(24.0, [0])
        belief.observe(offered, accepted)
    return alarms


def test_a_shift_is_found_within_three_ticks() -> None:
    delays = []
    for seed in range(10):
        after = [tick for tick in run_detector(-1.5, seed) if tick >= 200]
        assert after
        delays.append(after[0] - 200)
    assert max(delays) <= 3


@pytest.mark.parametrize("batch", [2, 4, 16])
def test_false_alarms_are_rare(batch: int) -> None:
    """Few requests at a time: what one of them does stays for ten ticks."""
    alarms = sum(len(run_detector(0.0, seed, batch)) for seed in range(20))
    assert alarms <= 20, "more than one false alarm per 400 ticks"


@pytest.mark.parametrize("change", [-3.0, 3.0])
def test_a_shift_is_found_where_few_requests_run(change: float) -> None:
    """A run of like scores must not pass for one request's."""
    delays = [[t - 200 for t in run_detector(change, seed, batch=2) if t >= 200] for seed in range(20)]
    assert max(found[0] for found in delays) <= 10
    assert np.mean([found[0] for found in delays]) <= 3.0
