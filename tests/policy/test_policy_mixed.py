"""Steps with prompt chunks: their size is recovered from step times, and they are charged to drafts in full."""

from __future__ import annotations

import math

import numpy as np
import pytest
from policy_world import context

from harness.contract import Observation, StepLatency, TrainerState
from harness.latency.shape import StepShape, decode_shape
from harness.policy.correction import LatencyCorrection
from harness.policy.costs import StepCosts, best_k
from harness.policy.lengths import lengths
from harness.policy.mixed import MixedSteps
from harness.policy.pacing import Peaks, TrainerPacing
from harness.policy.payback import Payback
from harness.policy.traffic import Traffic

BATCH, CONTEXT, CHUNK, SEATS = 96, 800.0, 900, 64


def roofline(shape: StepShape) -> float:
    """Memory-bound until 300 tokens, then 30 us a token; a draft pass costs 0.4 ms."""
    return 6e-3 + 3e-5 * max(0, shape.tokens - 300) + 4e-8 * shape.kv_sum + 4e-4 * shape.draft_passes


def mixed_seconds(k: int) -> float:
    shape = decode_shape(BATCH, k, CONTEXT)
    return roofline(
        StepShape(
            decode_seqs=BATCH,
            query_tokens=1 + k,
            kv_sum=shape.kv_sum,
            prefill_tokens=CHUNK,
            draft_passes=k,
            drafter_loaded=True,
        )
    )


def followed(share: float, k: int = 3) -> tuple[StepCosts, MixedSteps, LatencyCorrection, np.ndarray]:
    costs = StepCosts(context(predict=roofline))
    mixed, correction = MixedSteps(costs), LatencyCorrection(costs, 7)
    table = costs.seconds(CONTEXT)
    many = round(32 * share)
    alone = roofline(decode_shape(BATCH, k, CONTEXT))
    step = StepLatency(BATCH, k, 32 - many, (32 - many) * alone, 1)
    time = 0.0
    for _ in range(40):
        time += many * mixed_seconds(k) + step.seconds
        steps = (step,) if step.steps else ()
        seen = Observation(time, running=BATCH, mean_context=CONTEXT, engine_steps=32, steps=steps)
        mixed.update(seen, k, table, 1.0)
    return costs, mixed, correction, table


@pytest.mark.parametrize("share", [0.25, 0.75, 1.0])
def test_share_and_chunk_are_recovered(share: float) -> None:
    _, mixed, _, _ = followed(share)
    assert mixed.share == pytest.approx(share, abs=0.01)
    assert mixed.prefill == pytest.approx(CHUNK, rel=0.1)


def test_charged_seconds_are_what_decoding_adds() -> None:
    costs, mixed, correction, table = followed(1.0)
    charged = mixed.add(table, correction)[costs.range_of(BATCH)]
    prompt_alone = roofline(StepShape(prefill_seqs=1, prefill_tokens=CHUNK, drafter_loaded=True))
    added = np.array([mixed_seconds(k) for k in range(8)]) - prompt_alone
    # The model is asked at few chunk sizes; between them the kink of this roofline is cut off.
    assert charged[1:] == pytest.approx(added[1:], rel=0.25)


def test_k_is_smaller_where_steps_are_mixed() -> None:
    costs, mixed, correction, table = followed(0.9)
    length = lengths(np.full(7, 0.7))
    row = costs.range_of(BATCH)
    assert best_k(length, mixed.add(table, correction))[row] < best_k(length, table)[row]


def test_nothing_mixed_changes_nothing_and_idle_time_is_no_step() -> None:
    costs, mixed, correction, table = followed(0.0)
    assert mixed.add(table, correction) is table
    fresh = MixedSteps(costs)
    for i in range(20):
        fresh.update(Observation(10.0 * i, running=i % 2, engine_steps=4), 3, table, 1.0)
    assert fresh.prefill == 0.0


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
