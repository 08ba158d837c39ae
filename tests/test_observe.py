"""What a policy sees is what happened, no more."""

from __future__ import annotations

import numpy as np
import pytest

from harness.contract import STATIC, TrainerState
from harness.observe import Gauges, Serving, observe, position_counts
from harness.sim.state import STEP

GAUGES = Gauges(time=10.0, running=3, waiting=2, kv_use=0.5, mean_context=700.0)
SERVING = Serving(STATIC, drafter_version=0, since=4.0, verifier_version=1, last_swap=None)


def steps(*rows: tuple[int, int, float, int, int]) -> np.ndarray:
    """(batch, k, seconds, prefill tokens, output tokens) -> step rows."""
    array = np.zeros(len(rows), STEP)
    for name, column in zip(
        ("batch", "k", "seconds", "prefill_tokens", "output_tokens"), zip(*rows, strict=True), strict=True
    ):
        array[name] = column
    return array


def test_decode_only_steps_are_gathered_by_batch_and_k():
    rows = steps(
        (4, 3, 0.01, 0, 9), (4, 3, 0.02, 0, 8), (5, 3, 0.01, 0, 11), (4, 3, 0.9, 512, 5), (0, 0, 0.1, 100, 1)
    )
    seen = observe(GAUGES, rows, {}, [True, False], SERVING, TrainerState())
    assert [(s.batch, s.k, s.steps, s.tokens) for s in seen.steps] == [(4, 3, 2, 17), (5, 3, 1, 11)]
    assert seen.steps[0].seconds == pytest.approx(0.03)
    assert seen.engine_steps == 5
    assert seen.tokens == 34
    assert seen.prefill_tokens == 612
    assert seen.batch == pytest.approx(13 / 3)
    assert seen.slo_attainment == 0.5
    assert seen.drafter_age == 6.0


def test_steps_between_two_k_are_told_apart():
    """An engine drafts at the end of a step, so where K changes a step drafts another number than it verifies."""
    rows = np.zeros(5, [*STEP.descr, ("drafted", "i4")])
    rows["batch"], rows["seconds"], rows["output_tokens"] = 4, 0.01, 4
    rows["k"], rows["drafted"] = [3, 3, 0, 0, 3], [3, 0, 0, 3, 3]
    seen = observe(GAUGES, rows, {}, [], SERVING, TrainerState()).steps
    assert [(s.k, s.drafted, s.steps) for s in seen] == [(3, None, 2), (3, 0, 1), (0, None, 1), (0, 3, 1)]
    plain = observe(GAUGES, steps((4, 3, 0.01, 0, 9)), {}, [], SERVING, TrainerState()).steps
    assert plain[0].drafted is None, "a world that drafts and verifies in one step"


def test_a_tick_without_anything_is_calm():
    seen = observe(GAUGES, np.zeros(0, STEP), {}, [], SERVING, TrainerState())
    assert seen.steps == ()
    assert seen.slo_attainment == 1.0
    assert seen.batch == GAUGES.running


def test_positions_keep_only_what_was_offered():
    offered, accepted = np.zeros((2, 2, 4), int), np.zeros((2, 2, 4), int)
    offered[1, 0] = (10, 6, 0, 0)
    accepted[1, 0] = (6, 2, 0, 0)
    found = position_counts(offered, accepted, ("chat", "code"), ("a", "b"))
    assert list(found) == [("code", "a")]
    assert found["code", "a"].offered == (10, 6)
    assert found["code", "a"].accepted == (6, 2)
