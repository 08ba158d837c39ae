"""The EAGLE-3 head (arXiv 2503.01840): one decoder layer fed by the target's fused hidden states.

Depth 0 at position p reads the pair (token p + 1, fused[p]) and attends to the pairs before it; each later
depth reads its own last draft and its own hidden state, as vLLM's proposer does. All positions draft at
once: a chain's keys are those of depth 0 up to p, which all positions share, and its own j later ones,
which never leave it, so a draft pass costs attention over T + j keys instead of T x j.

Parameter names are those of vLLM's checkpoints (`midlayer.*`, `fc`, `norm`, `lm_head`, `d2t`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from harness.speculator.drafters.base import Drafter, Sequences, shifted
from harness.speculator.vocabulary import DraftVocabulary


@dataclass(frozen=True, slots=True)
class Eagle3Config:
    """Geometry; everything but the draft vocabulary follows the target."""

    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    rope_theta: float = 10000.0
    eps: float = 1e-5


class RMSNorm(nn.Module):
    def __init__(self, hidden: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(hidden))
        self.eps = eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.rms_norm(x, (x.shape[-1],), self.weight, self.eps)


class Attention(nn.Module):
    """Projections of the layer's attention; its input is [token embedding, hidden state], 2H wide."""

    def __init__(self, c: Eagle3Config) -> None:
        super().__init__()
        self.c = c
        self.q_proj = nn.Linear(2 * c.hidden, c.heads * c.head_dim, bias=False)
        self.k_proj = nn.Linear(2 * c.hidden, c.kv_heads * c.head_dim, bias=False)
        self.v_proj = nn.Linear(2 * c.hidden, c.kv_heads * c.head_dim, bias=False)
        self.o_proj = nn.Linear(c.heads * c.head_dim, c.hidden, bias=False)

    def project(self, x: torch.Tensor, shift: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """q, k, v [B, heads, T, head_dim] with rotary positions t + `shift`; KV heads repeated."""
        c, (b, t, _) = self.c, x.shape
        q = self.q_proj(x).view(b, t, c.heads, c.head_dim).transpose(1, 2)
        k = self.k_proj(x).view(b, t, c.kv_heads, c.head_dim).transpose(1, 2)
        v = self.v_proj(x).view(b, t, c.kv_heads, c.head_dim).transpose(1, 2)
        cos, sin = _rotary(t, shift, c, x.device)
        q, k = _rotate(q, cos, sin), _rotate(k, cos, sin)
        if c.heads != c.kv_heads:
            k, v = (y.repeat_interleave(c.heads // c.kv_heads, 1) for y in (k, v))
        return q, k, v


class Mlp(nn.Module):
    def __init__(self, c: Eagle3Config) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(c.hidden, c.intermediate, bias=False)
        self.up_proj = nn.Linear(c.hidden, c.intermediate, bias=False)
        self.down_proj = nn.Linear(c.intermediate, c.hidden, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class MidLayer(nn.Module):
    def __init__(self, c: Eagle3Config) -> None:
        super().__init__()
        self.self_attn = Attention(c)
        self.mlp = Mlp(c)
        self.input_layernorm = RMSNorm(c.hidden, c.eps)
        self.hidden_norm = RMSNorm(c.hidden, c.eps)
        self.post_attention_layernorm = RMSNorm(c.hidden, c.eps)

    def attention_input(self, embedding: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
        return torch.cat([self.input_layernorm(embedding), self.hidden_norm(hidden)], -1)

    def finish(self, attended: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
        x = hidden + self.self_attn.o_proj(attended)
        return x + self.mlp(self.post_attention_layernorm(x))


class Eagle3(Drafter):
    """The default drafter. `embedding` [target vocabulary, H] is the target's own, frozen."""

    kind = "eagle3"
    embedding: torch.Tensor

    def __init__(self, config: Eagle3Config, vocabulary: DraftVocabulary, embedding: torch.Tensor) -> None:
        super().__init__()
        self.config = config
        self.vocabulary = vocabulary
        self.fc = nn.Linear(3 * config.hidden, config.hidden, bias=False)
        self.midlayer = MidLayer(config)
        self.norm = RMSNorm(config.hidden, config.eps)
        self.lm_head = nn.Linear(config.hidden, len(vocabulary), bias=False)
        self.register_buffer("embedding", embedding, persistent=False)

    def heads(self) -> list[nn.Parameter]:
        return [self.lm_head.weight]

    def logits(self, hidden: torch.Tensor, depth: int) -> torch.Tensor:
        return self.lm_head(self.norm(hidden))

    def chains(self, batch: Sequences, depth: int, chain: torch.Tensor | None = None) -> list[torch.Tensor]:
        chosen: list[torch.Tensor] = []
        found: list[torch.Tensor] = []
        for j, hidden in enumerate(self.follow(batch, depth, chosen)):
            found.append(hidden)
            chosen.append(
                batch.ahead(batch.tokens, 2 + j) if chain is None else chain[..., min(j, depth - 2)]
            )
        return found

    def follow(self, batch: Sequences, k: int, chosen: list[torch.Tensor]) -> Iterator[torch.Tensor]:
        attn, start = self.midlayer.self_attn, batch.start
        hidden = self.fc(batch.fused)
        pairs = self.midlayer.attention_input(self._embed(shifted(batch.tokens, 1)), hidden)
        query, shared_k, shared_v = attn.project(pairs, 0)
        query, hidden = query[:, :, start:], hidden[:, start:]
        later = batch.places[:, None] < torch.arange(pairs.shape[1], device=pairs.device)
        own: list[tuple[torch.Tensor, torch.Tensor]] = []
        for depth in range(k):
            if depth:
                x = self.midlayer.attention_input(self._embed(chosen[depth - 1]), hidden)
                query, *pair = attn.project(x, start + depth)
                own.append((pair[0], pair[1]))
            attended = attend(query, shared_k, shared_v, later, own)
            hidden = self.midlayer.finish(attended.transpose(1, 2).flatten(2), hidden)
            yield hidden

    def set_embedding(self, embedding: torch.Tensor) -> None:
        self.embedding = embedding

    def _embed(self, tokens: torch.Tensor) -> torch.Tensor:
        return F.embedding(tokens, self.embedding)


def attend(
    query: torch.Tensor,
    shared_k: torch.Tensor,
    shared_v: torch.Tensor,
    later: torch.Tensor,
    own: Sequence[tuple[torch.Tensor, torch.Tensor]],
) -> torch.Tensor:
    """[B, heads, W, d]: attention over the shared keys [B, heads, T, d], but where `later` bool[W, T], and
    over each place's own keys, one a depth, [B, heads, W, d]."""
    scale = query.shape[-1] ** -0.5
    scores = (query @ shared_k.transpose(-1, -2) * scale).masked_fill(later, float("-inf"))
    scores = torch.cat([scores, *((query * k).sum(-1, keepdim=True) * scale for k, _ in own)], -1)
    weights, t = scores.softmax(-1), shared_k.shape[2]
    mixed = weights[..., :t] @ shared_v
    for j, (_, value) in enumerate(own):
        mixed = mixed + weights[..., t + j : t + j + 1] * value
    return mixed


def _rotary(t: int, shift: int, c: Eagle3Config, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """cos, sin [T, head_dim / 2] of positions shift..shift+T-1."""
    half = torch.arange(0, c.head_dim, 2, device=device, dtype=torch.float32) / c.head_dim
    angle = (torch.arange(t, device=device, dtype=torch.float32) + shift)[:, None] * c.rope_theta**-half
    return angle.cos(), angle.sin()


def _rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotary embedding in the half-split form of Llama."""
    a, b = x.chunk(2, -1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)
