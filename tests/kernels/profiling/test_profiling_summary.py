"""The lines printed at the end, from made-up rows."""

from __future__ import annotations

from dataclasses import asdict

from profiling_fakes import CEILINGS

from kernels.profiling.rows import ERROR, OK, Row
from kernels.profiling.runner import device_row
from kernels.profiling.summary import summary
from kernels.whole import WholeShape


def row(op: str, impl: str, shape: dict, us: float, floor: float = 100.0) -> Row:
    return Row(op, impl, "m", shape, "bf16", OK, 1e-3, us, us, us, 9, None, floor, us / floor)


def step(q: int, us: float) -> Row:
    return row("verify_step", "triton", asdict(WholeShape("llama3-8b", 64, q, 4096)), us)


def test_headline_is_the_ratio_of_two_measured_steps() -> None:
    assert "12.000 ms, with K=0 10.000 ms: 1.200x" in summary([step(1, 10_000.0), step(5, 12_000.0)])[-1]
    assert not any("K=0" in line for line in summary([step(5, 12_000.0)]))


def test_floors_count_large_sizes_and_peers_the_same_shapes() -> None:
    rows = [
        device_row(CEILINGS),
        row("gemm", "triton", {"m": 1}, 125.0),
        row("gemm", "triton", {"m": 2}, 9.0, floor=3.0),
        row("gemm", "torch-matmul", {"m": 1}, 150.0),
        row("gemm", "torch-matmul", {"m": 3}, 1.0),
        Row("gemm", "triton", "m", {"m": 4}, "bf16", ERROR, reason="boom"),
    ]
    lines = summary(rows)
    assert lines[0].startswith("Fake: copy 4000 GB/s, read 4200 GB/s, bf16 800 TFLOP/s")
    assert lines[1].split()[:2] == ["gemm", "80.0%"]
    assert "median of 1 large sizes" in lines[1]
    assert "1.20x as fast as torch-matmul, worst 1.20, 1 shapes" in lines[2]
