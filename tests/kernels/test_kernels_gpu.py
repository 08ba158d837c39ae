"""On a CUDA device: bf16 against fp64 at sizes that fill the chip, and timing through graphs."""

from __future__ import annotations

import pytest
import torch

from kernels.models import LLAMA3_8B
from kernels.profiling.plan import TRITON, checks, plan
from kernels.registry import OPS

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("item", checks(LLAMA3_8B), ids=lambda item: item.op)
def test_correct_in_bf16_at_full_size(item) -> None:
    op = OPS[item.op]
    made = op.inputs(item.shape, "cuda", torch.bfloat16, 0)
    assert op.check(op, made) < op.tolerance


@pytest.mark.parametrize("name", ["gemm", "lm_head", "fusion", "attention"])
def test_specimens_are_correct(name: str) -> None:
    op = OPS[name]
    for shape in op.specimens():
        made = op.inputs(shape, "cuda", torch.bfloat16, 1)
        assert op.check(op, made) < op.tolerance, shape


def test_repeated_launches_agree_bit_for_bit() -> None:
    """Split products sum in a fixed order: no race decides a result."""
    for name in ("gemm", "attention"):
        op = OPS[name]
        for shape in op.specimens():
            made = op.inputs(shape, "cuda", torch.bfloat16, 2)
            first = op.run(**made)[0]
            assert all(torch.equal(first, op.run(**made)[0]) for _ in range(5)), shape


def test_a_graph_is_timed_and_above_its_floor() -> None:
    from kernels.profiling.gpu import CudaBackend
    from kernels.profiling.runner import measure

    backend = CudaBackend()
    ceilings = backend.ceilings()
    item = next(i for i in plan() if i.op == "gemm" and i.impl == TRITON and i.cost.cold_bytes > 1e8)
    row = measure(item, backend, ceilings)
    assert row.status == "ok", row.reason
    assert row.q10_us <= row.median_us <= row.q90_us
