"""Steps with prompt chunks: their size is recovered from step times, and they are charged to drafts in full."""

from __future__ import annotations

import numpy as np
import pytest
from policy_world import context

from harness.contract import Observation, StepLatency
from harness.latency.shape import StepShape, decode_shape
from harness.policy.correction import LatencyCorrection
from harness.policy.costs import StepCosts, best_k
from harness.policy.lengths import lengths
from harness.policy.mixed import MixedSteps

BATCH, CONTEXT, CHUNK = 96, 800.0, 900


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
