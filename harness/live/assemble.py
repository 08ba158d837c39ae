"""From the tap's records to the learner's traces: one request's rows, put in order, become one `Trace`."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
import torch

from harness.contract import UNKNOWN
from harness.live.tap import ROW, TRACE_BEGIN, TRACE_END, TRACE_ROWS
from harness.speculator.traces import Trace, spread

MOST_OPEN = 4096
"""Requests being put together; the oldest is given up for a newer one, should an end be lost."""


@dataclass(slots=True)
class Part:
    """A request so far. Position t of `tokens` is that of the sequence."""

    prompt_tokens: int
    request_id: int
    domain: str
    tenant: str
    tokens: dict[int, int] = field(default_factory=dict)
    states: dict[int, torch.Tensor] = field(default_factory=dict)
    """bfloat16[4H]: three fused layers and the last one; [H] without fused ones."""
    steps: list[tuple[int, list[int], int]] = field(default_factory=list)
    """(place p, drafts, accepted) of each verify step."""
    branches: list[tuple[int, torch.Tensor]] = field(default_factory=list)
    """(step, states [K, H] behind each draft)."""
    drafter_version: int = 0
    verifier_version: int = 0
    mixed: bool = False
    """The target changed on the way: half of it is of another model."""


class Assembler:
    """Feed it records; it yields traces of requests that ended whole."""

    def __init__(self, ends: Collection[int], branches: int) -> None:
        self._ends = frozenset(ends)
        """Tokens that end a text."""
        self._branches = branches
        self._open: dict[int, Part] = {}
        self._hidden = 0
        """H, as the tap last said."""
        self.incomplete = 0
        """Requests whose trace had a hole, or of which too little came."""

    def feed(self, records: Iterable[tuple[int, bytes]]) -> Iterator[Trace]:
        for kind, content in records:
            if kind == TRACE_BEGIN:
                self._begin(json.loads(content))
            elif kind == TRACE_ROWS:
                self._rows(content)
            elif kind == TRACE_END:
                number = int.from_bytes(content, "little", signed=True)
                part = self._open.pop(abs(number), None)
                trace = self._trace(part) if part is not None and number > 0 else None
                if trace is not None:
                    yield trace
                else:
                    self.incomplete += 1

    def _begin(self, said: dict[str, object]) -> None:
        if len(self._open) >= MOST_OPEN:
            self._open.pop(next(iter(self._open)))
            self.incomplete += 1
        self._open[int(str(said["number"]))] = Part(
            prompt_tokens=int(str(said["prompt_tokens"])),
            request_id=int(str(said["request_id"])),
            domain=str(said.get("domain") or UNKNOWN),
            tenant=str(said.get("tenant") or UNKNOWN),
        )

    def _rows(self, content: bytes) -> None:
        n, total, sampled, self._hidden = np.frombuffer(content, np.int32, 4).tolist()
        rows = np.frombuffer(content, ROW, n, 16)
        at = 16 + rows.nbytes
        tokens = np.frombuffer(content, np.int32, total, at).tolist()
        after = np.frombuffer(content, np.int32, sampled, at + 4 * total).tolist()
        at += 4 * (total + sampled)
        layers = np.frombuffer(content, np.int16, -1, at).reshape(-1, total, self._hidden)
        states = torch.from_numpy(layers.transpose(1, 0, 2).reshape(total, -1).copy()).view(torch.bfloat16)
        place = read = 0
        for row in rows:
            count, ids = int(row["tokens"]), int(row["sampled"])
            part = self._open.get(int(row["number"]))
            if part is not None:
                self._row(
                    part,
                    row,
                    tokens[place : place + count],
                    after[read : read + ids],
                    states[place : place + count],
                )
            place, read = place + count, read + ids

    def _row(
        self, part: Part, row: np.void, tokens: list[int], after: list[int], states: torch.Tensor
    ) -> None:
        start, drafts = int(row["start"]), int(row["drafts"])
        part.mixed |= bool(part.states) and part.verifier_version != int(row["verifier_version"])
        part.drafter_version, part.verifier_version = (
            int(row["drafter_version"]),
            int(row["verifier_version"]),
        )
        accepted = max(0, len(after) - 1)
        valid = len(tokens) - drafts + min(accepted, drafts)
        for j in range(valid):
            part.tokens[start + j] = tokens[j]
            part.states[start + j] = states[j]
        if after:
            # While a preempted request is computed again, what is sampled short of its end is discarded.
            part.tokens.setdefault(start + valid, after[-1])
        if drafts and start >= 1:
            if accepted < drafts:
                part.branches.append((len(part.steps), states[1:, -self._hidden :]))
            part.steps.append((start - 1, tokens[1:], accepted))

    def _trace(self, part: Part) -> Trace | None:
        """None when a position is missing, or nothing of the output is there."""
        if part.mixed or not part.states:
            return None
        first = min(part.states)  # cached prompt tokens were never computed for this request
        last = max(part.tokens)
        if any(t not in part.states for t in range(first, last)):
            return None
        tokens = [part.tokens[t] for t in range(first, last + 1)]
        prompt = part.prompt_tokens - first
        end = next((t for t in range(prompt, len(tokens)) if tokens[t] in self._ends), len(tokens))
        tokens = tokens[: end + 1]
        if prompt < 1 or len(tokens) <= prompt:
            return None
        states = torch.stack(
            [part.states.get(first + t, part.states[first]) for t in range(len(tokens))]
        ).clone()
        if first + len(tokens) - 1 not in part.states:
            states[-1] = 0  # never computed, and never read: nothing follows it
        return self._finished(part, first, tokens, prompt, states)

    def _finished(
        self, part: Part, first: int, tokens: list[int], prompt: int, states: torch.Tensor
    ) -> Trace:
        kept = [i for i, (p, _, _) in enumerate(part.steps) if p - first >= 0 and p - first + 2 < len(tokens)]
        deepest = max((len(part.steps[i][1]) for i in kept), default=1)
        drafted = torch.full((len(kept), deepest), -1, dtype=torch.int64)
        for row, i in enumerate(kept):
            drafted[row, : len(part.steps[i][1])] = torch.tensor(part.steps[i][1])
        place = {i: row for row, i in enumerate(kept)}
        full = [(place[i], s) for i, s in part.branches if i in place and len(s) == deepest]
        chosen = spread(full, self._branches)
        return Trace(
            tokens=torch.tensor(tokens, dtype=torch.int64),
            prompt_tokens=prompt,
            fused=states[:, : -self._hidden].clone(),
            last=states[:, -self._hidden :].clone(),
            at=torch.tensor([part.steps[i][0] - first for i in kept], dtype=torch.int64),
            drafted=drafted,
            accepted=torch.tensor([part.steps[i][2] for i in kept], dtype=torch.int64),
            logq=torch.zeros(len(kept), deepest),
            branch=torch.tensor([row for row, _ in chosen], dtype=torch.int64),
            branch_last=torch.stack([s for _, s in chosen])
            if chosen
            else states.new_zeros(0, deepest, self._hidden),
            request_id=part.request_id,
            domain=part.domain,
            tenant=part.tenant,
            drafter_version=part.drafter_version,
            verifier_version=part.verifier_version,
        )
