"""What drafters that attend are built of: normalisation, attention, MLP, rotary positions.

Module and parameter names are those of Hugging Face's Llama, which are vLLM's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn


@dataclass(frozen=True, slots=True)
class Llama3Rope:
    """Rotary frequencies stretched for long contexts as Llama 3.1 has them (`rope_type: llama3`)."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_position_embeddings: int

    def stretch(self, frequency: torch.Tensor) -> torch.Tensor:
        """Long waves (against the original context) by `factor`, short ones not at all, in between by degrees."""
        turns = self.original_max_position_embeddings * frequency / (2.0 * math.pi)
        short = (turns - self.low_freq_factor) / (self.high_freq_factor - self.low_freq_factor)
        return torch.lerp(frequency / self.factor, frequency, short.clamp(0.0, 1.0))


@dataclass(frozen=True, slots=True)
class Geometry:
    """Sizes of a decoder layer."""

    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    rope_theta: float = 10000.0
    eps: float = 1e-5
    rope: Llama3Rope | None = None
    qk_norm: bool = False
    """Whether queries and keys of each head are normalised, as in Qwen3."""


class RMSNorm(nn.Module):
    def __init__(self, hidden: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(hidden))
        self.eps = eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.rms_norm(x, (x.shape[-1],), self.weight, self.eps)


class Attention(nn.Module):
    """Projections of a layer's attention; its input is `inputs` wide."""

    def __init__(self, c: Geometry, inputs: int) -> None:
        super().__init__()
        self.c = c
        self.q_proj = nn.Linear(inputs, c.heads * c.head_dim, bias=False)
        self.k_proj = nn.Linear(inputs, c.kv_heads * c.head_dim, bias=False)
        self.v_proj = nn.Linear(inputs, c.kv_heads * c.head_dim, bias=False)
        self.o_proj = nn.Linear(c.heads * c.head_dim, c.hidden, bias=False)
        if c.qk_norm:
            self.q_norm, self.k_norm = RMSNorm(c.head_dim, c.eps), RMSNorm(c.head_dim, c.eps)

    def project(self, x: torch.Tensor, shift: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """q, k, v [B, heads, T, head_dim] with rotary positions t + `shift`; KV heads repeated."""
        c, (b, t, _) = self.c, x.shape
        q = self.q_proj(x).view(b, t, c.heads, c.head_dim).transpose(1, 2)
        k = self.k_proj(x).view(b, t, c.kv_heads, c.head_dim).transpose(1, 2)
        if c.qk_norm:
            q, k = self.q_norm(q), self.k_norm(k)
        v = self.v_proj(x).view(b, t, c.kv_heads, c.head_dim).transpose(1, 2)
        cos, sin = rotary(t, shift, c, x)
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        if c.heads != c.kv_heads:
            k, v = (y.repeat_interleave(c.heads // c.kv_heads, 1) for y in (k, v))
        return q, k, v


class Mlp(nn.Module):
    def __init__(self, c: Geometry) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(c.hidden, c.intermediate, bias=False)
        self.up_proj = nn.Linear(c.hidden, c.intermediate, bias=False)
        self.down_proj = nn.Linear(c.intermediate, c.hidden, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


def attend(
    query: torch.Tensor,
    shared_k: torch.Tensor,
    shared_v: torch.Tensor,
    later: torch.Tensor,
    own: Sequence[tuple[torch.Tensor, torch.Tensor]] = (),
) -> torch.Tensor:
    """[B, heads, W, d]: attention over the shared keys [B, heads, T, d], but where `later` bool[W, T], and
    over each place's own keys, one a depth, [B, heads, W, d]."""
    query = query * query.shape[-1] ** -0.5
    mask = query.new_zeros(later.shape).masked_fill_(later, float("-inf"))  # adding is cheaper than filling
    scores = query @ shared_k.transpose(-1, -2) + mask
    scores = torch.cat([scores, *((query * k).sum(-1, keepdim=True) for k, _ in own)], -1)
    weights, t = scores.softmax(-1), shared_k.shape[2]
    mixed = weights[..., :t] @ shared_v
    for j, (_, value) in enumerate(own):
        mixed = mixed + weights[..., t + j : t + j + 1] * value
    return mixed


def rotary(t: int, shift: int, c: Geometry, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """cos, sin [T, head_dim / 2] of positions shift..shift+T-1, in float32 at least, on the device of `like`."""
    dtype = torch.promote_types(like.dtype, torch.float32)
    half = torch.arange(0, c.head_dim, 2, device=like.device, dtype=dtype) / c.head_dim
    frequency = c.rope_theta**-half
    if c.rope is not None:
        frequency = c.rope.stretch(frequency)
    angle = (torch.arange(t, device=like.device, dtype=dtype) + shift)[:, None] * frequency
    return angle.cos(), angle.sin()


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotary embedding in the half-split form of Llama."""
    a, b = x.chunk(2, -1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)
