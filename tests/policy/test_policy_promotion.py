"""The stall rule and the reading of held-out figures."""

from __future__ import annotations

import math

import numpy as np
import pytest

from harness.contract import Observation, Swap, TrainerState
from harness.policy.promotion import Clock, heldout_difference, pays


def loss_rate(interval: float, growth: float, stall: float) -> float:
    """Tokens lost per token: waiting for `interval` while the gain grows, plus one stall each time."""
    return growth * interval / 2 + stall / interval


@pytest.mark.parametrize(("growth", "stall"), [(1e-3, 0.2), (1e-4, 2.0), (1e-2, 0.01)])
def test_the_rule_finds_the_best_interval(growth: float, stall: float) -> None:
    seconds = np.arange(0.01, 3000, 0.01)
    found = next(t for t in seconds if pays(growth * t, t, stall))
    best = seconds[np.argmin(loss_rate(seconds, growth, stall))]
    assert found == pytest.approx(best, rel=0.01, abs=0.02)


def test_no_gain_never_pays() -> None:
    assert not pays(0.0, 1e9, 0.0)
    assert not pays(-0.1, 1e9, 0.0)
    assert pays(1e-9, 1.0, 0.0)


def test_the_clock_learns_the_stall_and_reports_failures_once() -> None:
    clock = Clock(0.2)
    assert not clock.update(Observation(time=5.0))
    swap = Swap(10.0, 1, 1.0)
    assert not clock.update(Observation(time=11.0, last_swap=swap))
    assert clock.stall == pytest.approx(0.6)
    assert clock.since(15.0) == 5.0
    failed = Observation(time=21.0, last_swap=Swap(20.0, 2, 0.6, ok=False))
    assert clock.update(failed)
    assert not clock.update(failed)
    assert clock.last == 10.0


def state(samples: dict[str, int]) -> TrainerState:
    return TrainerState(alive=True, candidate=1, heldout_samples=samples)


def test_difference_is_weighed_by_the_running_mix() -> None:
    better, worse = {"a": 3.0, "b": 2.0}, {"a": 2.0, "b": 2.5}
    trainer = state({"a": 1000, "b": 1000})
    mean, _ = heldout_difference(trainer, better, worse, {"a": 3.0, "b": 1.0, "c": 5.0}, 1.0) or (0, 0)
    assert mean == pytest.approx(0.75 * 1.0 - 0.25 * 0.5)
    by_samples = heldout_difference(state({"a": 300, "b": 900}), better, worse, {"unknown": 1.0}, 1.0)
    assert by_samples is not None
    assert by_samples[0] == pytest.approx(0.25 * 1.0 - 0.75 * 0.5)


def test_error_falls_with_samples_and_nothing_known_is_none() -> None:
    few = heldout_difference(state({"a": 100}), {"a": 3.0}, {"a": 2.0}, {"a": 1.0}, 1.5)
    many = heldout_difference(state({"a": 400}), {"a": 3.0}, {"a": 2.0}, {"a": 1.0}, 1.5)
    assert few is not None
    assert many is not None
    assert few[1] == pytest.approx(2 * many[1])
    assert heldout_difference(state({}), {"a": 3.0}, {"a": 2.0}, {"a": 1.0}, 1.0) is None
    assert heldout_difference(state({"a": 9}), {"a": math.nan}, {"a": 2.0}, {"a": 1.0}, 1.0) is None
