"""Skinny GEMM of decode and verify steps: out[M, N] = x[M, K] @ w[N, K]^T, weights streamed once.

With few rows M the product is bound by reading `w`. A 16-row tile only reaches the small matrix
instructions, so the operands are swapped: the weights are the 64- or 128-row side and the tokens
the narrow side, out^T = w @ x^T, which gives wgmma from M = 16 on. Where N alone cannot fill the
chip, K is split; the last program of a tile to finish sums the parts in a fixed order, so the
result does not depend on timing.
"""

# Kernel arguments are Triton values, without Python types.
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from kernels.common import (
    COUNTERS,
    Cost,
    Inputs,
    Op,
    cdiv,
    chip_of,
    counters,
    launch,
    multiprocessors,
    operand,
    randn,
)
from kernels.models import Model


@dataclass(frozen=True, slots=True)
class GemmShape:
    m: int
    n: int
    k: int


@dataclass(frozen=True, slots=True)
class GemmConfig:
    """bm tokens x bn weight rows per program, bk deep; `split` programs share one tile's K."""

    bm: int
    bn: int
    bk: int
    split: int
    warps: int
    stages: int


TILES = {
    # rows: (bn, bk, warps, stages); two programs fit on a multiprocessor up to 64 rows
    16: (64, 128, 4, 5),
    32: (64, 128, 4, 4),
    64: (64, 128, 4, 3),
    128: (128, 64, 8, 4),
    256: (128, 64, 8, 4),
}
SPLITS = (1, 2, 3, 4, 6, 8)


def config(m: int, n: int, k: int, sms: int) -> GemmConfig:
    """The committed configuration for a shape on a chip of `sms` multiprocessors."""
    bm = next((rows for rows in TILES if m <= rows), 256)
    if bm == 256 and cdiv(m, 256) * cdiv(n, TILES[256][0]) < sms:
        bm = 128
    bn, bk, warps, stages = TILES[bm]
    tiles, steps = cdiv(m, bm) * cdiv(n, bn), cdiv(k, bk)
    slots = sms * (2 if bm <= 64 else 1)
    splits = (
        [1]
        if bm == 256 or tiles > min(COUNTERS, 2 * slots)
        else [s for s in SPLITS if s == 1 or s * 8 <= steps]
    )
    split = min(splits, key=lambda s: _time(tiles, s, slots, steps, bm))
    return GemmConfig(bm, bn, bk, split, warps, stages)


def _time(tiles: int, split: int, slots: int, steps: int, bm: int) -> float:
    """Relative time: rounds over the chip x K steps of each, plus what splitting costs (in K steps)."""
    rounds = cdiv(tiles * split, slots)
    reduction = 0.0 if split == 1 else 2.0 + split * bm / 64
    return rounds * (cdiv(steps, split) + 6.0) + reduction


@triton.jit
def load_tile(matrix, row, col, rows, cols, R: tl.constexpr, C: tl.constexpr, TMA: tl.constexpr):
    """Tile [R, C] of a row-major [rows, cols] matrix at (row, col); zero outside."""
    if TMA:
        tile = matrix.load([row, col])
    else:
        r = row + tl.arange(0, R)
        c = col + tl.arange(0, C)
        inside = (r < rows)[:, None] & (c < cols)[None, :]
        tile = tl.load(matrix + r[:, None].to(tl.int64) * cols + c[None, :], mask=inside, other=0.0)
    return tile


@triton.jit
def stream_dot(
    acc, x, w, x_row, w_row, lo, hi, x_rows, w_rows, x_cols, w_cols, segment_rows,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, TMA: tl.constexpr,
):  # fmt: skip
    """acc[BN, BM] += w[w_row:, :] @ x[x_row:, :]^T over K blocks lo..hi.

    Columns of `w` beyond `x_cols` continue in `x` `segment_rows` further down (several hidden
    states of one token, stacked: see fusion.py). For a plain product x_cols = w_cols.
    """
    for step in range(lo, hi):
        col = step * BK
        segment = col // x_cols
        wt = load_tile(w, w_row, col, w_rows, w_cols, BN, BK, TMA)
        xt = load_tile(x, x_row + segment * segment_rows, col - segment * x_cols, x_rows, x_cols, BM, BK, TMA)
        acc = tl.dot(wt, xt.T, acc, input_precision="ieee")
    return acc


@triton.jit
def finish_split(acc, partial, counter, tile, tiles, part, split, BM: tl.constexpr, BN: tl.constexpr):
    """Add this program's part; (sum, True) in the last of a tile's `split` programs, else (_, False)."""
    inner = tl.arange(0, BN)[:, None] * BM + tl.arange(0, BM)[None, :]
    tl.store(partial + (part * tiles + tile).to(tl.int64) * (BN * BM) + inner, acc)
    tl.debug_barrier()  # every thread's stores come before the release below
    last = tl.atomic_add(counter + tile, 1, sem="acq_rel") == split - 1
    if last:
        acc = tl.zeros([BN, BM], tl.float32)
        for s in range(split):
            acc += tl.load(
                partial + (s * tiles + tile).to(tl.int64) * (BN * BM) + inner, cache_modifier=".cg"
            )
        tl.store(counter + tile, 0)
    return acc, last


@triton.jit(do_not_specialize=["m", "split"])
def gemm_kernel(
    x, w, out, partial, counter, m, n, k, x_cols, split,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, SPLIT: tl.constexpr, SEGMENTS: tl.constexpr,
    TMA: tl.constexpr,
):  # fmt: skip
    pn, pm, part = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    steps = tl.cdiv(k, BK)
    each = tl.cdiv(steps, split)
    acc = stream_dot(
        tl.zeros([BN, BM], tl.float32), x, w, pm * BM, pn * BN, part * each, min(steps, (part + 1) * each),
        m * SEGMENTS, n, x_cols, k, m, BM, BN, BK, TMA,
    )  # fmt: skip
    rows = pm * BM + tl.arange(0, BM)
    cols = pn * BN + tl.arange(0, BN)
    address = out + rows[None, :].to(tl.int64) * n + cols[:, None]
    inside = (rows < m)[None, :] & (cols < n)[:, None]
    if SPLIT:
        tile = pm * tl.num_programs(0) + pn
        tiles = tl.num_programs(0) * tl.num_programs(1)
        acc, last = finish_split(acc, partial, counter, tile, tiles, part, split, BM, BN)
        if last:
            tl.store(address, acc.to(out.dtype.element_ty), mask=inside)
    else:
        tl.store(address, acc.to(out.dtype.element_ty), mask=inside)


def gemm(x: torch.Tensor, w: torch.Tensor, segments: int = 1, cfg: GemmConfig | None = None) -> torch.Tensor:
    """x[segments * M, K / segments] and w[N, K], both contiguous -> [M, N] in x's type."""
    m, (n, k) = x.shape[0] // segments, w.shape
    cfg = cfg or config(m, n, k, multiprocessors(x))
    if (k // segments) % cfg.bk:
        raise ValueError(f"K per segment is {k // segments}; it must be a multiple of {cfg.bk}")
    chip = chip_of(x)
    out = torch.empty((m, n), dtype=x.dtype, device=x.device)
    tiles_n, tiles_m = cdiv(n, cfg.bn), cdiv(m, cfg.bm)
    size = cfg.split * tiles_n * tiles_m * cfg.bn * cfg.bm if cfg.split > 1 else 1
    launch(
        gemm_kernel,
        (tiles_n, tiles_m, cfg.split),
        operand(x, [cfg.bm, cfg.bk], chip.tma),
        operand(w, [cfg.bn, cfg.bk], chip.tma),
        out,
        torch.empty(size, dtype=torch.float32, device=x.device),
        counters(x),
        m, n, k, k // segments, cfg.split,
        BM=cfg.bm, BN=cfg.bn, BK=cfg.bk, SPLIT=cfg.split > 1, SEGMENTS=segments, TMA=chip.tma,
        num_warps=cfg.warps, num_stages=min(cfg.stages, chip.stages),
    )  # fmt: skip
    return out


def run(x: torch.Tensor, w: torch.Tensor) -> tuple[torch.Tensor]:
    return (gemm(x, w),)


def reference(x: torch.Tensor, w: torch.Tensor) -> tuple[torch.Tensor]:
    return (x.double() @ w.double().T,)


def inputs(shape: GemmShape, device: str, dtype: torch.dtype, seed: int) -> Inputs:
    return {
        "x": randn((shape.m, shape.k), device, dtype, seed),
        "w": randn((shape.n, shape.k), device, dtype, seed + 1, shape.k**-0.5),
    }


def cost(shape: GemmShape) -> Cost:
    """2MNK; the weights cold, x and out warm."""
    m, n, k = shape.m, shape.n, shape.k
    return Cost(2.0 * m * n * k, 2.0 * n * k, 2.0 * m * (n + k))


ROWS = (1, 64, 16, 256, 8, 128, 32, 4, 512, 96, 192, 48, 384, 2, 24, 1024, 160, 320, 640, 768)


def projections(model: Model) -> list[tuple[int, int]]:
    """(N, K) of a layer's four projections, then those of its EAGLE-3 head that differ."""
    h, heads = model.hidden, model.q_heads * model.head_dim
    layer = [(model.qkv, h), (h, heads), (2 * model.intermediate, h), (h, model.intermediate)]
    return [*layer, (model.qkv, 2 * h)]


def shapes(model: Model) -> list[GemmShape]:
    return [GemmShape(m, n, k) for m in ROWS for n, k in projections(model)]


def specimens() -> list[GemmShape]:
    """Every row tile, with and without a split."""
    whole = [GemmShape(rows, 57344, 8192) for rows in TILES]
    return whole + [GemmShape(rows, 4096, 4096) for rows in (16, 32, 64, 128)]


OP = Op("gemm", inputs, run, reference, cost, shapes, specimens, ("w",), matrix=True)
