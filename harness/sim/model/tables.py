"""What the serving drafter proposes at every position of the running texts, and how much of it holds.

Computed for a batch of requests at once when the first of them needs it; exact, since a text does not depend
on who drafts it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from harness.speculator.checkpoint import Snapshot, load_into
from harness.speculator.drafters.base import Drafter, batched, count_accepted
from harness.speculator.texts import Texts

BATCH = 32


@dataclass(frozen=True, slots=True)
class Table:
    """Of one request. Row i belongs to position start + i."""

    start: int
    accepted: list[int]
    drafts: torch.Tensor
    """int64[W, K]."""
    logq: torch.Tensor
    """float32[W, K]."""


class Tables:
    """Tables of the serving weights; those of other weights are forgotten."""

    def __init__(self, shadow: Drafter, texts: Texts, embeddings: Sequence[torch.Tensor], k: int) -> None:
        self._shadow = shadow
        self.texts = texts
        self._embeddings = embeddings
        self._k = k
        self._found: dict[int, Table] = {}

    def use(self, weights: Snapshot) -> None:
        """Draft with these from now on."""
        load_into(self._shadow, weights)
        self._found.clear()

    def forget(self, request_id: int) -> None:
        self._found.pop(request_id, None)

    def of(self, wanted: Sequence[int]) -> list[Table]:
        """The tables of these requests; some of those that arrive next are made along with them."""
        missing = [i for i in wanted if i not in self._found]
        if missing:
            begin = max(wanted) + 1
            ahead = range(begin, min(begin + BATCH - len(missing) % BATCH, len(self.texts)))
            self._make([*missing, *(i for i in ahead if i not in self._found)])
        return [self._found[i] for i in wanted]

    def _make(self, ids: list[int]) -> None:
        by_verifier: dict[int, list[int]] = {}
        for i in ids:
            by_verifier.setdefault(self.texts.verifier(i) % 2, []).append(i)
        for which, group in by_verifier.items():
            self._shadow.set_embedding(self._embeddings[which])
            group.sort(key=lambda i: len(self.texts.tokens(i)))
            for begin in range(0, len(group), BATCH):
                self._draft(group[begin : begin + BATCH])

    def _draft(self, ids: list[int]) -> None:
        states = [self.texts.states(i) for i in ids]
        prompts = [self.texts.requests[i].prompt_tokens for i in ids]
        tokens = [self.texts.tokens(i) for i in ids]
        batch = batched(tokens, [s[0] for s in states], [s[1] for s in states], max(0, min(prompts) - 1))
        drafts = self._shadow.draft(batch, self._k)
        accepted = count_accepted(drafts.tokens, batch).tolist()
        for row, i in enumerate(ids):
            self._found[i] = Table(batch.start, accepted[row], drafts.tokens[row], drafts.logq[row])
