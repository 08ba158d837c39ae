"""What every drafter is: it drafts at all positions of known sequences at once, and may be trained.

`chains` is the one primitive. Because a request's text does not depend on who drafts it (speculation is
lossless), drafting at every position in one batched pass tells what a server would have accepted at any
verify step of it, exactly: `draft` for what is proposed, `accepted` for how much of it holds.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn
from torch.nn.utils.rnn import pad_sequence

from harness.speculator.vocabulary import DraftVocabulary


@dataclass(frozen=True, slots=True)
class Sequences:
    """A right-padded batch: B sequences of up to T tokens, target hidden size H.

    Drafts are asked for at the W = T - `start` positions from `start` on; those before it are context only.
    """

    tokens: torch.Tensor
    """int64[B, T]; padding is 0."""
    fused: torch.Tensor
    """float32[B, T, 3H]."""
    last: torch.Tensor
    """float32[B, T, H]."""
    lengths: torch.Tensor
    """int64[B]."""
    start: int = 0

    def to(self, device: torch.device) -> Sequences:
        """The same on another device."""
        return Sequences(
            tokens=self.tokens.to(device),
            fused=self.fused.to(device),
            last=self.last.to(device),
            lengths=self.lengths.to(device),
            start=self.start,
        )

    @property
    def places(self) -> torch.Tensor:
        """int64[W]: the positions p that drafts are asked for at."""
        return torch.arange(self.start, self.tokens.shape[1], device=self.tokens.device)

    def valid(self, depth: int = 0) -> torch.Tensor:
        """bool[B, W]: whether token p + 2 + depth, the one a draft at that depth is for, exists."""
        return self.places[None, :] + 2 + depth < self.lengths[:, None]

    def ahead(self, x: torch.Tensor, by: int) -> torch.Tensor:
        """x[B, T, ...] at p + `by` for every place p: [B, W, ...], zeros beyond the end."""
        return shifted(x, by)[:, self.start :]


@dataclass(frozen=True, slots=True)
class Drafts:
    """What a drafter proposes at every position p, as token ids of the target."""

    tokens: torch.Tensor
    """int64[B, W, K]."""
    logq: torch.Tensor
    """float32[B, W, K]."""


class Drafter(nn.Module, ABC):
    """Constructors build untrained weights. Subclasses state how deep their chains may go."""

    kind: ClassVar[str]
    """Name in the registry and in checkpoints."""
    trains: ClassVar[bool] = True
    """False: it has no weights to learn."""

    vocabulary: DraftVocabulary
    """Which tokens of the target it can draft."""

    @abstractmethod
    def chains(self, batch: Sequences, depth: int, chain: torch.Tensor | None = None) -> list[torch.Tensor]:
        """Hidden states of drafts 0..depth-1 at every place: `depth` tensors [B, W, width].

        `chain` int64[B, W, depth - 1] are the drafts to follow (entry j is what depth j proposed); None
        means the text's own tokens, so that depth j sees the truth up to it (teacher forcing).
        """

    def set_embedding(self, embedding: torch.Tensor) -> None:
        """The target changed: read tokens by its embedding float32[V, H]. Nothing where a drafter has its own."""

    def heads(self) -> list[nn.Parameter]:
        """Parameters whose rows are draft tokens, for choosing the draft vocabulary anew."""
        return []

    @abstractmethod
    def output(self, hidden: torch.Tensor, depth: int) -> tuple[torch.Tensor, torch.Tensor]:
        """(x [..., width], w [draft vocabulary, width]) of hidden states of that depth; x @ w.T are logits."""

    def logits(self, hidden: torch.Tensor, depth: int) -> torch.Tensor:
        """[..., draft vocabulary] from hidden states of that depth."""
        x, weight = self.output(hidden, depth)
        return x @ weight.T

    @torch.no_grad()
    def draft(self, batch: Sequences, k: int) -> Drafts:
        """Greedy drafts at every position, each depth following the drafter's own tokens."""
        chosen: list[torch.Tensor] = []
        logq: list[torch.Tensor] = []
        for depth, hidden in enumerate(self.follow(batch, k, chosen)):
            scores, index = self.logits(hidden, depth).log_softmax(-1).max(-1)
            chosen.append(self.vocabulary.to_target(index))
            logq.append(scores)
        return Drafts(torch.stack(chosen, -1), torch.stack(logq, -1))

    def follow(self, batch: Sequences, k: int, chosen: list[torch.Tensor]) -> Iterator[torch.Tensor]:
        """Yield the hidden states of depth 0..k-1, each after the caller appended its choice to `chosen`.

        This default recomputes the chain at each depth; drafters with a state to carry override it.
        """
        for depth in range(k):
            chain = torch.stack(chosen, -1) if chosen else None
            yield self.chains(batch, depth + 1, chain)[-1]

    def accepted(self, batch: Sequences, k: int) -> torch.Tensor:
        """int64[B, W]: drafts that a greedy target accepts in a verify step at each place, 0..k."""
        return count_accepted(self.draft(batch, k).tokens, batch)


def count_accepted(drafts: torch.Tensor, batch: Sequences) -> torch.Tensor:
    """int64[B, W] from int64[B, W, K]: how many leading drafts are the text's own tokens."""
    hits = [
        (drafts[..., j] == batch.ahead(batch.tokens, 2 + j)) & batch.valid(j) for j in range(drafts.shape[-1])
    ]
    return torch.stack(hits, -1).long().cumprod(-1).sum(-1)


def batched(
    tokens: Sequence[torch.Tensor],
    fused: Sequence[torch.Tensor],
    last: Sequence[torch.Tensor],
    start: int = 0,
) -> Sequences:
    """One right-padded batch of texts: tokens int64[T], fused [T, 3H], last [T, H] each, states to float32."""
    return Sequences(
        tokens=pad_sequence(list(tokens), batch_first=True),
        fused=pad_sequence([f.float() for f in fused], batch_first=True),
        last=pad_sequence([x.float() for x in last], batch_first=True),
        lengths=torch.tensor([len(t) for t in tokens]),
        start=start,
    )


def shifted(x: torch.Tensor, by: int) -> torch.Tensor:
    """x[B, T, ...] moved `by` >= 0 positions to the front along T, zeros behind."""
    if by == 0:
        return x
    tail = torch.zeros_like(x[:, :by])
    return torch.cat([x[:, by:], tail], 1)[:, : x.shape[1]]
