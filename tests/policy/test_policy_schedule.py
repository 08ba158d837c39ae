"""Offline-tuned K: against the closed form, and as a schedule."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from policy_world import context

from harness.contract import Observation, check_schedule
from harness.errors import InputError
from harness.latency.shape import StepShape, decode_shape
from harness.policy import make
from harness.policy.buckets import batch_ranges, middle, to_schedule
from harness.policy.costs import StepCosts


@given(st.integers(1, 3000), st.data())
def test_ranges_cover_every_batch_and_schedules_are_valid(max_batch: int, data: st.DataObject) -> None:
    ranges = batch_ranges(max_batch)
    ks = data.draw(st.lists(st.integers(0, 7), min_size=len(ranges), max_size=len(ranges)))
    schedule = to_schedule(ranges, ks)
    check_schedule(schedule)
    assert schedule[-1][1] == max_batch
    assert all(a[2] != b[2] for a, b in itertools.pairwise(schedule))
    for (lo, hi), k in zip(ranges, ks, strict=True):
        assert all(next(r[2] for r in schedule if b <= r[1]) == k for b in (lo, middle((lo, hi)), hi))


@given(
    a=st.floats(0.05, 0.95),
    base=st.floats(1e-3, 2e-2),
    per_draft=st.floats(1e-5, 1e-2),
    max_k=st.integers(1, 10),
)
def test_schedule_is_the_closed_form_argmax(a: float, base: float, per_draft: float, max_k: int) -> None:
    """Hazard a everywhere, step seconds c0 + c1 K: K maximises (1 - a^(K+1)) / (1 - a) / (c0 + c1 K)."""
    k = np.arange(max_k + 1)
    score = (1 - a ** (k + 1)) / (1 - a) / (base + per_draft * k)
    given_context = context(
        max_k=max_k,
        max_batch=8,
        offline_hazards=(a,),
        predict=lambda shape: base + per_draft * shape.draft_passes,
    )
    plan = make("schedule").reset(given_context)
    assert score[plan.k(3)] == pytest.approx(score.max(), rel=1e-12)


def test_schedule_falls_with_load_and_stays() -> None:
    policy = make("schedule")
    plan = policy.reset(context())
    ks = [plan.k(b) for b in (1, 16, 64, 128, 256)]
    assert ks == sorted(ks, reverse=True)
    assert ks[0] > ks[-1]
    assert policy.decide(Observation(time=1.0)) is plan


def test_costs_follow_the_context_exactly_when_the_model_is_affine() -> None:
    given_context = context()
    costs = StepCosts(given_context)
    for tokens in (0.0, 10.0, 64.0, 900.0, 31_000.0):
        table = costs.seconds(tokens)
        row = costs.range_of(48)
        exact = given_context.predict(decode_shape(int(costs.batches[row]), 3, tokens))
        assert table[row, 3] == pytest.approx(exact)
    table = costs.seconds(512.0)
    at = costs.at(table, np.array([5.0, 77.0, 400.0]), np.array([2, 0, 7]))
    exact = [given_context.predict(decode_shape(b, k, 512.0)) for b, k in ((5, 2), (77, 0), (400, 7))]
    assert at == pytest.approx(exact)


def test_costs_ask_the_model_seldom() -> None:
    calls = 0

    def counted(shape: StepShape) -> float:
        nonlocal calls
        calls += 1
        return 1e-3

    costs = StepCosts(context(predict=counted))
    for tokens in np.linspace(300, 1000, 200):
        costs.seconds(float(tokens))
    assert calls == 2 * len(costs.ranges) * 8


def test_a_model_that_predicts_nonsense_is_refused() -> None:
    with pytest.raises(InputError, match="positive and finite"):
        make("schedule").reset(context(predict=lambda shape: float("nan")))
