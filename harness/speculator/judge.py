"""Held-out acceptance: what a drafter would have got on recent texts that nobody trained on.

Exact, not modelled: a text does not depend on its drafter, so walking it with the drafter's own drafts gives
the verify steps that a server would have needed.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch

from harness.speculator.checkpoint import Snapshot, load_into
from harness.speculator.drafters.base import Drafter
from harness.speculator.rows import sequences_of
from harness.speculator.traces import Trace

Group = tuple[str, str]
"""(domain, tenant)."""

_BATCH = 16
_REMEMBERED = 8192


@dataclass(frozen=True, slots=True)
class Score:
    """Tokens and verify steps of one text."""

    tokens: int
    steps: int

    @property
    def length(self) -> float:
        """Acceptance length, bonus token included."""
        return self.tokens / self.steps


class Judge:
    """Scores snapshots on traces; remembers, so that a trace is walked once per snapshot."""

    def __init__(self, shadow: Drafter, k: int) -> None:
        self._shadow = shadow
        """A drafter of its own to load snapshots into."""
        self._k = k
        self._loaded = ""
        self._known: OrderedDict[tuple[str, int, int], Score] = OrderedDict()

    def set_embedding(self, embedding: torch.Tensor) -> None:
        """The target changed (its traces carry another verifier version, so no score is mistaken)."""
        self._shadow.set_embedding(embedding)

    def scores(self, snapshot: Snapshot, traces: Sequence[Trace]) -> list[Score]:
        """One score per trace; traces too short for a verify step count one step a token."""
        print_ = snapshot.weights_print + snapshot.vocabulary_print
        missing = [t for t in traces if _key(print_, t) not in self._known]
        for i in range(0, len(missing), _BATCH):
            self._walk(snapshot, print_, missing[i : i + _BATCH])
        found = [self._known[_key(print_, t)] for t in traces]
        while len(self._known) > _REMEMBERED:
            self._known.popitem(last=False)
        return found

    def lengths(self, snapshot: Snapshot, groups: Mapping[Group, Sequence[Trace]]) -> dict[str, Score]:
        """By domain, all tenants together."""
        found: dict[str, Score] = {}
        for (domain, _), traces in groups.items():
            total = pooled(self.scores(snapshot, traces))
            before = found.get(domain, Score(0, 0))
            found[domain] = Score(before.tokens + total.tokens, before.steps + total.steps)
        return {domain: score for domain, score in found.items() if score.steps}

    def _walk(self, snapshot: Snapshot, print_: str, traces: Sequence[Trace]) -> None:
        if self._loaded != print_:
            load_into(self._shadow, snapshot)
            self._loaded = print_
        batch = sequences_of(traces, self._shadow.vocabulary.ids.device)
        accepted = self._shadow.accepted(batch, self._k)
        for row, trace in zip(accepted.tolist(), traces, strict=True):
            self._known[_key(print_, trace)] = walk(
                row, trace.prompt_tokens - 1 - batch.start, len(trace), batch.start
            )


def _key(print_: str, trace: Trace) -> tuple[str, int, int]:
    return print_, trace.request_id, trace.verifier_version


def walk(accepted: Sequence[int], place: int, length: int, start: int = 0) -> Score:
    """Follow the verify steps of a text: a step at p with `a` accepted drafts is followed by one at p + a + 1.

    `place` indexes `accepted`, whose entry i belongs to position start + i; the first output token is there.
    """
    steps = tokens = 0
    last = length - 2 - start  # a step at p needs token p + 2 to be there
    while place < last:
        gained = accepted[place] + 1
        steps += 1
        tokens += gained
        place += gained
    return Score(max(tokens, 1), max(steps, 1))


def pooled(scores: Iterable[Score]) -> Score:
    """All steps together."""
    listed = list(scores)
    return Score(sum(s.tokens for s in listed), sum(s.steps for s in listed))


def finite(snapshot: Snapshot) -> bool:
    """Whether every weight is a finite number."""
    return all(bool(torch.isfinite(w).all()) for w in snapshot.weights.values())
