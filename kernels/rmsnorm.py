"""RMSNorm with residual: residual' = residual + x; out = residual' / rms(residual') * weight (Zhang & Sennrich 2019)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from kernels.common import Cost, Inputs, Op, launch, pow2, randn
from kernels.models import Model

EPS = 1e-5


@dataclass(frozen=True, slots=True)
class NormShape:
    rows: int
    hidden: int


@triton.jit
def rmsnorm_kernel(x, residual, weight, out, residual_out, hidden, eps, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    col = tl.arange(0, BLOCK)
    inside = col < hidden
    total = tl.load(x + row * hidden + col, mask=inside, other=0.0).to(tl.float32)
    total += tl.load(residual + row * hidden + col, mask=inside, other=0.0).to(tl.float32)
    scale = tl.rsqrt(tl.sum(total * total, 0) / hidden + eps)
    gain = tl.load(weight + col, mask=inside, other=0.0).to(tl.float32)
    tl.store(residual_out + row * hidden + col, total.to(residual_out.dtype.element_ty), mask=inside)
    tl.store(out + row * hidden + col, (total * scale * gain).to(out.dtype.element_ty), mask=inside)


def rmsnorm(
    x: torch.Tensor,  # [rows, hidden]
    residual: torch.Tensor,  # [rows, hidden]
    weight: torch.Tensor,  # [hidden]
    eps: float = EPS,
) -> tuple[torch.Tensor, torch.Tensor]:
    """-> (normalised, new residual), both like x."""
    rows, hidden = x.shape
    out, residual_out = torch.empty_like(x), torch.empty_like(x)
    block = pow2(hidden)
    launch(
        rmsnorm_kernel, (rows,), x, residual, weight, out, residual_out, hidden, eps,
        BLOCK=block, num_warps=min(16, max(1, block // 512)), num_stages=1,
    )  # fmt: skip
    return out, residual_out


def reference(
    x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, eps: float = EPS
) -> tuple[torch.Tensor, torch.Tensor]:
    total = x.double() + residual.double()
    return total * (total.square().mean(-1, keepdim=True) + eps).rsqrt() * weight.double(), total


def inputs(shape: NormShape, device: str, dtype: torch.dtype, seed: int) -> Inputs:
    return {
        "x": randn((shape.rows, shape.hidden), device, dtype, seed),
        "residual": randn((shape.rows, shape.hidden), device, dtype, seed + 1),
        "weight": randn((shape.hidden,), device, dtype, seed + 2),
    }


def cost(shape: NormShape) -> Cost:
    """No matrix work; two tensors read and two written, all activations. The weight is small but cold."""
    return Cost(0.0, 2.0 * shape.hidden, 2.0 * 4 * shape.rows * shape.hidden)


ROWS = (1, 64, 320, 8, 128, 640, 16, 256, 1024, 32, 512, 4, 2, 192)


def shapes(model: Model) -> list[NormShape]:
    return [NormShape(rows, model.hidden) for rows in ROWS]


def specimens() -> list[NormShape]:
    return [NormShape(64, 4096), NormShape(64, 8192)]


OP = Op("rmsnorm", inputs, rmsnorm, reference, cost, shapes, specimens, ("weight",))
