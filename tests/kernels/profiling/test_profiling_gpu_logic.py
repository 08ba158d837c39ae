"""What of the CUDA backend needs no CUDA: cold copies, provenance."""

from __future__ import annotations

import pytest
import torch

from kernels import whole
from kernels.gemm import OP as GEMM
from kernels.gemm import GemmShape
from kernels.profiling.gpu import COLD_FACTOR, MAX_COPIES, commit, copies, rotated
from kernels.profiling.plan import plan

L2 = 60 << 20


@pytest.mark.parametrize("cold", [1e6, 3e7, 1e8, 5e9])
def test_copies_exceed_the_cache(cold: float) -> None:
    number = copies(cold, L2)
    assert number == MAX_COPIES or number * cold >= COLD_FACTOR * L2
    assert number == 1 or (number - 1) * cold < COLD_FACTOR * L2
    assert copies(0, L2) == 1


def test_only_cold_tensors_are_copied() -> None:
    made = GEMM.inputs(GemmShape(2, 16, 32), "cpu", torch.float32, 0)
    sets = rotated(GEMM, made, GEMM.cost(GemmShape(2, 16, 32)).cold_bytes, 512)
    assert len(sets) == 3
    assert len({s["w"].data_ptr() for s in sets}) == 3
    assert len({s["x"].data_ptr() for s in sets}) == 1
    assert all(torch.equal(s["w"], made["w"]) for s in sets)


def test_whole_passes_rotate_by_turns() -> None:
    layer = next(op for op in whole.OPS if op.name == "layer")
    sets = rotated(layer, {"state": None, "turn": 0}, 2e8, L2)
    assert [s["turn"] for s in sets] == [0, 1]


def test_two_weight_sets_are_enough_for_every_profiled_whole() -> None:
    for item in plan():
        if item.op in ("layer", "draft_pass", "verify_step"):
            assert copies(item.cost.cold_bytes, L2) <= whole.COPIES, item


def test_commit_comes_from_the_environment_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPECDRIFT_COMMIT", "abc")
    assert commit() == "abc"
