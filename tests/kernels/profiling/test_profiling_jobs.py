"""Jobs of the CUDA backend on CPU tensors: which calls a timing consists of. The graph itself needs a GPU."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch

from kernels import whole
from kernels.attention import AttentionShape
from kernels.gemm import GemmShape
from kernels.kl import KlShape
from kernels.lm_head import HeadShape
from kernels.models import Model
from kernels.profiling import gpu
from kernels.profiling.plan import EAGER, FULL_CHECK, TRITON, Item
from kernels.profiling.runner import Timing
from kernels.whole_state import WholeShape

pytestmark = pytest.mark.usefixtures("interpreter")
TINY = Model("tiny", 2, 128, 4, 2, 128, 192, 64, head_dim=32)


class Cpu:
    """Runs each captured call once and counts."""

    device = "cpu"
    properties = SimpleNamespace(L2_cache_size=4096, total_memory=1 << 40)

    def __init__(self) -> None:
        self.calls = 0

    def graph(self, calls: list[Callable[[], object]]) -> Timing:
        for call in calls:
            call()
        self.calls += len(calls)
        return Timing(1.0, 1.0, 1.0, 7, None)

    def eager(self, call: Callable[[], object]) -> Timing:
        return self.graph([call])


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "DTYPE", torch.float32)
    monkeypatch.setattr(gpu, "LEAST_CALLS", 2)
    monkeypatch.setattr(gpu.torch.cuda, "memory_reserved", lambda: 0)
    monkeypatch.setitem(whole.MODELS, "tiny", TINY)


@pytest.mark.parametrize(
    ("op", "impl", "shape", "calls"),
    [
        ("gemm", TRITON, GemmShape(2, 64, 128), 2),
        ("gemm", FULL_CHECK, GemmShape(2, 64, 128), 2),
        ("gemm", "torch-matmul", GemmShape(2, 16, 64), 10),
        ("lm_head", "torch-matmul", HeadShape(2, 40, 64), 4),
        ("attention", TRITON, AttentionShape(1, 2, 20, 2, 1, 16), 16),
        ("attention", "torch-sdpa", AttentionShape(1, 2, 20, 2, 1, 16), 16),
        ("kl_forward", "torch-matmul", KlShape(2, 40, 64), 2),
        ("verify_step", TRITON, WholeShape("tiny", 1, 2, 20), 2),
        ("verify_step", EAGER, WholeShape("tiny", 1, 1, 20), 1),
        ("draft_pass", FULL_CHECK, WholeShape("tiny", 1, 2, 20), 2),
    ],
)
def test_jobs(op: str, impl: str, shape: object, calls: int) -> None:
    """As many calls as cold copies exceed five caches (here of 4 KiB), or the least of a graph."""
    backend = Cpu()
    job = gpu.CudaBackend.job(backend, Item(0.0, op, impl, "tiny", shape))
    assert job.error() < 1e-5
    assert job.time().median_us == 1.0
    assert backend.calls == calls
