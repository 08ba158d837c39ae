"""What is measured first."""

from __future__ import annotations

from itertools import pairwise

from kernels.models import PROFILED
from kernels.profiling.plan import EAGER, FULL_CHECK, TRITON, plan
from kernels.profiling.summary import HEADLINE
from kernels.registry import OPS

PEERS = {("gemm", "peer"): lambda shape: True, ("attention", "even"): lambda shape: shape.skew == 1}
ITEMS = plan(PEERS)


def test_checks_of_every_op_come_first() -> None:
    first = ITEMS[: len(OPS)]
    assert [item.op for item in first] == list(OPS)
    assert {item.impl for item in first} == {FULL_CHECK}
    assert all(item.impl != FULL_CHECK for item in ITEMS[len(OPS) :])
    assert all(a.priority <= b.priority for a, b in pairwise(ITEMS))


def test_nothing_is_measured_twice_and_nothing_is_missing() -> None:
    keys = [item.key for item in ITEMS]
    assert len(keys) == len(set(keys))
    ours = {(item.op, item.shape) for item in ITEMS if item.impl == TRITON}
    assert ours == {
        (op.name, shape) for op in OPS.values() for model in PROFILED for shape in op.shapes(model)
    }


def test_the_headline_question_is_answered_within_half_a_minute() -> None:
    name, batch, context, k = HEADLINE
    elapsed, wanted = 0.0, {1, k + 1}
    for item in ITEMS:
        elapsed += item.seconds()
        shape = item.shape
        ours = (item.op, item.impl) == ("verify_step", TRITON) and shape.drafter
        if ours and (shape.model, shape.batch, shape.context) == (name, batch, context):
            wanted.discard(shape.query_tokens)
        if not wanted:
            break
    assert elapsed < 30


def test_every_model_and_op_has_been_reached_halfway() -> None:
    half = ITEMS[: len(ITEMS) // 2]
    assert {item.model for item in half if item.op == "verify_step"} == {m.name for m in PROFILED}
    assert {item.op for item in half if item.impl == TRITON} == set(OPS)


def test_peers_run_beside_ours_on_shapes_they_support() -> None:
    ours = {item.key: place for place, item in enumerate(ITEMS)}
    peers = [item for item in ITEMS if item.impl in ("peer", "even")]
    assert {item.impl for item in peers} == {"peer", "even"}
    assert all(item.shape.skew == 1 for item in peers if item.impl == "even")
    for item in peers:
        assert item.key.replace(f"|{item.impl}|", f"|{TRITON}|") in ours


def test_steps_without_a_graph_are_measured_for_the_gap() -> None:
    assert {item.shape.batch for item in ITEMS if item.impl == EAGER} == {1, 64}


def test_one_model_alone() -> None:
    assert {item.model for item in plan(models=PROFILED[:1])} == {"llama3-8b"}
