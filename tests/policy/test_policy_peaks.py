"""A trainer that slows the server stands aside in a peak of the load, and on the way up to it."""

from __future__ import annotations

import math

import numpy as np
import pytest

from harness.contract import Observation, TrainerState
from harness.policy.pacing import TrainerPacing
from harness.policy.payback import Payback
from harness.policy.peaks import Peaks
from harness.policy.traffic import Traffic

SEATS = 64


def crowd(time: float, waiting: int) -> Observation:
    trainer = TrainerState(
        alive=True, steps=int(time), samples=int(9 * time), heldout_serving={"a": 2 + 0.1 * time}
    )
    return Observation(time, running=100, waiting=waiting, trainer=trainer)


def test_a_trainer_that_costs_stands_aside_in_a_peak() -> None:
    def pauses(interference: tuple[float, float]) -> list[bool]:
        payback = Payback(horizon=60.0, worth=1.0, patience=300.0)
        pacing = TrainerPacing(payback, accelerators=0.0, seats=SEATS, patience=300.0, mix_change=0.25)
        traffic = Traffic(1, 0.5, 0.05)
        waits = [0] * 20 + [60] * 40 + [0] * 40
        return [pacing.on(crowd(float(t), w), traffic, False, interference) for t, w in enumerate(waits)]

    beside = pauses((0.25, 0.02))
    assert all(beside[:20])
    assert not any(beside[30:60])
    assert all(beside[85:])
    assert all(pauses((0.0, 0.02))), "one with its own accelerator trains on"
    assert not all(pauses((0.0, 0.2))), "not knowing, it pauses and so finds out"


def test_a_trainer_that_costs_stands_aside_before_the_peak() -> None:
    """A backlog made on the way up is waited for by every request of the peak."""
    climb = [Observation(float(t), running=round(4 * math.exp(0.07 * max(0, t - 40)))) for t in range(80)]

    def aside(interference: tuple[float, float]) -> list[bool]:
        peaks = Peaks(SEATS)
        return [peaks.in_the_way(seen, interference) for seen in climb]

    assert not any(aside((0.25, 0.02))[:45])
    assert all(aside((0.25, 0.02))[70:]), "eight times as many"
    assert not any(aside((0.0, 0.02))), "one with its own accelerator trains on"
    assert not any(aside((0.0, 0.2))), "while its cost is not known it works, up to the peak"


def test_two_requests_in_place_of_one_are_no_peak() -> None:
    """Off its domain a lightly loaded server holds requests for longer: just then the trainer is needed."""
    peaks = Peaks(seats=16)
    assert not any(
        peaks.in_the_way(Observation(float(t), running=1 + 2 * (t > 60)), (0.25, 0.02)) for t in range(120)
    )


@pytest.mark.parametrize("mean", [1.0, 4.0, 30.0])
def test_a_crowd_that_comes_and_goes_by_chance_stops_no_trainer(mean: float) -> None:
    """A stationary server: Poisson arrivals that stay for some 4 s."""
    rng, running, aside = np.random.default_rng(3), round(mean), []
    peaks = Peaks(SEATS)
    for tick in range(3000):
        running += int(rng.poisson(mean / 8)) - int(rng.binomial(running, 1 / 8))
        aside.append(peaks.in_the_way(Observation(tick / 2, running=running), (0.25, 0.02)))
    assert np.mean(aside) < 0.02


def test_a_few_waiting_requests_are_no_peak() -> None:
    peaks = Peaks(SEATS)
    assert not any(peaks.in_the_way(crowd(float(t), 3), (0.3, 0.0)) for t in range(50))


def test_an_overload_that_never_ends_does_not_stop_a_trainer_whose_cost_is_unknown() -> None:
    peaks = Peaks(SEATS)
    aside = [peaks.in_the_way(crowd(float(t), 300), (0.0, 0.5)) for t in range(200)]
    assert 0.3 < sum(aside[20:]) / len(aside[20:]) < 0.7


def test_a_trainer_known_to_be_in_the_way_stands_aside_throughout() -> None:
    peaks = Peaks(SEATS)
    aside = [peaks.in_the_way(crowd(float(t), 300), (0.3, 0.05)) for t in range(200)]
    assert all(aside[20:])
