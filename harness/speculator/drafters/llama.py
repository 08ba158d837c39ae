"""A small Llama as drafter (arXiv 2211.17192): reads tokens only, so the target's states mean nothing to it.

Depth j at place p is scored by the model's state behind token p + 1 + j. Along the text that is one causal
pass for all places and depths. A chain that leaves the text has, in each layer, the text's keys up to p + 1,
which all places share, and the keys of its own drafts (see `eagle3.py`).

Its head is as wide as the target's hidden state when made by the registry, so that `Learner` may fill rows
of new draft tokens from the target's head.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

import torch
from torch import nn

from harness.errors import InputError
from harness.speculator.drafters.base import Drafter, Sequences
from harness.speculator.drafters.layers import Attention, Geometry, Mlp, RMSNorm, attend
from harness.speculator.vocabulary import DraftVocabulary

INIT_STD = 0.02
"""Of all matrices, Llama's `initializer_range`."""

KeyValue = tuple[torch.Tensor, torch.Tensor]
"""Keys and values [B, heads, T, head_dim], KV heads repeated."""


@dataclass(frozen=True, slots=True)
class LlamaConfig(Geometry):
    """`layers` decoder layers of that geometry."""

    layers: int = 2
    tied: bool = False
    """Whether the head is the embedding (then over the whole vocabulary)."""

    def __post_init__(self) -> None:
        if self.layers < 1:
            raise InputError(f"a Llama drafter of {self.layers} layers; it needs at least 1")


class DecoderLayer(nn.Module):
    def __init__(self, c: Geometry) -> None:
        super().__init__()
        self.self_attn = Attention(c, c.hidden)
        self.mlp = Mlp(c)
        self.input_layernorm = RMSNorm(c.hidden, c.eps)
        self.post_attention_layernorm = RMSNorm(c.hidden, c.eps)

    def project(self, hidden: torch.Tensor, shift: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Query, key and value of each position, [B, heads, T, head_dim]."""
        return self.self_attn.project(self.input_layernorm(hidden), shift)

    def finish(self, attended: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
        """[B, T, H] from what each position saw [B, heads, T, head_dim]."""
        x = hidden + self.self_attn.o_proj(attended.transpose(1, 2).flatten(2))
        return x + self.mlp(self.post_attention_layernorm(x))


class LlamaDrafter(Drafter):
    """Embedding of its own over the target's vocabulary; its head is over the draft vocabulary."""

    kind = "llama"

    def __init__(self, config: LlamaConfig, vocabulary: DraftVocabulary) -> None:
        super().__init__()
        self.config = config
        self.vocabulary = vocabulary
        self.embed_tokens = nn.Embedding(vocabulary.target_size, config.hidden)
        self.layers = nn.ModuleList(DecoderLayer(config) for _ in range(config.layers))
        self.norm = RMSNorm(config.hidden, config.eps)
        self.lm_head = nn.Linear(config.hidden, len(vocabulary), bias=False)
        if config.tied:
            self.lm_head.weight = self.embed_tokens.weight
        for parameter in self.parameters():
            if parameter.dim() == 2:
                nn.init.normal_(parameter, std=INIT_STD)

    def heads(self) -> list[nn.Parameter]:
        return list(self.lm_head.parameters())

    def output(self, hidden: torch.Tensor, depth: int) -> tuple[torch.Tensor, torch.Tensor]:
        return self.norm(hidden), self.lm_head.weight

    def chains(self, batch: Sequences, depth: int, chain: torch.Tensor | None = None) -> list[torch.Tensor]:
        if chain is None:
            states, _ = self._text(batch)
            return [batch.ahead(states, 1 + j) for j in range(depth)]
        return list(self.follow(batch, depth, list(chain.unbind(-1))))

    def follow(self, batch: Sequences, k: int, chosen: list[torch.Tensor]) -> Iterator[torch.Tensor]:
        states, shared = self._text(batch)
        yield batch.ahead(states, 1)
        later = batch.places[:, None] + 1 < torch.arange(states.shape[1], device=states.device)
        own: list[list[KeyValue]] = [[] for _ in self.layers]
        for depth in range(1, k):
            hidden = self.embed_tokens(chosen[depth - 1])
            for layer, text, drafts in zip(self._stack(), shared, own, strict=True):
                query, key, value = layer.project(hidden, batch.start + 1 + depth)
                drafts.append((key, value))
                hidden = layer.finish(attend(query, *text, later, drafts), hidden)
            yield hidden

    def _text(self, batch: Sequences) -> tuple[torch.Tensor, list[KeyValue]]:
        """States behind each token of the text [B, T, H], and each layer's keys and values."""
        hidden, found = self.embed_tokens(batch.tokens), []
        at = torch.arange(hidden.shape[1], device=hidden.device)
        for layer in self._stack():
            query, key, value = layer.project(hidden, 0)
            hidden = layer.finish(attend(query, key, value, at[:, None] < at), hidden)
            found.append((key, value))
        return hidden, found

    def _stack(self) -> list[DecoderLayer]:
        return cast("list[DecoderLayer]", list(self.layers))
