"""A wrong latency model is repaired by measured steps."""

from __future__ import annotations

import numpy as np
import pytest
from policy_world import context, predict

from harness.contract import StepLatency
from harness.latency.shape import StepShape, decode_shape
from harness.policy.correction import LatencyCorrection
from harness.policy.costs import StepCosts


def true_cost(shape: StepShape) -> float:
    """The model's base is 30% too high, and what speculation adds is 2.5 times too low."""
    base = predict(decode_shape(shape.decode_seqs, 0, shape.kv_max))
    return 0.7 * base + 2.5 * (predict(shape) - base)


def learned(
    cells: list[tuple[int, int]], noise: float = 0.0
) -> tuple[StepCosts, LatencyCorrection, np.ndarray]:
    costs = StepCosts(context())
    correction = LatencyCorrection(costs, 7)
    table = costs.seconds(800.0)
    rng = np.random.default_rng(0)
    for batch, k in cells:
        seconds = 32 * true_cost(decode_shape(batch, k, 800.0)) * (1 + noise * rng.normal())
        correction.update([StepLatency(batch, k, 32, seconds, 1)], table)
    return costs, correction, table


def test_nothing_measured_changes_nothing() -> None:
    _, correction, table = learned([])
    assert correction.correct(table) == pytest.approx(table)
    assert correction.factors() == (1.0, 1.0)


def test_two_measured_k_tell_about_the_others() -> None:
    cells = [(16, 0), (16, 3)] * 30 + [(48, 2), (8, 5)] * 10
    costs, correction, table = learned(cells, noise=0.02)
    alpha, beta = correction.factors()
    assert alpha == pytest.approx(0.7, abs=0.03)
    assert beta == pytest.approx(2.5, rel=0.08)
    row = costs.range_of(24)
    batch = int(costs.batches[row])
    truth = [true_cost(decode_shape(batch, k, 800.0)) for k in range(8)]
    assert correction.correct(table)[row] == pytest.approx(truth, rel=0.08), "a range never measured"


def test_a_measured_cell_is_believed() -> None:
    costs, correction, _ = learned([(16, 6)] * 3)
    row = costs.range_of(16)
    ratio = true_cost(decode_shape(16, 6, 800.0)) / predict(decode_shape(16, 6, 800.0))
    assert correction.ratio[row, 6] == pytest.approx(ratio, rel=0.03)


def test_optimism_fades_as_the_model_proves_right_and_stays_when_it_does_not() -> None:
    cells = [(b, k) for b in (4, 16, 48, 128) for k in range(6)]
    costs = StepCosts(context())
    right = LatencyCorrection(costs, 7)
    table = costs.seconds(800.0)
    assert right.optimistic() < 0.75
    for batch, k in cells:
        right.update([StepLatency(batch, k, 32, 32 * predict(decode_shape(batch, k, 800.0)), 1)], table)
    assert right.optimistic() > 0.88
    assert right.optimistic() > learned(cells)[1].optimistic() + 0.05


def test_odd_steps_are_ignored() -> None:
    _, correction, table = learned([])
    odd = [
        StepLatency(4, 0, 0, 0.0, 0),
        StepLatency(4, 99, 3, 0.1, 9),
        StepLatency(0, 0, 1, 1.0, 0),
        StepLatency(4, 1, 3, float("inf"), 9),
        StepLatency(4, 1, 3, float("nan"), 9),
    ]
    correction.update(odd, table)
    assert correction.correct(table) == pytest.approx(table)
