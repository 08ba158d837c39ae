"""A wrong latency model is repaired by measured steps, and time is not mistaken for K."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from policy_world import context, predict

from harness.contract import StepLatency
from harness.latency.shape import StepShape, decode_shape
from harness.policy.correction import KNOWN, LatencyCorrection
from harness.policy.costs import StepCosts

Learned = tuple[StepCosts, LatencyCorrection, np.ndarray]


def true_cost(shape: StepShape) -> float:
    """The model's base is 30% too high, and what speculation adds is 2.5 times too low."""
    base = predict(decode_shape(shape.decode_seqs, 0, shape.kv_max))
    return 0.7 * base + 2.5 * (predict(shape) - base)


def block(batch: int, k: int, factor: float = 1.0, training: bool = False) -> tuple[StepLatency, bool]:
    seconds = 32 * factor * true_cost(decode_shape(batch, k, 800.0))
    return StepLatency(batch, k, 32, seconds, 1), training


def learned(cells: list[tuple[int, int]], noise: float = 0.0) -> Learned:
    costs = StepCosts(context())
    correction = LatencyCorrection(costs, 7)
    table = costs.seconds(800.0)
    rng = np.random.default_rng(0)
    for batch, k in cells:
        correction.update([block(batch, k, 1 + noise * rng.normal())], table)
    return costs, correction, table


def error_over_k(
    costs: StepCosts, correction: LatencyCorrection, table: np.ndarray, batch: int
) -> np.ndarray:
    """Log errors of the corrected seconds at K = 0..7, less their mean: what misleads a choice of K."""
    row = costs.range_of(batch)
    size = int(costs.batches[row])
    truth = np.array([true_cost(decode_shape(size, k, 800.0)) for k in range(8)])
    error = np.log(correction.correct(table)[row] / truth)
    return np.asarray(error - error.mean())


def test_nothing_measured_changes_nothing() -> None:
    _, correction, table = learned([])
    assert correction.correct(table) == pytest.approx(table)


def test_two_measured_k_tell_about_the_others() -> None:
    costs, correction, table = learned([(16, 0), (16, 3)] * 40, noise=0.02)
    before = np.abs(error_over_k(*learned([]), batch=16)).max()
    assert before > 0.3
    assert np.abs(error_over_k(costs, correction, table, 16)).max() < 0.15
    assert np.abs(error_over_k(costs, correction, table, 24)).max() < 0.2, "a range never measured"


def test_measured_cells_are_believed() -> None:
    costs, correction, _ = learned([(16, k) for k in range(8)] * 12)
    row = costs.range_of(16)
    truth = [true_cost(decode_shape(16, k, 800.0)) for k in range(8)]
    predicted = [predict(decode_shape(16, k, 800.0)) for k in range(8)]
    ratio = correction.ratio[row]
    assert ratio == pytest.approx(np.array(truth) / predicted, rel=0.05)
    assert (correction.steps[row] > KNOWN).all()


def test_a_slow_hour_is_not_blamed_on_the_k_that_ran() -> None:
    """K = 2 runs while the server is 40% slower, K = 4 while it is not: averages by cell would prefer 4."""
    costs, correction, table = learned([(16, 2), (16, 4)] * 20)
    fair, before = error_over_k(costs, correction, table, 16), correction.now
    for _ in range(60):
        correction.update([block(16, 2, factor=1.4)], table)
    slow = error_over_k(costs, correction, table, 16)
    assert np.abs(slow - fair).max() < 0.06
    assert correction.now - before == pytest.approx(np.log(1.4), abs=0.07)


def test_a_restless_machine_is_not_blamed_on_the_k_that_ran() -> None:
    """Each block the server is some 15% slower or faster than it should be; the prices are right all along."""
    costs = StepCosts(context())
    table, row = costs.seconds(800.0), costs.range_of(16)
    errors = []
    for seed in range(24):
        rng, correction = np.random.default_rng(seed), LatencyCorrection(costs, 7, price_spread=0.15)
        for i in range(60):
            k = (0, 3)[i // 4 % 2]
            seconds = 32 * np.exp(0.15 * rng.normal()) * predict(decode_shape(16, k, 800.0))
            correction.update([(StepLatency(16, k, 32, seconds, 1), False)], table)
        errors.append(np.log(correction.ratio[row, 3] / correction.ratio[row, 0]))
        assert 0.03 < correction.unrest**0.5 < 0.25
    assert np.std(errors) < 0.06
    assert learned([(16, 0), (16, 3)] * 40)[1].unrest < 1e-4, "a steady machine"


def test_steps_between_two_k_do_not_make_drafts_look_cheap() -> None:
    """An engine drafts at the end of a step and verifies in the next. Where K is 3 for 16 sequences and 0 for 17, and
    one comes and goes, every step verifies the K of one size and drafts for the other."""
    costs = StepCosts(context())
    table, row = costs.seconds(800.0), costs.range_of(16)

    def seconds(verified: int, drafted: int) -> float:
        verify = decode_shape(16, verified, 800.0)
        return predict(replace(verify, draft_passes=drafted, drafter_loaded=True))

    def price(told: bool) -> float:
        correction = LatencyCorrection(costs, 7, price_spread=0.15)
        for i in range(60):
            steps = [(0, 0), (3, 3)] if i < 4 else [(0, 3), (3, 0)]
            for k, d in steps:
                drafted = d if told and d != k else None
                correction.update([(StepLatency(16, k, 16, 16 * seconds(k, d), 1, drafted), False)], table)
        found = correction.ratio[row] * table[row]
        return float(found[3] / found[0])

    right = float(table[row, 3] / table[row, 0])
    assert price(told=True) == pytest.approx(right, rel=0.02)
    assert price(told=False) < 0.9 * right


def test_no_draft_is_cheaper_than_the_operator_holds_possible() -> None:
    """A machine that is fast while K = 2 runs and slow while K = 0 does. The price of drafts is known within 15%."""
    costs = StepCosts(context())
    table, row = costs.seconds(800.0), costs.range_of(16)
    fast = [((16, 0), 1.3), ((16, 2), 0.8)]
    for spread, least in ((0.15, 0.7), (0.6, 0.0), (1.0, 0.0)):
        correction = LatencyCorrection(costs, 7, price_spread=spread)
        for _ in range(40):
            for (batch, k), factor in fast:
                seconds = 32 * factor * predict(decode_shape(batch, k, 800.0))
                correction.update([(StepLatency(batch, k, 32, seconds, 1), False)], table)
        believed, said = correction.ratio[row] * table[row], correction.correct(table)[row]
        assert believed[2] < believed[0]
        price = np.diff(said) / (np.diff(table[row]) * np.exp(correction.now))
        assert price[:2] == pytest.approx([least, least], abs=1e-9)
        measured = 1.0 + correction.steps[row]
        means = [float(np.average(seconds, weights=measured)) for seconds in (said, believed)]
        assert means[0] == pytest.approx(means[1])


def test_interference_of_the_trainer_is_measured() -> None:
    costs = StepCosts(context())
    table = costs.seconds(800.0)
    beside, apart = LatencyCorrection(costs, 7), LatencyCorrection(costs, 7)
    assert sum(beside.interference) > 0.15, "unknown at first"
    for i in range(60):
        training = (i // 5) % 2 == 0
        beside.update([block(16, 3, 1.3 if training else 1.0, training)], table)
        apart.update([block(16, 3, 1.0, training)], table)
    assert beside.interference[0] == pytest.approx(np.log(1.3), abs=0.05)
    assert abs(apart.interference[0]) < 0.03
    assert sum(apart.interference) < 0.05


def test_a_price_measured_here_is_not_undone_by_a_slower_hour() -> None:
    """Deep drafts run first; then the server slows down and, at the same time, K becomes 1. With nothing known of the
    price, half of that is taken for cheaper drafts; with the price measured, for the hour."""
    costs = StepCosts(context())
    table = costs.seconds(800.0)
    beta = {}
    for spread in (1.0, 0.15):
        correction = LatencyCorrection(costs, 7, spread)
        for k, factor in ((5, 1.0), (1, 1.2)):
            for _ in range(8):
                seconds = 32 * factor * predict(decode_shape(16, k, 800.0))
                correction.update([(StepLatency(16, k, 32, seconds, 1), False)], table)
        beta[spread] = correction.beta
    assert beta[1.0] < 0.75
    assert beta[0.15] > 0.85


def test_hope_is_for_unmeasured_cells_and_fades_as_the_model_proves_right() -> None:
    costs = StepCosts(context())
    table = costs.seconds(800.0)
    right = LatencyCorrection(costs, 7)
    row = costs.range_of(16)
    first = right.hoped(table, row, 3)
    assert (first < 0.95).all()
    for batch in (4, 48, 128):
        for k in range(6):
            seconds = 32 * predict(decode_shape(batch, k, 800.0))
            right.update([(StepLatency(batch, k, 32, seconds, 1), False)], table)
    assert (right.hoped(table, row, 3) > first).all()
    assert right.hoped(table, costs.range_of(48), 3)[2] == 1.0
    wrong = learned([(b, k) for b in (4, 48, 128) for k in range(6)])[1]
    assert wrong.hoped(table, row, 3)[0] < right.hoped(table, row, 3)[0]


def test_odd_steps_are_ignored() -> None:
    _, correction, table = learned([])
    odd = [
        StepLatency(4, 0, 0, 0.0, 0),
        StepLatency(4, 99, 3, 0.1, 9),
        StepLatency(0, 0, 1, 1.0, 0),
        StepLatency(4, 1, 3, float("inf"), 9),
        StepLatency(4, 1, 3, float("nan"), 9),
    ]
    correction.update([(s, False) for s in odd], table)
    assert correction.correct(table) == pytest.approx(table)
