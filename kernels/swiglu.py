"""SwiGLU: out = silu(gate) * up on the fused gate-up projection (Shazeer 2020)."""

# Kernel arguments are Triton values, without Python types.
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from kernels.common import Cost, Inputs, Op, cdiv, launch, randn
from kernels.models import Model

BLOCK = 1024


@dataclass(frozen=True, slots=True)
class SwigluShape:
    rows: int
    intermediate: int


@triton.jit
def swiglu_kernel(gate_up, out, width, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    col = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = col < width
    gate = tl.load(gate_up + row * 2 * width + col, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(gate_up + row * 2 * width + width + col, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + row * width + col, (gate * tl.sigmoid(gate) * up).to(out.dtype.element_ty), mask=inside)


def swiglu(gate_up: torch.Tensor) -> torch.Tensor:
    """[rows, 2 * intermediate], gate first -> [rows, intermediate]."""
    rows, width = gate_up.shape[0], gate_up.shape[1] // 2
    out = torch.empty((rows, width), dtype=gate_up.dtype, device=gate_up.device)
    grid = (rows, cdiv(width, BLOCK))
    launch(swiglu_kernel, grid, gate_up, out, width, BLOCK=BLOCK, num_warps=4, num_stages=1)
    return out


def run(gate_up: torch.Tensor) -> tuple[torch.Tensor]:
    return (swiglu(gate_up),)


def reference(gate_up: torch.Tensor) -> tuple[torch.Tensor]:
    gate, up = gate_up.double().chunk(2, -1)
    return (gate * gate.sigmoid() * up,)


def inputs(shape: SwigluShape, device: str, dtype: torch.dtype, seed: int) -> Inputs:
    return {"gate_up": randn((shape.rows, 2 * shape.intermediate), device, dtype, seed)}


def cost(shape: SwigluShape) -> Cost:
    """No matrix work; three activations of [rows, intermediate]."""
    return Cost(0.0, 0.0, 2.0 * 3 * shape.rows * shape.intermediate)


ROWS = (1, 64, 320, 8, 128, 640, 16, 256, 1024, 32, 512, 4, 2, 192)


def shapes(model: Model) -> list[SwigluShape]:
    return [SwigluShape(rows, model.intermediate) for rows in ROWS]


def specimens() -> list[SwigluShape]:
    return [SwigluShape(64, 14336)]


OP = Op("swiglu", inputs, run, reference, cost, shapes, specimens, ())
