"""KL between two linear heads, and the cross-entropy of one, without [N, V] logits: a kernel on a GPU, row chunks
elsewhere.

With s = x_s @ w_s^T, t = x_t @ w_t^T, q = softmax(s), p = softmax(t), per row [nats]:

    forward  KL(p || q) = sum p (log p - log q)      d/ds = q - p
    reverse  KL(q || p) = sum q (log q - log p)      d/ds = q (log q - log p - KL)
    lse(s)                                           d/ds = q;  lse(s) - s[token] = -log q[token]

Same quantities and signs as kernels/kl.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from harness.errors import InputError

DIRECTIONS = ("forward", "reverse")


def linear_kl(
    x_s: Tensor, w_s: Tensor, x_t: Tensor, w_t: Tensor, direction: str = "forward", chunk: int = 1024
) -> tuple[Tensor, Tensor]:
    """[N] KL per row and [N] log-sum-exp of the student's logits, both differentiable in x_s [N, H] and w_s [V, H];
    x_t [N, H'] and w_t [V, H'] get no gradient.

    float32 (float64 for float64 off the GPU). Off the GPU, a few tensors of chunk x V at a time, logits
    recomputed in the backward pass; half-precision heads are first widened, so that logits are not rounded.
    """
    _check(x_s, w_s, x_t, w_t, direction, chunk)
    if on_gpu(x_s):
        from kernels.linear_kl import linear_kl as kernel

        return kernel(x_s.contiguous(), w_s.contiguous(), x_t.contiguous(), w_t.contiguous(), direction)
    return _ChunkedKl.apply(x_s, w_s, x_t, w_t, direction, chunk)


def cross_entropy(x_s: Tensor, w_s: Tensor, lse: Tensor, token: Tensor) -> Tensor:
    """[N] -log q[token] of each row, given the student's log-sum-exp. token int64[N]."""
    return lse - (x_s.to(lse.dtype) * w_s[token].to(lse.dtype)).sum(-1)


def on_gpu(x: Tensor) -> bool:
    """Whether the kernel can take it."""
    return x.is_cuda


class _ChunkedKl(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x_s: Tensor, w_s: Tensor, x_t: Tensor, w_t: Tensor, direction: str, chunk: int
    ) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(x_s, w_s, x_t, w_t)
        ctx.reverse, ctx.chunk = direction == "reverse", chunk
        loss, lse = (x_s.new_empty(x_s.shape[0], dtype=_wide(x_s)) for _ in range(2))
        for rows, log_q, log_p, lse_s in _chunks(x_s, w_s, x_t, w_t, chunk):
            loss[rows], lse[rows] = _kl(log_q, log_p, ctx.reverse), lse_s
        return loss, lse

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x_s, w_s, x_t, w_t = ctx.saved_tensors
        wide = _wide(x_s)
        w = w_s.to(wide)
        dx = torch.empty_like(x_s) if ctx.needs_input_grad[0] else None
        dw = torch.zeros_like(w) if ctx.needs_input_grad[1] else None
        of_kl, of_lse = grads
        for rows, log_q, log_p, _ in _chunks(x_s, w_s, x_t, w_t, ctx.chunk):
            ds = _gradient(log_q, log_p, ctx.reverse).mul_(of_kl[rows, None])
            ds.addcmul_(log_q.exp(), of_lse[rows, None])
            if dx is not None:
                dx[rows] = (ds @ w).to(dx.dtype)
            if dw is not None:
                dw.addmm_(ds.T, x_s[rows].to(wide))
        return dx, None if dw is None else dw.to(w_s.dtype), None, None, None, None


def _chunks(
    x_s: Tensor, w_s: Tensor, x_t: Tensor, w_t: Tensor, chunk: int
) -> Iterator[tuple[slice, Tensor, Tensor, Tensor]]:
    """(rows, log q, log p, log-sum-exp of the student's logits) of `chunk` rows at a time."""
    wide = _wide(x_s)
    head_s, head_t = w_s.to(wide).T, w_t.to(wide).T
    for start in range(0, x_s.shape[0], chunk):
        rows = slice(start, start + chunk)
        logits = x_s[rows].to(wide) @ head_s
        lse = logits.logsumexp(-1)
        yield rows, logits - lse[:, None], (x_t[rows].to(wide) @ head_t).log_softmax(-1), lse


def _kl(log_q: Tensor, log_p: Tensor, reverse: bool) -> Tensor:
    a, b = (log_q, log_p) if reverse else (log_p, log_q)
    return (a.exp() * (a - b)).sum(-1)


def _gradient(log_q: Tensor, log_p: Tensor, reverse: bool) -> Tensor:
    if reverse:
        return log_q.exp() * (log_q - log_p - _kl(log_q, log_p, True)[:, None])
    return log_q.exp() - log_p.exp()


def _wide(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)


def _check(x_s: Tensor, w_s: Tensor, x_t: Tensor, w_t: Tensor, direction: str, chunk: int) -> None:
    if direction not in DIRECTIONS:
        raise InputError(f"direction is {direction!r}; it must be one of {', '.join(DIRECTIONS)}")
    if chunk < 1:
        raise InputError(f"chunk is {chunk} rows; it must be at least 1")
    if any(x.dim() != 2 or w.dim() != 2 or x.shape[1] != w.shape[1] for x, w in ((x_s, w_s), (x_t, w_t))) or (
        x_s.shape[0] != x_t.shape[0] or w_s.shape[0] != w_t.shape[0]
    ):
        shapes = ", ".join(str(tuple(x.shape)) for x in (x_s, w_s, x_t, w_t))
        raise InputError(
            f"x_s, w_s, x_t, w_t have shapes {shapes}; they must be [N, H], [V, H], [N, H'], [V, H']"
        )
