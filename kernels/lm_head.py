"""LM head with fused top-k: ids and logits of the k largest, and the log-sum-exp, without writing the logits.

For drafting and for greedy verification: each program reduces its tile of vocabulary to k
candidates and a partial log-sum-exp; a second kernel merges the tiles. Ties go to the lowest id.
A pruned draft vocabulary is mapped back by `d2t` (target id = draft id + d2t[draft id], as in
EAGLE-3 checkpoints).
"""

# Kernel arguments are Triton values, without Python types.
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from kernels.common import Cost, Inputs, Op, cdiv, chip_of, launch, operand, pow2, randn
from kernels.gemm import stream_dot
from kernels.models import Model


@dataclass(frozen=True, slots=True)
class HeadShape:
    rows: int
    vocab: int
    hidden: int
    top: int = 1
    mapped: bool = False
    """With a draft-to-target vocabulary map."""


@dataclass(frozen=True, slots=True)
class HeadConfig:
    bm: int
    bn: int
    bk: int
    warps: int
    stages: int


TILES = {16: (64, 128, 4, 5), 32: (64, 128, 4, 4), 64: (64, 128, 4, 3), 128: (128, 64, 8, 4)}
"""Rows: (vocabulary tile, bk, warps, stages). The 256-row tile of the GEMM leaves no room for top-k."""


def config(rows: int) -> HeadConfig:
    bm = next((r for r in TILES if rows <= r), 128)
    return HeadConfig(bm, *TILES[bm])


@triton.jit(do_not_specialize=["rows"])
def head_kernel(
    x, w, values, ids, highest, total, rows, vocab, hidden,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, TOP: tl.constexpr, TMA: tl.constexpr,
):  # fmt: skip
    tile, pm = tl.program_id(0), tl.program_id(1)
    logits = stream_dot(
        tl.zeros([BN, BM], tl.float32), x, w, pm * BM, tile * BN, 0, tl.cdiv(hidden, BK),
        rows, vocab, hidden, hidden, 0, BM, BN, BK, TMA,
    )  # fmt: skip
    index = tl.arange(0, BN)[:, None]
    logits = tl.where(tile * BN + index < vocab, logits, float("-inf"))
    row = pm * BM + tl.arange(0, BM)
    inside = row < rows
    cell = row.to(tl.int64) * tl.num_programs(0) + tile
    peak = tl.max(logits, 0)
    tl.store(highest + cell, peak, mask=inside)
    tl.store(total + cell, tl.sum(tl.exp(logits - peak[None, :]), 0), mask=inside)
    for j in tl.static_range(TOP):
        best = tl.max(logits, 0)
        at = tl.min(tl.where(logits == best[None, :], index, BN - 1), 0)
        tl.store(values + cell * TOP + j, best, mask=inside)
        tl.store(ids + cell * TOP + j, tile * BN + at, mask=inside)
        logits = tl.where(index == at[None, :], float("-inf"), logits)


@triton.jit(do_not_specialize=["tiles"])
def top_kernel(
    values, ids, highest, total, d2t, out_values, out_ids, out_lse, tiles,
    TILES: tl.constexpr, TOP: tl.constexpr, BLOCK: tl.constexpr, MAPPED: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    t = tl.arange(0, TILES)
    peaks = tl.load(highest + row * tiles + t, mask=t < tiles, other=float("-inf"))
    peak = tl.max(peaks, 0)
    sums = tl.load(total + row * tiles + t, mask=t < tiles, other=0.0)
    tl.store(out_lse + row, peak + tl.log(tl.sum(sums * tl.exp(peaks - peak), 0)))
    c = tl.arange(0, BLOCK)
    left = tl.load(values + row * tiles * TOP + c, mask=c < tiles * TOP, other=float("-inf"))
    for j in tl.static_range(TOP):
        best = tl.max(left, 0)
        at = tl.min(tl.where(left == best, c, BLOCK - 1), 0)
        token = tl.load(ids + row * tiles * TOP + at)
        if MAPPED:
            token += tl.load(d2t + token).to(tl.int32)
        tl.store(out_values + row * TOP + j, best)
        tl.store(out_ids + row * TOP + j, token)
        left = tl.where(c == at, float("-inf"), left)


def lm_head(
    x: torch.Tensor,  # [rows, hidden]
    w: torch.Tensor,  # [vocab, hidden]
    top: int = 1,
    d2t: torch.Tensor | None = None,  # int[vocab]
    cfg: HeadConfig | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """-> ids int32[rows, top], logits fp32[rows, top], both from the largest down, log-sum-exp fp32[rows]."""
    (rows, hidden), vocab = x.shape, w.shape[0]
    cfg = cfg or config(rows)
    if hidden % cfg.bk:
        raise ValueError(f"hidden is {hidden}; it must be a multiple of {cfg.bk}")
    tiles, chip = cdiv(vocab, cfg.bn), chip_of(x)

    def empty(*size: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        return torch.empty(size, dtype=dtype, device=x.device)

    values, ids = empty(rows, tiles, top), empty(rows, tiles, top, dtype=torch.int32)
    highest, total = empty(rows, tiles), empty(rows, tiles)
    launch(
        head_kernel,
        (tiles, cdiv(rows, cfg.bm)),
        operand(x, [cfg.bm, cfg.bk], chip.tma), operand(w, [cfg.bn, cfg.bk], chip.tma),
        values, ids, highest, total, rows, vocab, hidden,
        BM=cfg.bm, BN=cfg.bn, BK=cfg.bk, TOP=top, TMA=chip.tma,
        num_warps=cfg.warps, num_stages=min(cfg.stages, chip.stages),
    )  # fmt: skip
    out_values, out_ids, lse = empty(rows, top), empty(rows, top, dtype=torch.int32), empty(rows)
    launch(
        top_kernel,
        (rows,),
        values, ids, highest, total, ids if d2t is None else d2t, out_values, out_ids, lse, tiles,
        TILES=pow2(tiles), TOP=top, BLOCK=pow2(tiles * top), MAPPED=d2t is not None,
        num_warps=8, num_stages=1,
    )  # fmt: skip
    return out_ids, out_values, lse


def reference(
    x: torch.Tensor, w: torch.Tensor, top: int = 1, d2t: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """-> ids, logits, log-sum-exp as `lm_head`, and all logits by target id (fp64; -inf where unmapped)."""
    logits = x.double() @ w.double().T
    values, ids = logits.topk(top)
    if d2t is None:
        return ids, values, logits.logsumexp(-1), logits
    to = torch.arange(len(d2t), device=x.device) + d2t.long()
    wide = torch.full((len(x), int(to.max()) + 1), -torch.inf, dtype=torch.float64, device=x.device)
    wide[:, to] = logits
    return to[ids], values, logits.logsumexp(-1), wide


def error(inputs: Inputs, out: tuple[torch.Tensor, ...], ref: tuple[torch.Tensor, ...]) -> float:
    """Relative error of the logits, of the log-sum-exp, and of the true logits at the chosen ids.

    Ids are judged by the logit they have: near-ties may fall either way in bf16.
    """
    ids, values, lse = out
    _, best, ref_lse, logits = ref
    if any(len(set(row)) < len(row) for row in ids.tolist()):
        return float("inf")
    scale = best.norm().clamp_min(1e-30)
    chosen = logits.gather(1, ids.long())
    errors = [
        (values - best).norm() / scale,
        (chosen - best).norm() / scale,
        (lse - ref_lse).norm() / ref_lse.norm(),
    ]
    worst = max(float(e) for e in errors)
    return worst if worst == worst and torch.stack(errors).isfinite().all() else float("inf")


def inputs(shape: HeadShape, device: str, dtype: torch.dtype, seed: int) -> Inputs:
    made: Inputs = {
        "x": randn((shape.rows, shape.hidden), device, dtype, seed),
        "w": randn((shape.vocab, shape.hidden), device, dtype, seed + 1, shape.hidden**-0.5),
        "top": shape.top,
    }
    if shape.mapped:
        kept = torch.arange(shape.vocab) * 4 + torch.arange(shape.vocab) % 4
        made["d2t"] = (kept - torch.arange(shape.vocab)).to(torch.int64).to(device)
    return made


def cost(shape: HeadShape) -> Cost:
    """2 * rows * vocab * hidden; the head's weight cold, the rows warm."""
    r, v, h = shape.rows, shape.vocab, shape.hidden
    return Cost(2.0 * r * v * h, 2.0 * v * h, 2.0 * r * h + 12.0 * r * shape.top)


ROWS = (64, 1, 320, 8, 128, 16, 640, 32, 256, 512, 1024, 4, 2)


def shapes(model: Model) -> list[HeadShape]:
    """Target head and mapped draft head (chain), then the draft head with the top 8 of a tree."""
    target = [HeadShape(r, model.vocab, model.hidden) for r in ROWS]
    draft = [HeadShape(r, model.draft_vocab, model.hidden, mapped=True) for r in ROWS]
    tree = [HeadShape(r, model.draft_vocab, model.hidden, top=8, mapped=True) for r in (1, 8, 32, 64)]
    return [s for pair in zip(target, draft, strict=True) for s in pair] + tree


def specimens() -> list[HeadShape]:
    return [HeadShape(r, 128256, 4096) for r in TILES] + [
        HeadShape(r, 32000, 4096, top, mapped=True) for r, top in ((16, 1), (16, 8), (64, 8))
    ]


OP = Op("lm_head", inputs, lm_head, reference, cost, shapes, specimens, ("w",), matrix=True, error=error)
