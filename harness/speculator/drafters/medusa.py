"""Medusa heads (arXiv 2401.10774): one residual block and head a depth, all on the target's last hidden state.

At place p depth j reads `last[p]` and scores token p + 2 + j; no depth sees the drafts before it, so a chain
costs one small matrix product a depth and the drafts of one step need not fit together. Token p + 1 is known
when drafting begins but `last[p]` was computed without it: as in Hydra (arXiv 2402.05109), whose heads read
the embeddings of the tokens between, depth 0 adds a learned map of that token's embedding. Deeper heads are
Medusa's own.

Blocks begin as the identity, as in Medusa: an untrained head says what its rows say of `last[p]`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from harness.errors import InputError
from harness.speculator.drafters.base import Drafter, Sequences
from harness.speculator.vocabulary import DraftVocabulary


@dataclass(frozen=True, slots=True)
class MedusaConfig:
    """`depth` heads on hidden states `hidden` wide."""

    hidden: int
    depth: int = 8

    def __post_init__(self) -> None:
        if self.hidden < 1 or self.depth < 1:
            raise InputError(f"Medusa of {self.depth} heads, {self.hidden} wide; both must be at least 1")


class ResidualBlock(nn.Module):
    """x + SiLU(W x + b), W = b = 0 at first."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.linear = nn.Linear(hidden, hidden)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + F.silu(self.linear(x))


class Medusa(Drafter):
    """`embedding` [target vocabulary, H] is the target's own, frozen."""

    kind = "medusa"
    embedding: torch.Tensor

    def __init__(self, config: MedusaConfig, vocabulary: DraftVocabulary, embedding: torch.Tensor) -> None:
        super().__init__()
        self.config = config
        self.vocabulary = vocabulary
        self.root = nn.Linear(config.hidden, config.hidden, bias=False)
        nn.init.zeros_(self.root.weight)
        self.blocks = nn.ModuleList(ResidualBlock(config.hidden) for _ in range(config.depth))
        self.lm_heads = nn.ModuleList(
            nn.Linear(config.hidden, len(vocabulary), bias=False) for _ in range(config.depth)
        )
        self.register_buffer("embedding", embedding, persistent=False)

    def set_embedding(self, embedding: torch.Tensor) -> None:
        self.embedding = embedding.to(self.embedding.device)

    def heads(self) -> list[nn.Parameter]:
        return list(self.lm_heads.parameters())

    def output(self, hidden: torch.Tensor, depth: int) -> tuple[torch.Tensor, torch.Tensor]:
        self._check(depth + 1)
        return hidden, self.lm_heads[depth].weight  # type: ignore[return-value]

    def chains(self, batch: Sequences, depth: int, chain: torch.Tensor | None = None) -> list[torch.Tensor]:
        """`chain` changes nothing. InputError when there are fewer heads than `depth`."""
        self._check(depth)
        last = batch.ahead(batch.last, 0)
        return [self.blocks[j](last if j else last + self._known(batch)) for j in range(depth)]

    def follow(self, batch: Sequences, k: int, chosen: list[torch.Tensor]) -> Iterator[torch.Tensor]:
        yield from self.chains(batch, k)

    def _known(self, batch: Sequences) -> torch.Tensor:
        """[B, W, H]: what token p + 1 adds. Normalised first: embeddings are far smaller than last states."""
        newest = F.embedding(batch.ahead(batch.tokens, 1), self.embedding)
        return self.root(F.rms_norm(newest, newest.shape[-1:], eps=1e-5))

    def _check(self, depth: int) -> None:
        if depth > self.config.depth:
            raise InputError(f"{depth} drafts in a row from Medusa with {self.config.depth} heads")
