"""EAGLE-3 feature fusion: fc(concat(three hidden states of the target)) (Li et al. 2025, arXiv 2503.01840).

The three target layers write their hidden states into one [3, tokens, hidden] buffer, so the
concatenation never happens: the streaming product walks K through the three segments.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from kernels.common import Cost, Inputs, Op, randn
from kernels.gemm import gemm
from kernels.models import Model

LAYERS = 3
"""Hidden states fused."""


@dataclass(frozen=True, slots=True)
class FusionShape:
    tokens: int
    hidden: int


def fuse(features: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    """features[3, tokens, hidden] and w[hidden, 3 * hidden] -> [tokens, hidden]."""
    return gemm(features.flatten(0, 1), w, segments=features.shape[0])


def run(features: torch.Tensor, w: torch.Tensor) -> tuple[torch.Tensor]:
    return (fuse(features, w),)


def reference(features: torch.Tensor, w: torch.Tensor) -> tuple[torch.Tensor]:
    return (torch.cat(list(features.double()), -1) @ w.double().T,)


def inputs(shape: FusionShape, device: str, dtype: torch.dtype, seed: int) -> Inputs:
    h = shape.hidden
    return {
        "features": randn((LAYERS, shape.tokens, h), device, dtype, seed),
        "w": randn((h, LAYERS * h), device, dtype, seed + 1, (LAYERS * h) ** -0.5),
    }


def cost(shape: FusionShape) -> Cost:
    """6 * tokens * hidden^2; the weight cold."""
    t, h = shape.tokens, shape.hidden
    return Cost(2.0 * LAYERS * t * h * h, 2.0 * LAYERS * h * h, 2.0 * t * h * (LAYERS + 1))


TOKENS = (64, 1, 320, 8, 128, 16, 640, 32, 256, 512, 1024, 4, 2)


def shapes(model: Model) -> list[FusionShape]:
    return [FusionShape(t, model.hidden) for t in TOKENS]


def specimens() -> list[FusionShape]:
    return [FusionShape(t, h) for t, h in ((16, 4096), (64, 4096), (128, 4096), (256, 4096), (64, 8192))]


OP = Op("fusion", inputs, run, reference, cost, shapes, specimens, ("w",), matrix=True)
