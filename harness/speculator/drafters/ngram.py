"""Prompt lookup: draft what followed the last time that the text ended like this. No weights.

At place p tokens 0..p+1 are known. Of their last n tokens, n from `max_n` down to `min_n`, the most recent
earlier occurrence is looked up; the tokens behind it, up to the newest, are the drafts (prompt lookup
decoding; vLLM's `ngram` proposer).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from harness.errors import InputError
from harness.speculator.drafters.base import Drafter, Drafts, Sequences
from harness.speculator.vocabulary import DraftVocabulary

NO_DRAFT = -1
"""Stands in `Drafts.tokens` where nothing is proposed; no token equals it, so it is never accepted."""


@dataclass(frozen=True, slots=True)
class NgramConfig:
    """Lengths of what is looked up, in tokens."""

    max_n: int = 4
    min_n: int = 2

    def __post_init__(self) -> None:
        if not 1 <= self.min_n <= self.max_n:
            raise InputError(f"n-grams of {self.min_n} to {self.max_n} tokens; must be 1 <= min_n <= max_n")


class Ngram(Drafter):
    """Proposes any token of the target, with probability 1."""

    kind = "ngram"
    trains = False

    def __init__(self, target_size: int, config: NgramConfig | None = None) -> None:
        super().__init__()
        self.config = config or NgramConfig()
        self.vocabulary = DraftVocabulary.full(target_size)

    def chains(self, batch: Sequences, depth: int, chain: torch.Tensor | None = None) -> list[torch.Tensor]:
        raise InputError("an n-gram drafter has no weights, hence no hidden states to train on")

    def output(self, hidden: torch.Tensor, depth: int) -> tuple[torch.Tensor, torch.Tensor]:
        raise InputError("an n-gram drafter has no weights, hence no logits")

    @torch.no_grad()
    def draft(self, batch: Sequences, k: int) -> Drafts:
        """`NO_DRAFT` where nothing matches, or fewer than k known tokens follow the match."""
        shape = (len(batch.tokens), len(batch.places), k)
        tokens = batch.tokens.new_full(shape, NO_DRAFT)
        for row, text, length in zip(tokens, batch.tokens, batch.lengths.tolist(), strict=True):
            held = _proposals(text[:length], k, self.config)[batch.start + 1 :]  # place p reads up to p + 1
            row[: len(held)] = held
        return Drafts(tokens, torch.zeros(shape, device=tokens.device))


def _proposals(text: torch.Tensor, k: int, c: NgramConfig) -> torch.Tensor:
    """int64[T, k]: what follows the match of the text up to each of its tokens, itself included."""
    newest = torch.arange(len(text), device=text.device)
    match = torch.full_like(newest, -1)
    for n in range(c.min_n, c.max_n + 1):  # a longer match overrules a shorter one
        longer = _previous(text, n)
        match = torch.where(longer >= 0, longer, match)
    source = match[:, None] + 1 + torch.arange(k, device=text.device)
    found = (match >= 0)[:, None] & (source <= newest[:, None])
    return text[source.where(found, 0)].where(found, NO_DRAFT)


def _previous(text: torch.Tensor, n: int) -> torch.Tensor:
    """int64[T]: where the n tokens that end at each position ended most recently before; -1 never."""
    found = torch.full_like(text, -1)
    if len(text) <= n:
        return found
    _, kind = text.unfold(0, n, 1).unique(dim=0, return_inverse=True)
    order = kind.argsort(stable=True)
    before, behind = order[:-1], order[1:]
    same = kind[before] == kind[behind]
    found[behind[same] + n - 1] = before[same] + n - 1
    return found
