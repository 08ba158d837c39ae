"""The fused KL of kl.py as a differentiable function, for training a drafter's hidden states and head."""

from __future__ import annotations

from typing import Any

import torch

from kernels.kl import KlConfig, kl_backward, kl_forward


class LinearKl(torch.autograd.Function):
    """KL and log-sum-exp per token as an autograd function of the student's hidden states and head."""

    @staticmethod
    def forward(
        ctx: Any, x_s: torch.Tensor, w_s: torch.Tensor, x_t: torch.Tensor, w_t: torch.Tensor,
        direction: str, cfg: KlConfig | None,
    ) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
        saved = kl_forward(x_s, w_s, x_t, w_t, direction, cfg)
        ctx.save_for_backward(*saved, x_s, w_s, x_t, w_t)
        ctx.direction, ctx.cfg = direction, cfg
        return saved[0], saved[1]

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        loss, lse_s, lse_t, x_s, w_s, x_t, w_t = ctx.saved_tensors
        weight, weight_lse = (g.float().contiguous() for g in grads)
        saved, head = (loss, lse_s, lse_t), ctx.needs_input_grad[1]
        dx, dw = kl_backward(weight, saved, x_s, w_s, x_t, w_t, ctx.direction, head, ctx.cfg, weight_lse)
        return dx.to(x_s.dtype), dw, None, None, None, None


def linear_kl(
    x_s: torch.Tensor, w_s: torch.Tensor, x_t: torch.Tensor, w_t: torch.Tensor,
    direction: str = "forward", cfg: KlConfig | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    """KL and the student's log-sum-exp, fp32[tokens], differentiable in x_s and w_s. Shapes as in `kl_forward`."""
    return LinearKl.apply(x_s, w_s, x_t, w_t, direction, cfg)
