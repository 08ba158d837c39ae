"""RMSNorm with residual: r = residual + x; out = r / rms(r) * weight (Zhang & Sennrich 2019)."""

# Kernel arguments are Triton values, without Python types.
# mypy: disable-error-code="no-untyped-def"

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
def rmsnorm_kernel(
    x, residual, weight, out, residual_out, hidden, out_stride, eps,
    BLOCK: tl.constexpr, RESIDUAL: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    col = tl.arange(0, BLOCK)
    inside = col < hidden
    total = tl.load(x + row * hidden + col, mask=inside, other=0.0).to(tl.float32)
    if RESIDUAL:
        total += tl.load(residual + row * hidden + col, mask=inside, other=0.0).to(tl.float32)
        tl.store(residual_out + row * hidden + col, total.to(residual_out.dtype.element_ty), mask=inside)
    scale = tl.rsqrt(tl.sum(total * total, 0) / hidden + eps)
    gain = tl.load(weight + col, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + row * out_stride + col, (total * scale * gain).to(out.dtype.element_ty), mask=inside)


def rmsnorm(
    x: torch.Tensor,  # [rows, hidden]
    residual: torch.Tensor,  # [rows, hidden]
    weight: torch.Tensor,  # [hidden]
    eps: float = EPS,
) -> tuple[torch.Tensor, torch.Tensor]:
    """-> (normalised, new residual), both like x."""
    out, residual_out = torch.empty_like(x), torch.empty_like(x)
    _launch(x, residual, weight, out, residual_out, eps)
    return out, residual_out


def norm_into(out: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, eps: float = EPS) -> None:
    """Without a residual, into `out`: [rows, hidden], whose rows may lie apart (half of a wider buffer)."""
    _launch(x, None, weight, out, None, eps)


def _launch(
    x: torch.Tensor, residual: torch.Tensor | None, weight: torch.Tensor,
    out: torch.Tensor, residual_out: torch.Tensor | None, eps: float,
) -> None:  # fmt: skip
    rows, hidden = x.shape
    block = pow2(hidden)
    launch(
        rmsnorm_kernel, (rows,),
        x, x if residual is None else residual, weight, out, out if residual_out is None else residual_out,
        hidden, out.stride(0), eps,
        BLOCK=block, RESIDUAL=residual is not None, num_warps=min(16, max(1, block // 512)), num_stages=1,
    )  # fmt: skip


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
    """No matrix work; two activations read and two written, and the small weight."""
    return Cost(0.0, 0.0, 2.0 * (4 * shape.rows + 1) * shape.hidden)


ROWS = (1, 64, 320, 8, 128, 640, 16, 256, 1024, 32, 512, 4, 2, 192)


def shapes(model: Model) -> list[NormShape]:
    return [NormShape(rows, model.hidden) for rows in ROWS]


def specimens() -> list[NormShape]:
    return [NormShape(64, 4096), NormShape(64, 8192)]


OP = Op("rmsnorm", inputs, rmsnorm, reference, cost, shapes, specimens, ())
