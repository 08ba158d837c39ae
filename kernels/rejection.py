"""Speculative rejection sampling: which drafts stand, and the token that follows them.

Greedy: a draft stands while it equals the target's argmax. Stochastic (Leviathan et al. 2023, Chen
et al. 2023): draft x with draft probability q(x) stands when u * q(x) < p(x); after the first
failure the token is drawn from max(p - q, 0) normalised, after none from p of the bonus position.
The output then has exactly the target's distribution. Drawing is by inverse CDF in vocabulary
order with one uniform number, so a run is a function of its uniforms. No kernel writes
probabilities: p is recomputed from the logits and their log-sum-exp where needed.
"""

# Kernel arguments are Triton values, without Python types.
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl

from kernels.common import Cost, Inputs, Op, cdiv, launch, pow2, randn
from kernels.models import Model

MAX_CHUNK = 8192
"""Vocabulary entries per program; a tile holds TILE / chunk rows."""
TILE = 8192


@dataclass(frozen=True, slots=True)
class RejectionShape:
    batch: int
    k: int
    vocab: int
    mode: str = "greedy"
    """`greedy`, `onehot` (stochastic target, greedy drafts) or `stochastic` (drafts drawn from q)."""


@triton.jit(do_not_specialize=["batch", "k"])
def greedy_kernel(target, drafts, tokens, accepted, batch, k, BLOCK: tl.constexpr, KP: tl.constexpr):
    """tokens[b, i] = target[b, i] for i up to the first draft that differs from it, then -1."""
    b = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)[:, None]
    i = tl.arange(0, KP)[None, :]
    theirs = tl.load(target + b * (k + 1) + i, mask=(b < batch) & (i <= k), other=-1)
    ours = tl.load(drafts + b * k + i, mask=(b < batch) & (i < k), other=-1)
    n = tl.min(tl.where((i < k) & (ours == theirs), k, tl.minimum(i, k)), 1)
    tl.store(tokens + b * (k + 1) + i, tl.where(i <= n[:, None], theirs, -1), mask=(b < batch) & (i <= k))
    rows = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(accepted + rows, n, mask=rows < batch)


def greedy(target: torch.Tensor, drafts: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """target int32[batch, k + 1] (argmax per position), drafts int32[batch, k].

    -> tokens int32[batch, k + 1]: accepted drafts, then the target's own token, then -1;
    accepted int32[batch], 0..k.
    """
    batch, k = drafts.shape
    tokens, accepted = torch.empty_like(target), torch.empty(batch, dtype=torch.int32, device=target.device)
    grid = (cdiv(batch, 64),)
    launch(
        greedy_kernel, grid, target, drafts, tokens, accepted, batch, k,
        BLOCK=64, KP=pow2(k + 1, 2), num_warps=4, num_stages=1,
    )  # fmt: skip
    return tokens, accepted


@triton.jit(do_not_specialize=["rows"])
def stats_kernel(
    logits, inverse_t, highest, total, rows, vocab, chunks, ROWS: tl.constexpr, BLOCK: tl.constexpr
):
    """Largest scaled logit and sum of exponentials of each (row, chunk of the vocabulary)."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    v = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = (row < rows)[:, None] & (v < vocab)[None, :]
    x = tl.load(logits + row.to(tl.int64)[:, None] * vocab + v[None, :], mask=inside, other=float("-inf"))
    x = x.to(tl.float32) * inverse_t
    peak = tl.max(x, 1)
    safe = tl.where(peak == float("-inf"), 0.0, peak)
    cell = row * chunks + tl.program_id(1)
    tl.store(highest + cell, peak, mask=row < rows)
    tl.store(total + cell, tl.sum(tl.exp(x - safe[:, None]), 1), mask=row < rows)


@triton.jit(do_not_specialize=["batch", "k"])
def accept_kernel(
    logits, drafts, draft_probs, uniforms, highest, total, inverse_t, accepted, lse, tokens,
    batch, k, vocab, chunks,
    SEQS: tl.constexpr, KP: tl.constexpr, CHUNKS: tl.constexpr, ONEHOT: tl.constexpr,
):  # fmt: skip
    """Per sequence: log-sum-exp of its rows, number of drafts that stand, tokens[i] = draft or -1."""
    b = tl.program_id(0) * SEQS + tl.arange(0, SEQS)[:, None]
    i = tl.arange(0, KP)[None, :]
    row = (b * (k + 1) + i).to(tl.int64)
    known = (b < batch) & (i <= k)
    c = tl.arange(0, CHUNKS)[None, None, :]
    parts = known[:, :, None] & (c < chunks)
    peaks = tl.load(highest + row[:, :, None] * chunks + c, mask=parts, other=float("-inf"))
    sums = tl.load(total + row[:, :, None] * chunks + c, mask=parts, other=0.0)
    peak = tl.max(peaks, 2)
    peak = tl.where(peak == float("-inf"), 0.0, peak)
    log_total = peak + tl.log(tl.sum(sums * tl.exp(peaks - peak[:, :, None]), 2))
    drafted = (b < batch) & (i < k)
    x = tl.load(drafts + b * k + i, mask=drafted, other=0)
    p = tl.exp(
        tl.load(logits + row * vocab + x, mask=drafted, other=0.0).to(tl.float32) * inverse_t - log_total
    )
    u = tl.load(uniforms + b * (k + 1) + i, mask=drafted, other=0.0)
    if ONEHOT:
        q = tl.full([SEQS, KP], 1.0, tl.float32)
    else:
        q = tl.load(draft_probs + (b * k + i).to(tl.int64) * vocab + x, mask=drafted, other=0.0)
    n = tl.min(tl.where(drafted & (u * q < p), k, tl.minimum(i, k)), 1)
    seq = tl.program_id(0) * SEQS + tl.arange(0, SEQS)
    tl.store(accepted + seq, n, mask=seq < batch)
    tl.store(lse + seq, tl.sum(tl.where(i == n[:, None], log_total, 0.0), 1), mask=seq < batch)
    tl.store(tokens + b * (k + 1) + i, tl.where(i < n[:, None], x, -1), mask=known)


@triton.jit
def residual(
    logits, draft_probs, drafts, inverse_t, lse, seq, n, v, k, vocab, inside, ONEHOT: tl.constexpr
):  # fmt: skip
    """[seqs, v]: max(p - q, 0) at the first rejected position n, or p where all k drafts stood."""
    row = (seq * (k + 1) + n).to(tl.int64)[:, None] * vocab
    x = tl.load(logits + row + v, mask=inside, other=float("-inf")).to(tl.float32)
    p = tl.exp(x * inverse_t - lse[:, None])
    rejected = (n < k)[:, None]
    if ONEHOT:
        failed = tl.load(drafts + seq * k + n, mask=n < k, other=-1)
        weight = tl.where(v == failed[:, None], 0.0, p)
    else:
        drow = (seq * k + n).to(tl.int64)[:, None] * vocab
        weight = tl.maximum(p - tl.load(draft_probs + drow + v, mask=inside & rejected, other=0.0), 0.0)
    return tl.where(inside, tl.where(rejected, weight, p), 0.0)


@triton.jit(do_not_specialize=["batch", "k"])
def residual_kernel(
    logits, draft_probs, drafts, inverse_t, lse, accepted, weights, batch, k, vocab, chunks,
    SEQS: tl.constexpr, BLOCK: tl.constexpr, ONEHOT: tl.constexpr,
):  # fmt: skip
    """Sum of the residual over each (sequence, chunk)."""
    seq = tl.program_id(0) * SEQS + tl.arange(0, SEQS)
    known = seq < batch
    v = (tl.program_id(1) * BLOCK + tl.arange(0, BLOCK))[None, :]
    n = tl.load(accepted + seq, mask=known, other=0)
    normaliser = tl.load(lse + seq, mask=known, other=0.0)
    inside = known[:, None] & (v < vocab)
    w = residual(logits, draft_probs, drafts, inverse_t, normaliser, seq, n, v, k, vocab, inside, ONEHOT)
    tl.store(weights + seq * chunks + tl.program_id(1), tl.sum(w, 1), mask=known)


@triton.jit(do_not_specialize=["batch", "k"])
def pick_kernel(
    logits, draft_probs, drafts, uniforms, inverse_t, lse, accepted, weights, tokens, batch, k, vocab, chunks,
    SEQS: tl.constexpr, BLOCK: tl.constexpr, CHUNKS: tl.constexpr, ONEHOT: tl.constexpr,
):  # fmt: skip
    """tokens[n] = the first token whose cumulative residual exceeds u * total: its chunk, then inside."""
    seq = tl.program_id(0) * SEQS + tl.arange(0, SEQS)
    known = seq < batch
    n = tl.load(accepted + seq, mask=known, other=0)
    normaliser = tl.load(lse + seq, mask=known, other=0.0)
    c = tl.arange(0, CHUNKS)[None, :]
    sums = tl.load(weights + seq[:, None] * chunks + c, mask=known[:, None] & (c < chunks), other=0.0)
    edge = tl.cumsum(sums, 1)
    goal = tl.load(uniforms + seq * (k + 1) + k, mask=known, other=0.0) * tl.sum(sums, 1)
    # rounding may leave no edge above the goal: then the last chunk (token) that has weight
    fallback = tl.max(tl.where(sums > 0, c, 0), 1)
    chosen = tl.min(tl.where((edge > goal[:, None]) & (sums > 0), c, CHUNKS), 1)
    chosen = tl.where(chosen == CHUNKS, fallback, chosen)
    before = tl.sum(tl.where(c < chosen[:, None], sums, 0.0), 1)
    v = chosen[:, None] * BLOCK + tl.arange(0, BLOCK)[None, :]
    inside = known[:, None] & (v < vocab)
    w = residual(logits, draft_probs, drafts, inverse_t, normaliser, seq, n, v, k, vocab, inside, ONEHOT)
    over = (tl.cumsum(w, 1) > (goal - before)[:, None]) & (w > 0)
    last = tl.max(tl.where(w > 0, v, 0), 1)
    token = tl.min(tl.where(over, v, vocab), 1)
    tl.store(tokens + seq * (k + 1) + n, tl.where(token == vocab, last, token), mask=known)


def stochastic(
    logits: torch.Tensor,  # [batch, k + 1, vocab], of the target
    drafts: torch.Tensor,  # int32[batch, k]
    uniforms: torch.Tensor,  # fp32[batch, k + 1] in [0, 1): k to accept with, one to draw with
    draft_probs: torch.Tensor | None = None,  # fp32[batch, k, vocab]; None: drafts were greedy (one-hot q)
    temperature: float = 1.0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """-> tokens int32[batch, k + 1] (accepted drafts, one drawn token, then -1), accepted int32[batch]."""
    batch, rows, vocab = logits.shape
    k, onehot, inverse = rows - 1, draft_probs is None, 1.0 / temperature
    block = min(pow2(vocab), MAX_CHUNK)
    chunks, tall = cdiv(vocab, block), TILE // block

    def empty(*size: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        return torch.empty(size, dtype=dtype, device=logits.device)

    highest, total = empty(batch * rows, chunks), empty(batch * rows, chunks)
    lse, weights = empty(batch), empty(batch, chunks)
    tokens, accepted = empty(batch, rows, dtype=torch.int32), empty(batch, dtype=torch.int32)
    q = logits if draft_probs is None else draft_probs
    several = min(tall, 256)  # sequences per program where only K + 1 numbers each are looked at
    launch(
        stats_kernel, (cdiv(batch * rows, tall), chunks), logits, inverse, highest, total,
        batch * rows, vocab, chunks, ROWS=tall, BLOCK=block, num_warps=8, num_stages=1,
    )  # fmt: skip
    launch(
        accept_kernel, (cdiv(batch, several),), logits, drafts, q, uniforms, highest, total, inverse,
        accepted, lse, tokens, batch, k, vocab, chunks,
        SEQS=several, KP=pow2(rows, 2), CHUNKS=pow2(chunks), ONEHOT=onehot, num_warps=4, num_stages=1,
    )  # fmt: skip
    launch(
        residual_kernel, (cdiv(batch, tall), chunks), logits, q, drafts, inverse, lse, accepted, weights,
        batch, k, vocab, chunks, SEQS=tall, BLOCK=block, ONEHOT=onehot, num_warps=8, num_stages=1,
    )  # fmt: skip
    launch(
        pick_kernel, (cdiv(batch, tall),), logits, q, drafts, uniforms, inverse, lse, accepted, weights,
        tokens, batch, k, vocab, chunks,
        SEQS=tall, BLOCK=block, CHUNKS=pow2(chunks), ONEHOT=onehot, num_warps=8, num_stages=1,
    )  # fmt: skip
    return tokens, accepted


def run(mode: str, **kwargs: Any) -> tuple[torch.Tensor, torch.Tensor]:
    return greedy(**kwargs) if mode == "greedy" else stochastic(**kwargs)


def reference(mode: str, **kwargs: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Greedy: tokens, accepted. Else: accepted, and the CDF fp64[batch, vocab] it draws from."""
    drafts = kwargs["drafts"].long()
    batch, k = drafts.shape
    if mode == "greedy":
        target = kwargs["target"].long()
        accepted = (target[:, :k] == drafts).long().cumprod(1).sum(1)
        after = torch.arange(k + 1, device=target.device)[None, :] > accepted[:, None]
        return target.masked_fill(after, -1), accepted
    p = kwargs["logits"].double().softmax(-1)
    if mode == "onehot":
        q = torch.nn.functional.one_hot(drafts, p.shape[-1]).double()
    else:
        q = kwargs["draft_probs"].double()
    px, qx = (t[:, :k].gather(2, drafts[..., None])[..., 0] for t in (p, q))
    accepted = (kwargs["uniforms"][:, :k].double() * qx < px).long().cumprod(1).sum(1)
    q = torch.cat((q, torch.zeros_like(q[:, :1])), 1)  # nothing is subtracted at the bonus position
    at = accepted[:, None, None].expand(batch, 1, p.shape[-1])
    weight = (p - q).clamp_min(0).gather(1, at)[:, 0]
    return accepted, (weight / weight.sum(-1, keepdim=True)).cumsum(-1)


def error(inputs: Inputs, out: tuple[torch.Tensor, ...], ref: tuple[torch.Tensor, ...]) -> float:
    """Greedy: share of sequences that differ. Else: share whose accepted count differs, or the largest
    distance of the drawing uniform from the chosen token's interval of the exact CDF, if larger."""
    tokens, accepted = out
    if inputs["mode"] == "greedy":
        return float((tokens.long() != ref[0]).any(1).double().mean())
    same = accepted.long() == ref[0]
    n, cdf = accepted.long()[same], ref[1][same]
    picked = tokens[same].gather(1, n[:, None])[:, 0].long()
    u = inputs["uniforms"][same, -1].double()
    high = cdf.gather(1, picked[:, None])[:, 0]
    low = torch.where(picked > 0, cdf.gather(1, (picked - 1).clamp_min(0)[:, None])[:, 0], 0.0)
    outside = torch.maximum(low - u, u - high).clamp_min(0)
    worst = float(outside.max()) if len(outside) else 0.0
    return max(worst, float((~same).double().mean()))


def inputs(shape: RejectionShape, device: str, dtype: torch.dtype, seed: int) -> Inputs:
    """Drafts that are often right (greedy), or drawn from q, a noisy copy of p."""
    b, k, vocab = shape.batch, shape.k, shape.vocab
    if device == "meta":
        logits = torch.empty((b, k + 1, vocab), dtype=dtype, device=device)
        u = torch.empty((b, k + 1), device=device)
        ids, probs = (
            torch.empty((b, k), dtype=torch.int32, device=device),
            torch.empty((b, k, vocab), device=device),
        )
        target = torch.empty((b, k + 1), dtype=torch.int32, device=device)
    else:
        generator = torch.Generator(device).manual_seed(seed)
        if shape.mode == "greedy":
            target = torch.randint(
                0, vocab, (b, k + 1), generator=generator, device=device, dtype=torch.int32
            )
            right = torch.rand((b, k), generator=generator, device=device) < 0.7
            ids = torch.where(right, target[:, :k], (target[:, :k] + 1) % vocab)
            return {"mode": shape.mode, "target": target, "drafts": ids.contiguous()}
        logits = randn((b, k + 1, vocab), device, dtype, seed, 3.0)
        probs = (logits[:, :k].float() + randn((b, k, vocab), device, torch.float32, seed + 1)).softmax(-1)
        u = torch.rand((b, k + 1), generator=generator, device=device)
        drawn = torch.multinomial(probs.flatten(0, 1), 1, generator=generator).view(b, k)
        ids = (drawn if shape.mode == "stochastic" else probs.argmax(-1)).to(torch.int32)
    if shape.mode == "greedy":
        return {"mode": shape.mode, "target": target, "drafts": ids}
    made = {"mode": shape.mode, "logits": logits, "drafts": ids, "uniforms": u}
    return made | {"draft_probs": probs} if shape.mode == "stochastic" else made


def cost(shape: RejectionShape) -> Cost:
    """Greedy: ids only. Else every target logit once, one row of q; that row and its logits again, warm."""
    rows, v = shape.batch * (shape.k + 1), shape.vocab
    if shape.mode == "greedy":
        return Cost(0.0, 0.0, 4.0 * (2 * rows + shape.batch * shape.k))
    q = 4.0 * shape.batch * v if shape.mode == "stochastic" and shape.k else 0.0
    return Cost(0.0, 2.0 * rows * v + q, 2.0 * shape.batch * v)


def shapes(model: Model) -> list[RejectionShape]:
    """Greedy over whole vocabularies costs ids only; the stochastic modes read full (unsharded) rows."""
    whole = model.vocab * model.tp
    greedy_ones = [RejectionShape(b, k, whole) for k in (4, 7, 1) for b in (64, 1, 256)]
    return greedy_ones + [
        RejectionShape(b, k, whole, mode)
        for mode in ("stochastic", "onehot")
        for k in (4, 7, 1)
        for b in (64, 1, 16, 128)
    ]


def specimens() -> list[RejectionShape]:
    return [
        RejectionShape(64, k, 128256, mode) for k in (1, 4) for mode in ("greedy", "onehot", "stochastic")
    ]


OP = Op("rejection", inputs, run, reference, cost, shapes, specimens, ("logits", "draft_probs"), error=error)
