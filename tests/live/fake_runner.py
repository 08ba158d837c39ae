"""A model runner that serves greedily without vLLM, as far as the tap sees it: chunks, drafts, preemption, batches.

It really computes: at every step the states of the step's own tokens, each behind what it stands on. `expected` says
what a whole trace of a request must be, from the finished text alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, Protocol

import numpy as np
import torch

from harness.contract import UNKNOWN
from harness.live.labels import DOMAIN, ID, TENANT, TRACE
from harness.speculator.traces import Trace, spread

VOCAB = 50
GARBAGE = -777.0
"""In rows that nobody may read."""


class Brain(Protocol):
    """A causal model."""

    hidden: int

    def states(self, tokens: Sequence[int]) -> torch.Tensor:
        """float32[T, 4H]: three fused layers and the last one."""

    def choice(self, states: torch.Tensor) -> list[int]:
        """The greedy token behind each of the rows."""


class HashBrain:
    """States are drawn by a hash of all tokens up to their own: exact in any batch, and any mix-up shows."""

    hidden = 4

    def __init__(self, salt: int = 0) -> None:
        self._salt = salt

    def states(self, tokens: Sequence[int]) -> torch.Tensor:
        digest, rows = hashlib.sha256(bytes([self._salt])), []
        for token in tokens:
            digest.update(int(token).to_bytes(4, "little"))
            rows.append(np.frombuffer(digest.digest(), np.int8)[: 4 * self.hidden])
        return torch.tensor(np.array(rows), dtype=torch.float32).view(-1, 4 * self.hidden)

    def choice(self, states: torch.Tensor) -> list[int]:
        return (3 + states.to(torch.int64)[:, -1] % (VOCAB - 3)).tolist()


@dataclass
class Served:
    """A request: `tokens` are those known so far, `computed` of them have a state now."""

    name: str
    tokens: list[int]
    prompt_tokens: int
    labels: dict[str, Any] = field(default_factory=dict)
    computed: int = 0
    steps: list[tuple[int, list[int], int]] = field(default_factory=list)
    """(p, drafts, accepted) of each verify step, p as in `traces.py`."""

    @property
    def left(self) -> int:
        return len(self.tokens) - self.computed


def request(name: str, prompt: Sequence[int], cached: int = 0, **labels: Any) -> Served:
    return Served(name, list(prompt), len(prompt), labels, cached)


def labelled(i: int, domain: str = "code", tenant: str = "acme", trace: int = 1) -> dict[str, Any]:
    return {ID: i, DOMAIN: domain, TENANT: tenant, TRACE: trace}


class FakeRunner:
    """What of vLLM's runner the tap reads. `padded`: sampled tokens as a tensor with -1 behind the accepted ones and
    something in rows whose prompt is not done, as with a padded drafter batch; else lists. `fused`: whether the target
    hands out states of its middle layers, as it does for an EAGLE-3 head alone."""

    def __init__(self, brain: Brain, padded: bool = True, fused: bool = True) -> None:
        self.brain = brain
        self.padded = padded
        self.fused = fused
        self.requests: dict[str, Any] = {}
        self.input_batch = SimpleNamespace(req_ids=[], num_computed_tokens_cpu=np.zeros(64, np.int32))
        self.input_ids = SimpleNamespace(gpu=torch.zeros(0, dtype=torch.int32))
        self.proposals = 0

    def propose_draft_token_ids(self, *args: Any) -> str:
        """Drafting lays out its later passes, of one token each, in the metadata of the step."""
        self.proposals += 1
        meta = args[7]
        meta.query_start_loc_cpu = torch.arange(len(meta.query_start_loc_cpu), dtype=torch.int32)
        return "the drafts"

    def ahead(self, served: Served, n: int) -> list[int]:
        """The next `n` tokens of its text."""
        tokens = list(served.tokens)
        for _ in range(n):
            tokens += self.brain.choice(self.brain.states(tokens)[-1:])
        return tokens[len(served.tokens) :]

    def drafts(self, served: Served, k: int, right: int) -> list[int]:
        """K drafts, the first `right` of them what the text will say, the next one not."""
        truth = self.ahead(served, k)
        return [t if i < right else 3 + (t + 1 + i) % (VOCAB - 3) for i, t in enumerate(truth)]

    def preempt(self, served: Served, kept: int = 0) -> None:
        """Its states are lost but for `kept` tokens; the tokens are not."""
        served.computed = kept

    def step(self, *work: tuple[Served, int | list[int]]) -> Any:
        """Compute so many known tokens of each request, or its newest one and these drafts."""
        parts = [self._compute(served, what) for served, what in work]
        rows = torch.cat([p.states for p in parts])
        total, pad = len(rows), 3
        self._place(work, [t for p in parts for t in p.tokens] + [0] * pad)
        states = torch.cat([rows, torch.full((pad, rows.shape[1]), GARBAGE)])
        h = self.brain.hidden
        counts = [p.drafts for p in parts]
        starts = torch.tensor([0, *np.cumsum([len(p.tokens) for p in parts])], dtype=torch.int32)
        assert int(starts[-1]) == total
        answer = self.propose_draft_token_ids(
            None,
            self._sampled([p.sampled for p in parts], [p.counts for p in parts]),
            None,
            states[:, 3 * h :],
            None,
            [states[:, i * h : (i + 1) * h] for i in range(3)] if self.fused else None,
            SimpleNamespace(num_draft_tokens=counts) if any(counts) else None,
            SimpleNamespace(query_start_loc_cpu=starts),
            None,
        )
        for (served, what), part in zip(work, parts, strict=True):
            self._book(served, what, part)
        return answer

    def _compute(self, served: Served, what: int | list[int]) -> Any:
        start = served.computed
        drafts = what if isinstance(what, list) else []
        tokens = [served.tokens[start], *drafts] if drafts else served.tokens[start : start + int(what)]
        states = self.brain.states(served.tokens[:start] + tokens)[start:]
        chosen = self.brain.choice(states)
        accepted = next((i for i, d in enumerate(drafts) if d != chosen[i]), len(drafts))
        counts = start + len(tokens) - len(drafts) == len(served.tokens)
        sampled = chosen[: accepted + 1] if drafts else chosen[-1:]
        return SimpleNamespace(
            tokens=tokens,
            states=states,
            drafts=len(drafts),
            accepted=accepted,
            sampled=sampled,
            counts=counts,
        )

    def _place(self, work: Sequence[tuple[Served, Any]], ids: list[int]) -> None:
        self.input_batch.req_ids = [served.name for served, _ in work]
        self.input_ids.gpu = torch.tensor(ids, dtype=torch.int32)
        for i, (served, _) in enumerate(work):
            self.input_batch.num_computed_tokens_cpu[i] = served.computed
            sampling = SimpleNamespace(extra_args=served.labels or None)
            self.requests[served.name] = SimpleNamespace(
                sampling_params=sampling, num_prompt_tokens=served.prompt_tokens
            )

    def _sampled(self, sampled: list[list[int]], counts: list[bool]) -> Any:
        if not self.padded:
            return [s if c else [] for s, c in zip(sampled, counts, strict=True)]
        table = torch.full((len(sampled), 8), -1, dtype=torch.int32)
        for i, (row, c) in enumerate(zip(sampled, counts, strict=True)):
            table[i, : len(row)] = torch.tensor(row) if c else VOCAB - 1
        return table

    def _book(self, served: Served, what: int | list[int], part: Any) -> None:
        if not part.counts:
            served.computed += len(part.tokens)
            return
        if part.drafts:
            served.steps.append((served.computed - 1, list(part.tokens[1:]), part.accepted))
        served.computed += len(part.tokens) - part.drafts + part.accepted
        served.tokens += part.sampled


def expected(
    served: Served, brain: Brain, *, cached: int = 0, branches: int = 0, eos: int | None = None
) -> Trace:
    """The trace of a request that is over, from its text: states of one pass over it, branches of one pass each.
    The first `cached` tokens were never computed."""
    tokens, h = list(served.tokens), brain.hidden
    if eos is not None and eos in tokens[served.prompt_tokens :]:
        tokens = tokens[: tokens.index(eos, served.prompt_tokens) + 1]
    states = brain.states(tokens)
    if served.computed < len(tokens):
        states[-1] = 0.0
    steps = [s for s in served.steps if s[0] + 2 < len(tokens)]
    deepest = max((len(d) for _, d, _ in steps), default=1)
    full = [r for r, (_, d, a) in enumerate(steps) if a < len(d) == deepest]
    behind = []
    for r in (chosen := spread(full, branches)):
        p, drafts, _ = steps[r]
        behind.append(brain.states(served.tokens[: p + 2] + drafts)[p + 2 :, 3 * h :])
    return Trace(
        tokens=torch.tensor(tokens[cached:]),
        prompt_tokens=served.prompt_tokens - cached,
        fused=states[cached:, : 3 * h].bfloat16(),
        last=states[cached:, 3 * h :].bfloat16(),
        at=torch.tensor([p - cached for p, _, _ in steps], dtype=torch.int64),
        drafted=torch.tensor([d + [-1] * (deepest - len(d)) for _, d, _ in steps], dtype=torch.int64).view(
            -1, deepest
        ),
        accepted=torch.tensor([a for _, _, a in steps], dtype=torch.int64),
        logq=torch.zeros(len(steps), deepest),
        branch=torch.tensor(chosen, dtype=torch.int64),
        branch_last=torch.stack(behind).bfloat16() if behind else torch.zeros(0, deepest, h).bfloat16(),
        request_id=served.labels.get(ID, -1),
        domain=served.labels.get(DOMAIN, UNKNOWN),
        tenant=served.labels.get(TENANT, UNKNOWN),
    )
