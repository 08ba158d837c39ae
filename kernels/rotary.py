"""Rotary embedding (Su et al. 2021, half-split as in Llama) and the write of K and V into the paged cache.

With q and k weights given, each head is RMS-normalised first (Qwen3).
"""

# Kernel arguments are Triton values, without Python types.
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from kernels.attention import PAGE
from kernels.common import Cost, Inputs, Op, cdiv, launch, randn, relative_error
from kernels.models import Model

EPS = 1e-6
HEADS = 8
"""Heads per program."""
MAX_POSITION = 32768


@dataclass(frozen=True, slots=True)
class RotaryShape:
    tokens: int
    q_heads: int
    kv_heads: int
    head_dim: int = 128
    qk_norm: bool = False


@triton.jit
def rotary_kernel(
    qkv, positions, slots, cos_sin, q_weight, k_weight, q_out, k_cache, v_cache, eps,
    Q_HEADS: tl.constexpr, KV_HEADS: tl.constexpr, HALF: tl.constexpr, HEADS: tl.constexpr,
    NORM: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1) * HEADS + tl.arange(0, HEADS)
    d = tl.arange(0, HALF)[None, :]
    is_q = head < Q_HEADS
    is_k = (head >= Q_HEADS) & (head < Q_HEADS + KV_HEADS)
    is_v = (head >= Q_HEADS + KV_HEADS) & (head < Q_HEADS + 2 * KV_HEADS)
    source = qkv + (token * (Q_HEADS + 2 * KV_HEADS) + head)[:, None] * (2 * HALF) + d
    inside = (is_q | is_k | is_v)[:, None]
    raw1 = tl.load(source, mask=inside, other=0.0)
    raw2 = tl.load(source + HALF, mask=inside, other=0.0)
    x1, x2 = raw1.to(tl.float32), raw2.to(tl.float32)
    if NORM:
        scale = tl.rsqrt((tl.sum(x1 * x1, 1) + tl.sum(x2 * x2, 1)) / (2 * HALF) + eps)[:, None]
        qw1, qw2 = tl.load(q_weight + d).to(tl.float32), tl.load(q_weight + HALF + d).to(tl.float32)
        kw1, kw2 = tl.load(k_weight + d).to(tl.float32), tl.load(k_weight + HALF + d).to(tl.float32)
        x1 = x1 * scale * tl.where(is_q[:, None], qw1, kw1)
        x2 = x2 * scale * tl.where(is_q[:, None], qw2, kw2)
    angle = cos_sin + tl.load(positions + token).to(tl.int64) * (2 * HALF)
    cos, sin = tl.load(angle + d), tl.load(angle + HALF + d)
    y1 = (x1 * cos - x2 * sin).to(q_out.dtype.element_ty)
    y2 = (x2 * cos + x1 * sin).to(q_out.dtype.element_ty)
    to_q = q_out + (token * Q_HEADS + head)[:, None] * (2 * HALF) + d
    tl.store(to_q, y1, mask=is_q[:, None])
    tl.store(to_q + HALF, y2, mask=is_q[:, None])
    slot = tl.load(slots + token).to(tl.int64) * KV_HEADS
    stored = slot >= 0  # a padded token has slot -1
    to_k = k_cache + (slot + head - Q_HEADS)[:, None] * (2 * HALF) + d
    tl.store(to_k, y1, mask=is_k[:, None] & stored)
    tl.store(to_k + HALF, y2, mask=is_k[:, None] & stored)
    to_v = v_cache + (slot + head - Q_HEADS - KV_HEADS)[:, None] * (2 * HALF) + d
    tl.store(to_v, raw1, mask=is_v[:, None] & stored)
    tl.store(to_v + HALF, raw2, mask=is_v[:, None] & stored)


def rotary(
    qkv: torch.Tensor,  # [tokens, (q_heads + 2 * kv_heads) * head_dim]
    positions: torch.Tensor,  # int32[tokens]
    slots: torch.Tensor,  # int64[tokens], page * PAGE + offset, or -1: not stored
    cos_sin: torch.Tensor,  # fp32[positions, head_dim], cosines then sines
    k_cache: torch.Tensor,  # [pages, PAGE, kv_heads, head_dim], written
    v_cache: torch.Tensor,  # like k_cache, written
    q_weight: torch.Tensor | None = None,  # [head_dim]
    k_weight: torch.Tensor | None = None,  # [head_dim]
) -> torch.Tensor:
    """-> rotated queries [tokens, q_heads, head_dim]; rotated keys and plain values go into the caches."""
    tokens, (kv_heads, dim) = qkv.shape[0], k_cache.shape[2:]
    q_heads = qkv.shape[1] // dim - 2 * kv_heads
    out = torch.empty((tokens, q_heads, dim), dtype=qkv.dtype, device=qkv.device)
    norm = q_weight is not None
    launch(
        rotary_kernel,
        (tokens, cdiv(q_heads + 2 * kv_heads, HEADS)),
        qkv, positions, slots, cos_sin, q_weight if norm else cos_sin, k_weight if norm else cos_sin,
        out, k_cache, v_cache, EPS,
        Q_HEADS=q_heads, KV_HEADS=kv_heads, HALF=dim // 2, HEADS=HEADS, NORM=norm, num_warps=4, num_stages=1,
    )  # fmt: skip
    return out


def run(**kwargs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return rotary(**kwargs), kwargs["k_cache"], kwargs["v_cache"]


def reference(
    qkv: torch.Tensor,
    positions: torch.Tensor,
    slots: torch.Tensor,
    cos_sin: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    q_weight: torch.Tensor | None = None,
    k_weight: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """-> queries, and the keys and values of the stored tokens [stored, kv_heads, head_dim]."""
    kv_heads, dim = k_cache.shape[2:]
    heads = qkv.double().view(qkv.shape[0], -1, dim)
    q, k, v = heads.split([heads.shape[1] - 2 * kv_heads, kv_heads, kv_heads], 1)
    if q_weight is not None and k_weight is not None:
        q, k = (x * (x.square().mean(-1, keepdim=True) + EPS).rsqrt() for x in (q, k))
        q, k = q * q_weight.double(), k * k_weight.double()
    cos, sin = cos_sin[positions.long()].double().chunk(2, -1)

    def rotate(x: torch.Tensor) -> torch.Tensor:
        x1, x2 = x.chunk(2, -1)
        return torch.cat((x1 * cos[:, None] - x2 * sin[:, None], x2 * cos[:, None] + x1 * sin[:, None]), -1)

    stored = slots >= 0
    return rotate(q), rotate(k)[stored], v[stored]


def error(inputs: Inputs, out: tuple[torch.Tensor, ...], ref: tuple[torch.Tensor, ...]) -> float:
    """Relative error of the queries and of what stands in the caches at the stored slots."""
    slots = inputs["slots"][inputs["slots"] >= 0]
    written = [cache.flatten(0, 1)[slots] for cache in out[1:]]
    return relative_error(inputs, (out[0], *written), ref)


def angles(positions: int, dim: int, device: str, base: float = 500000.0) -> torch.Tensor:
    """fp32[positions, dim]: cosines then sines of position * base^(-2i/dim)."""
    frequency = base ** (-torch.arange(0, dim, 2, dtype=torch.float64, device=device) / dim)
    angle = torch.arange(positions, dtype=torch.float64, device=device)[:, None] * frequency
    return torch.cat((angle.cos(), angle.sin()), -1).float()


def inputs(shape: RotaryShape, device: str, dtype: torch.dtype, seed: int) -> Inputs:
    generator = torch.Generator().manual_seed(seed)
    pages = cdiv(shape.tokens, PAGE) + 1
    cache = (pages, PAGE, shape.kv_heads, shape.head_dim)
    slots = torch.randperm(pages * PAGE, generator=generator)[: shape.tokens]
    positions = torch.randint(0, MAX_POSITION, (shape.tokens,), generator=generator, dtype=torch.int32)
    made = {
        "qkv": randn(
            (shape.tokens, (shape.q_heads + 2 * shape.kv_heads) * shape.head_dim), device, dtype, seed
        ),
        "positions": positions.to(device),
        "slots": slots.to(device),
        "cos_sin": angles(MAX_POSITION, shape.head_dim, device),
        "k_cache": torch.empty(cache, dtype=dtype, device=device).fill_(float("nan")),
        "v_cache": torch.empty(cache, dtype=dtype, device=device).fill_(float("nan")),
    }
    if shape.qk_norm:
        made["q_weight"] = randn((shape.head_dim,), device, dtype, seed + 1)
        made["k_weight"] = randn((shape.head_dim,), device, dtype, seed + 2)
    return made


def cost(shape: RotaryShape) -> Cost:
    """No matrix work; qkv read, q written, K and V written (they settle in L2 first): all warm."""
    heads = 2 * shape.q_heads + 4 * shape.kv_heads
    return Cost(0.0, 0.0, 2.0 * shape.tokens * heads * shape.head_dim)


TOKENS = (1, 64, 320, 8, 128, 640, 16, 256, 1024, 32, 512, 4, 2, 192)


def shapes(model: Model) -> list[RotaryShape]:
    return [RotaryShape(t, model.q_heads, model.kv_heads, model.head_dim, model.qk_norm) for t in TOKENS]


def specimens() -> list[RotaryShape]:
    return [RotaryShape(64, 32, 8), RotaryShape(64, 8, 1), RotaryShape(64, 32, 8, qk_norm=True)]


OP = Op("rotary", inputs, run, reference, cost, shapes, specimens, (), error=error)
