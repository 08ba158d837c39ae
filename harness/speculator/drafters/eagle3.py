"""The EAGLE-3 head (arXiv 2503.01840): one decoder layer fed by the target's fused hidden states.

Depth 0 at position p reads the pair (token p + 1, fused[p]) and attends to the pairs before it; each later
depth reads its own last draft and its own hidden state, as vLLM's proposer does. All positions draft at
once: a chain's keys are those of depth 0 up to p, which all positions share, and its own j later ones,
which never leave it, so a draft pass costs attention over T + j keys instead of T x j.

Parameter names are those of vLLM's checkpoints (`midlayer.*`, `fc`, `norm`, `lm_head`, `d2t`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from harness.speculator.drafters.base import Drafter, Sequences, shifted
from harness.speculator.drafters.layers import Attention, Geometry, Mlp, RMSNorm, attend
from harness.speculator.vocabulary import DraftVocabulary


@dataclass(frozen=True, slots=True)
class Eagle3Config(Geometry):
    """Geometry; everything but the draft vocabulary follows the target."""

    norm_before_residual: bool = False
    """Whether the residual is the hidden state as normed, as in heads of vllm-project/speculators."""


class MidLayer(nn.Module):
    """The decoder layer; its attention reads [token embedding, hidden state], 2H wide."""

    def __init__(self, c: Eagle3Config) -> None:
        super().__init__()
        self.c = c
        self.self_attn = Attention(c, 2 * c.hidden)
        self.mlp = Mlp(c)
        self.input_layernorm = RMSNorm(c.hidden, c.eps)
        self.hidden_norm = RMSNorm(c.hidden, c.eps)
        self.post_attention_layernorm = RMSNorm(c.hidden, c.eps)

    def attention_input(self, embedding: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
        return torch.cat([self.input_layernorm(embedding), self.hidden_norm(hidden)], -1)

    def finish(self, attended: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
        residual = self.hidden_norm(hidden) if self.c.norm_before_residual else hidden
        x = residual + self.self_attn.o_proj(attended)
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
        return list(self.lm_head.parameters())

    def output(self, hidden: torch.Tensor, depth: int) -> tuple[torch.Tensor, torch.Tensor]:
        return self.norm(hidden), self.lm_head.weight

    def chains(self, batch: Sequences, depth: int, chain: torch.Tensor | None = None) -> list[torch.Tensor]:
        text = (batch.ahead(batch.tokens, 2 + j) for j in range(depth - 1))
        return list(self.follow(batch, depth, list(text if chain is None else chain.unbind(-1))))

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
        self.embedding = embedding.to(self.embedding.device)

    def _embed(self, tokens: torch.Tensor) -> torch.Tensor:
        return F.embedding(tokens, self.embedding)
