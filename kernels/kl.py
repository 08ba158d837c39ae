"""Fused linear + KL divergence over a large vocabulary, never materialising the logits.

For student logits s = x_s @ w_s^T and teacher logits t = x_t @ w_t^T per token, with q = softmax(s),
p = softmax(t):

    forward  KL(p || q) = sum p (t - s) - lse(t) + lse(s)      d/ds = q - p
    reverse  KL(q || p) = sum q (s - t) - lse(s) + lse(t)      d/ds = q ((s - lse(s)) - (t - lse(t)) - KL)

The student's lse(s) falls out of either, with d/ds = q: lse(s) - s[token] is cross-entropy with a text.

Both sums run online over vocabulary tiles with rescaling, as in FlashAttention. The backward pass
recomputes logits tile by tile into a gradient buffer of CHUNK vocabulary entries, then adds that
chunk's share of dx = ds @ w and writes its rows of dw = ds^T @ x: extra memory is
tokens x CHUNK, not tokens x vocabulary.
"""

# Kernel arguments are Triton values, without Python types.
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
import triton
import triton.language as tl

from kernels.common import Cost, Inputs, Op, cdiv, chip_of, launch, multiprocessors, operand, pow2, randn
from kernels.gemm import load_tile
from kernels.models import Model

DIRECTIONS = ("forward", "reverse")
CHUNK = 8192


@dataclass(frozen=True, slots=True)
class KlShape:
    tokens: int
    vocab: int
    hidden: int
    direction: str = "forward"


@dataclass(frozen=True, slots=True)
class KlConfig:
    bt: int = 128
    """Tokens per tile."""
    bv: int = 128
    bk: int = 64
    warps: int = 8
    stages: int = 4
    chunk: int = CHUNK


@triton.jit
def row_dot(
    x,
    w,
    x_row,
    w_row,
    x_rows,
    w_rows,
    cols,
    BT: tl.constexpr,
    BV: tl.constexpr,
    BK: tl.constexpr,
    TMA: tl.constexpr,
):
    """[BT, BV] = x[x_row:, :] @ w[w_row:, :]^T."""
    acc = tl.zeros([BT, BV], tl.float32)
    for col in range(0, cols, BK):
        a = load_tile(x, x_row, col, x_rows, cols, BT, BK, TMA)
        b = load_tile(w, w_row, col, w_rows, cols, BV, BK, TMA)
        acc = tl.dot(a, b.T, acc, input_precision="ieee")
    return acc


@triton.jit
def rescaled(total, highest, values, extra):
    """(new peak, total of exp(values - peak), factor on older sums, exp(values - peak) . extra)."""
    peak = tl.maximum(highest, tl.max(values, 1))
    keep = tl.exp(highest - peak)
    weight = tl.exp(values - peak[:, None])
    return peak, total * keep + tl.sum(weight, 1), keep, tl.sum(weight * extra, 1)


@triton.jit(do_not_specialize=["tokens"])
def kl_forward_kernel(
    xs, ws, xt, wt, peaks_s, sums_s, peaks_t, sums_t, crosses, tokens, vocab, hidden_s, hidden_t, each,
    BT: tl.constexpr, BV: tl.constexpr, BK: tl.constexpr, REVERSE: tl.constexpr, TMA: tl.constexpr,
):  # fmt: skip
    """One token tile over `each` vocabulary tiles: both log-sum-exps' parts and the weighted difference."""
    token_tile, part = tl.program_id(0), tl.program_id(1)
    row = token_tile * BT
    peak_s = tl.full([BT], float("-inf"), tl.float32)
    peak_t = tl.full([BT], float("-inf"), tl.float32)
    sum_s = tl.zeros([BT], tl.float32)
    sum_t = tl.zeros([BT], tl.float32)
    cross = tl.zeros([BT], tl.float32)
    for tile in range(part * each, min((part + 1) * each, tl.cdiv(vocab, BV))):
        col = tile * BV
        s = row_dot(xs, ws, row, col, tokens, vocab, hidden_s, BT, BV, BK, TMA)
        t = row_dot(xt, wt, row, col, tokens, vocab, hidden_t, BT, BV, BK, TMA)
        real = (col + tl.arange(0, BV) < vocab)[None, :]
        gap = tl.where(real, s - t if REVERSE else t - s, 0.0)
        s, t = tl.where(real, s, float("-inf")), tl.where(real, t, float("-inf"))
        peak_s, sum_s, keep_s, mine_s = rescaled(sum_s, peak_s, s, gap)
        peak_t, sum_t, keep_t, mine_t = rescaled(sum_t, peak_t, t, gap)
        cross = cross * keep_s + mine_s if REVERSE else cross * keep_t + mine_t
    t_row = row + tl.arange(0, BT)
    cell = t_row * tl.num_programs(1) + part
    inside = t_row < tokens
    tl.store(peaks_s + cell, peak_s, mask=inside)
    tl.store(sums_s + cell, sum_s, mask=inside)
    tl.store(peaks_t + cell, peak_t, mask=inside)
    tl.store(sums_t + cell, sum_t, mask=inside)
    tl.store(crosses + cell, cross, mask=inside)


@triton.jit(do_not_specialize=["tokens", "parts"])
def kl_merge_kernel(
    peaks_s, sums_s, peaks_t, sums_t, crosses, loss, lse_s, lse_t, tokens, parts,
    BT: tl.constexpr, PARTS: tl.constexpr, REVERSE: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0) * BT + tl.arange(0, BT)
    part = tl.arange(0, PARTS)[None, :]
    inside = (row < tokens)[:, None] & (part < parts)
    cell = row[:, None] * parts + part
    ps = tl.load(peaks_s + cell, mask=inside, other=float("-inf"))
    pt = tl.load(peaks_t + cell, mask=inside, other=float("-inf"))
    ms, mt = tl.max(ps, 1), tl.max(pt, 1)
    ms, mt = tl.where(row < tokens, ms, 0.0), tl.where(row < tokens, mt, 0.0)
    share_s, share_t = tl.exp(ps - ms[:, None]), tl.exp(pt - mt[:, None])
    total_s = tl.sum(tl.load(sums_s + cell, mask=inside, other=0.0) * share_s, 1)
    total_t = tl.sum(tl.load(sums_t + cell, mask=inside, other=0.0) * share_t, 1)
    cross = tl.load(crosses + cell, mask=inside, other=0.0)
    ls, lt = ms + tl.log(total_s), mt + tl.log(total_t)
    share, own = (share_s, total_s) if REVERSE else (share_t, total_t)
    kl = tl.sum(cross * share, 1) / own + ((lt - ls) if REVERSE else (ls - lt))
    tl.store(loss + row, kl, mask=row < tokens)
    tl.store(lse_s + row, ls, mask=row < tokens)
    tl.store(lse_t + row, lt, mask=row < tokens)


@triton.jit(do_not_specialize=["tokens", "start", "width"])
def kl_gradient_kernel(
    xs, ws, xt, wt, loss, lse_s, lse_t, weight, weight_lse, ds, tokens, vocab, hidden_s, hidden_t, start, width,
    BT: tl.constexpr, BV: tl.constexpr, BK: tl.constexpr, CHUNK: tl.constexpr, REVERSE: tl.constexpr,
    TMA: tl.constexpr,
):  # fmt: skip
    """ds[tokens, CHUNK] = weight * d KL / d s + weight_lse * q for vocabulary start .. start + width, zero beyond."""
    row, at = tl.program_id(0) * BT, tl.program_id(1) * BV
    s = row_dot(xs, ws, row, start + at, tokens, vocab, hidden_s, BT, BV, BK, TMA)
    t = row_dot(xt, wt, row, start + at, tokens, vocab, hidden_t, BT, BV, BK, TMA)
    t_row = row + tl.arange(0, BT)
    inside = t_row < tokens
    log_q = s - tl.load(lse_s + t_row, mask=inside, other=0.0)[:, None]
    log_p = t - tl.load(lse_t + t_row, mask=inside, other=0.0)[:, None]
    of_kl = tl.load(weight + t_row, mask=inside, other=0.0)
    of_lse = tl.load(weight_lse + t_row, mask=inside, other=0.0)
    if REVERSE:
        rest = of_lse - of_kl * tl.load(loss + t_row, mask=inside, other=0.0)
        gradient = tl.exp(log_q) * (of_kl[:, None] * (log_q - log_p) + rest[:, None])
    else:
        q = tl.exp(log_q)
        gradient = (q - tl.exp(log_p)) * of_kl[:, None] + q * of_lse[:, None]
    col = at + tl.arange(0, BV)
    gradient = tl.where((col < width)[None, :], gradient, 0.0)
    address = ds + t_row.to(tl.int64)[:, None] * CHUNK + col[None, :]
    tl.store(address, gradient.to(ds.dtype.element_ty), mask=inside[:, None] & (col < CHUNK)[None, :])


@triton.jit(do_not_specialize=["m", "depth", "b_start"])
def kl_product_kernel(
    a, b, c, m, n, depth, a_rows, a_cols, b_rows, b_start,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
    TRANSPOSED: tl.constexpr, ADD: tl.constexpr, TMA: tl.constexpr,
):  # fmt: skip
    """c[m, n] (+)= A @ b[b_start:, :], A being a[m, depth], or a^T of a[depth, m] when TRANSPOSED."""
    row, col = tl.program_id(1) * BM, tl.program_id(0) * BN
    acc = tl.zeros([BM, BN], tl.float32)
    for k in range(0, depth, BK):
        if TRANSPOSED:
            left = load_tile(a, k, row, a_rows, a_cols, BK, BM, TMA).T
        else:
            left = load_tile(a, row, k, a_rows, a_cols, BM, BK, TMA)
        acc = tl.dot(
            left, load_tile(b, b_start + k, col, b_rows, n, BK, BN, TMA), acc, input_precision="ieee"
        )
    rows, cols = row + tl.arange(0, BM), col + tl.arange(0, BN)
    address = c + rows.to(tl.int64)[:, None] * n + cols[None, :]
    inside = (rows < m)[:, None] & (cols < n)[None, :]
    if ADD:
        acc += tl.load(address, mask=inside, other=0.0).to(tl.float32)
    tl.store(address, acc.to(c.dtype.element_ty), mask=inside)


Saved = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def kl_forward(
    x_s: torch.Tensor,  # [tokens, hidden of the student]
    w_s: torch.Tensor,  # [vocab, hidden of the student]
    x_t: torch.Tensor,  # [tokens, hidden of the teacher]
    w_t: torch.Tensor,  # [vocab, hidden of the teacher]
    direction: str = "forward",
    cfg: KlConfig | None = None,
) -> Saved:
    """-> loss fp32[tokens], and the log-sum-exps of student and teacher that the backward pass needs."""
    _check(x_s, w_s, x_t, w_t, direction)
    cfg, tma = _config(cfg, x_s)
    tokens, vocab, reverse = x_s.shape[0], w_s.shape[0], direction == "reverse"
    tiles, token_tiles = cdiv(vocab, cfg.bv), cdiv(tokens, cfg.bt)
    each = cdiv(tiles, max(1, min(tiles, multiprocessors(x_s) // token_tiles)))
    parts = cdiv(tiles, each)
    cells = [torch.empty((tokens, parts), dtype=torch.float32, device=x_s.device) for _ in range(5)]
    launch(
        kl_forward_kernel,
        (token_tiles, parts),
        *_operands(x_s, w_s, x_t, w_t, cfg, tma), *cells, tokens, vocab, x_s.shape[1], x_t.shape[1], each,
        BT=cfg.bt, BV=cfg.bv, BK=cfg.bk, REVERSE=reverse, TMA=tma, num_warps=cfg.warps, num_stages=cfg.stages,
    )  # fmt: skip
    loss, lse_s, lse_t = (torch.empty(tokens, dtype=torch.float32, device=x_s.device) for _ in range(3))
    launch(
        kl_merge_kernel, (cdiv(tokens, 16),), *cells, loss, lse_s, lse_t, tokens, parts,
        BT=16, PARTS=pow2(parts, 2), REVERSE=reverse, num_warps=4, num_stages=1,
    )  # fmt: skip
    return loss, lse_s, lse_t


def kl_backward(
    weight: torch.Tensor,  # fp32[tokens], gradient of the caller's loss with respect to each token's KL
    saved: Saved,
    x_s: torch.Tensor,
    w_s: torch.Tensor,
    x_t: torch.Tensor,
    w_t: torch.Tensor,
    direction: str = "forward",
    head: bool = True,
    cfg: KlConfig | None = None,
    weight_lse: torch.Tensor | None = None,  # fp32[tokens], likewise of the student's log-sum-exp; None: 0
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """-> gradient of x_s (fp32) and, if `head`, of w_s in its own type. The teacher gets none."""
    cfg, tma = _config(cfg, x_s)
    tokens, (vocab, hidden) = x_s.shape[0], w_s.shape
    chunk = min(cfg.chunk, cdiv(vocab, cfg.bv) * cfg.bv)
    ds = torch.empty((tokens, chunk), dtype=x_s.dtype, device=x_s.device)
    dx = torch.empty((tokens, hidden), dtype=torch.float32, device=x_s.device)
    dw = torch.empty_like(w_s) if head else None
    weight_lse = torch.zeros_like(weight) if weight_lse is None else weight_lse
    for start in range(0, vocab, chunk):
        width = min(chunk, vocab - start)
        launch(
            kl_gradient_kernel,
            (cdiv(tokens, cfg.bt), cdiv(chunk, cfg.bv)),
            *_operands(x_s, w_s, x_t, w_t, cfg, tma), *saved, weight, weight_lse, ds,
            tokens, vocab, hidden, x_t.shape[1], start, width,
            BT=cfg.bt, BV=cfg.bv, BK=cfg.bk, CHUNK=chunk, REVERSE=direction == "reverse", TMA=tma,
            num_warps=cfg.warps, num_stages=cfg.stages,
        )  # fmt: skip
        _product(ds, w_s, dx, False, start > 0, width, start, cfg, tma)
        if dw is not None:
            _product(ds, x_s, dw[start : start + width], True, False, tokens, 0, cfg, tma)
    return dx, dw


def _product(
    a: torch.Tensor, b: torch.Tensor, c: torch.Tensor,
    transposed: bool, add: bool, depth: int, b_start: int, cfg: KlConfig, tma: bool,
) -> None:  # fmt: skip
    m, n = c.shape
    block = [cfg.bk, cfg.bt] if transposed else [cfg.bt, cfg.bk]
    launch(
        kl_product_kernel,
        (cdiv(n, cfg.bv), cdiv(m, cfg.bt)),
        operand(a, block, tma), operand(b, [cfg.bk, cfg.bv], tma), c,
        m, n, depth, a.shape[0], a.shape[1], b.shape[0], b_start,
        BM=cfg.bt, BN=cfg.bv, BK=cfg.bk, TRANSPOSED=transposed, ADD=add, TMA=tma,
        num_warps=cfg.warps, num_stages=cfg.stages,
    )  # fmt: skip


def _config(cfg: KlConfig | None, x: torch.Tensor) -> tuple[KlConfig, bool]:
    """The configuration on this chip, and whether it loads through descriptors."""
    chip = chip_of(x)
    cfg = cfg or (KlConfig() if chip.wgmma else KlConfig(bv=64))
    return replace(cfg, stages=min(cfg.stages, chip.stages)), chip.tma


def _operands(
    x_s: torch.Tensor, w_s: torch.Tensor, x_t: torch.Tensor, w_t: torch.Tensor, cfg: KlConfig, tma: bool
) -> list[Any]:
    rows = (cfg.bt, cfg.bv, cfg.bt, cfg.bv)
    return [operand(t, [r, cfg.bk], tma) for t, r in zip((x_s, w_s, x_t, w_t), rows, strict=True)]


def _check(
    x_s: torch.Tensor, w_s: torch.Tensor, x_t: torch.Tensor, w_t: torch.Tensor, direction: str
) -> None:
    if direction not in DIRECTIONS:
        raise ValueError(f"direction is {direction!r}; it must be one of {', '.join(DIRECTIONS)}")
    if w_s.shape[0] != w_t.shape[0] or x_s.shape[0] != x_t.shape[0]:
        raise ValueError(
            f"student {tuple(x_s.shape)} x {tuple(w_s.shape)} and teacher {tuple(x_t.shape)} x "
            f"{tuple(w_t.shape)} must share tokens and vocabulary"
        )


def run_forward(direction: str, **tensors: Any) -> tuple[torch.Tensor]:
    return (kl_forward(**tensors, direction=direction)[0],)


def run_backward(
    direction: str, weight: torch.Tensor, saved: Saved | None = None, **tensors: Any
) -> tuple[torch.Tensor, ...]:
    """Gradients of x_s and w_s; the forward pass runs first unless its result is given."""
    saved = saved or kl_forward(**tensors, direction=direction)
    dx, dw = kl_backward(weight, saved, **tensors, direction=direction)
    assert dw is not None
    return dx, dw


def reference(
    direction: str, x_s: torch.Tensor, w_s: torch.Tensor, x_t: torch.Tensor, w_t: torch.Tensor
) -> tuple[torch.Tensor]:
    log_q = (x_s.double() @ w_s.double().T).log_softmax(-1)
    log_p = (x_t.double() @ w_t.double().T).log_softmax(-1)
    if direction == "forward":
        return ((log_p.exp() * (log_p - log_q)).sum(-1),)
    return ((log_q.exp() * (log_q - log_p)).sum(-1),)


def reference_backward(
    direction: str, weight: torch.Tensor, saved: Saved | None = None, **tensors: Any
) -> tuple[torch.Tensor, ...]:
    """The same through autograd in fp64, logits and all."""
    leaves = {name: t.double().requires_grad_(name in ("x_s", "w_s")) for name, t in tensors.items()}
    (reference(direction, **leaves)[0] * weight.double()).sum().backward()
    dx, dw = leaves["x_s"].grad, leaves["w_s"].grad
    assert dx is not None
    assert dw is not None
    return dx, dw


def inputs(shape: KlShape, device: str, dtype: torch.dtype, seed: int) -> Inputs:
    """A student near its teacher: hidden states share half of their variance."""
    x_t = randn((shape.tokens, shape.hidden), device, dtype, seed)
    noise = randn((shape.tokens, shape.hidden), device, dtype, seed + 1)
    w_t = randn((shape.vocab, shape.hidden), device, dtype, seed + 2, 2 * shape.hidden**-0.5)
    step = randn((shape.vocab, shape.hidden), device, dtype, seed + 3, 0.5 * shape.hidden**-0.5)
    return {
        "direction": shape.direction,
        "x_s": (0.7 * x_t + 0.7 * noise).to(dtype),
        "w_s": (w_t + step).to(dtype),
        "x_t": x_t,
        "w_t": w_t,
    }


def inputs_backward(shape: KlShape, device: str, dtype: torch.dtype, seed: int) -> Inputs:
    weight = torch.full((shape.tokens,), 1.0 / shape.tokens, dtype=torch.float32, device=device)
    return inputs(shape, device, dtype, seed) | {"weight": weight}


def cost(shape: KlShape) -> Cost:
    """Two products of 2 * tokens * vocab * hidden; both heads read once, cold."""
    t, v, h = shape.tokens, shape.vocab, shape.hidden
    return Cost(4.0 * t * v * h, 4.0 * v * h, 4.0 * t * h)


def cost_backward(shape: KlShape) -> Cost:
    """The forward pass, both products again, then dx and dw: 12 * tokens * vocab * hidden.

    Both heads are read twice, the student's once more for dx, its gradient written.
    """
    t, v, h = shape.tokens, shape.vocab, shape.hidden
    return Cost(12.0 * t * v * h, 2.0 * 6 * v * h, 4.0 * t * h * 2)


def shapes(model: Model) -> list[KlShape]:
    """Draft vocabulary first, then the whole one."""
    grid = [
        (1024, model.draft_vocab),
        (2048, model.vocab),
        (512, model.draft_vocab),
        (4096, model.draft_vocab),
    ]
    return [KlShape(t, v, model.hidden, d) for t, v in grid for d in DIRECTIONS]


def specimens() -> list[KlShape]:
    return [KlShape(2048, 128256, 4096, d) for d in DIRECTIONS]


_COLD = ("w_s", "w_t")
FORWARD = Op("kl_forward", inputs, run_forward, reference, cost, shapes, specimens, _COLD, matrix=True)
BACKWARD = replace(
    FORWARD,
    name="kl_backward",
    inputs=inputs_backward,
    run=run_backward,
    reference=reference_backward,
    cost=cost_backward,
)
