"""From traces to the rows that objectives see: one batched unroll of the drafter over several requests.

At a place where a verify step was rejected and the target's states of the rejected drafts are at hand, the
chain follows what was drafted (its own drafts, counterfactual targets); everywhere else the text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from harness.speculator.drafters.base import Drafter, Sequences, batched
from harness.speculator.objectives import Rows
from harness.speculator.traces import Trace


@dataclass(frozen=True, slots=True)
class _Steps:
    """Verify steps of a batch laid over its places. Shapes [B, W, depth]."""

    drafted: torch.Tensor
    """Target token ids, -1 where no step stood."""
    logq: torch.Tensor
    accepted: torch.Tensor
    """int64[B, W], -1 where no step stood."""


def sequences_of(traces: Sequence[Trace]) -> Sequences:
    """The traces as one batch whose places begin at the first output token of any."""
    start = max(0, min(t.prompt_tokens for t in traces) - 1)
    return batched([t.tokens for t in traces], [t.fused for t in traces], [t.last for t in traces], start)


def build_rows(drafter: Drafter, head: torch.Tensor, traces: Sequence[Trace], depth: int) -> Rows:
    """All valid (place, depth) pairs of output tokens. `head` is the target's, float32[V, H]."""
    batch = sequences_of(traces)
    steps = _lay(traces, batch, depth)
    branch, states = _branches(traces, batch, depth)
    chain = _chain(batch, steps, branch, depth)
    hidden = drafter.chains(batch, depth, chain)
    outputs = _is_output(traces, batch)
    parts = [
        _rows_at(drafter, head, batch, steps, branch, states, hidden[j], outputs, j) for j in range(depth)
    ]
    return Rows(**{name: torch.cat([part[name] for part in parts]) for name in parts[0]})


def _is_output(traces: Sequence[Trace], batch: Sequences) -> torch.Tensor:
    """bool[B, W]: a verify step can stand at p once the first output token (at p + 1) is there."""
    first = torch.tensor([t.prompt_tokens for t in traces])
    return batch.places[None, :] + 1 >= first[:, None]


def _lay(traces: Sequence[Trace], batch: Sequences, depth: int) -> _Steps:
    b, w = len(traces), len(batch.places)
    drafted = torch.full((b, w, depth), -1, dtype=torch.int64)
    logq = torch.zeros(b, w, depth)
    accepted = torch.full((b, w), -1, dtype=torch.int64)
    for i, t in enumerate(traces):
        if not len(t.at):
            continue
        at, k = t.at - batch.start, min(depth, t.drafted.shape[1])
        drafted[i, at, :k] = t.drafted[:, :k]
        logq[i, at, :k] = t.logq[:, :k]
        accepted[i, at] = t.accepted.clamp(max=depth)
    return _Steps(drafted, logq, accepted)


def _branches(traces: Sequence[Trace], batch: Sequences, depth: int) -> tuple[torch.Tensor, torch.Tensor]:
    """int64[B, W]: how many rejected drafts the chain can follow (0: it follows the text), and the target's
    states after each of them [B, W, depth, H]."""
    reach = torch.zeros(len(traces), len(batch.places), dtype=torch.int64)
    states = batch.last.new_zeros(*reach.shape, depth, batch.last.shape[-1])
    for i, t in enumerate(traces):
        if not len(t.branch):
            continue
        at = t.at[t.branch] - batch.start
        kept = t.branch_last[:, :depth].float()
        reach[i, at] = (t.drafted[t.branch, : kept.shape[1]] >= 0).sum(-1)
        states[i, at, : kept.shape[1]] = kept
    return reach, states


def _chain(batch: Sequences, steps: _Steps, branch: torch.Tensor, depth: int) -> torch.Tensor | None:
    if depth < 2 or not bool(branch.any()):
        return None
    text = torch.stack([batch.ahead(batch.tokens, 2 + j) for j in range(depth - 1)], -1)
    follows = torch.arange(depth - 1) < branch[..., None]
    return torch.where(follows, steps.drafted[..., : depth - 1], text)


def _rows_at(
    drafter: Drafter,
    head: torch.Tensor,
    batch: Sequences,
    steps: _Steps,
    branch: torch.Tensor,
    states: torch.Tensor,
    hidden: torch.Tensor,
    outputs: torch.Tensor,
    j: int,
) -> dict[str, torch.Tensor]:
    """The fields of `Rows` at depth j, rows picked out of [B, W]."""
    on_branch = branch > 0
    off_text = on_branch & (j > steps.accepted)  # behind the first rejection the branch has left the text
    keep = outputs & torch.where(off_text, j <= branch, batch.valid(j))
    last = batch.ahead(batch.last, 1 + j)
    if j:
        last = torch.where(off_text[..., None], states[:, :, j - 1], last)
    logits = last[keep] @ head.T
    vocabulary = drafter.vocabulary
    drafted = steps.drafted[..., j][keep]
    accepted, on_text = steps.accepted[keep], ~off_text[keep]
    offered = (drafted >= 0) & (j <= accepted) & on_text
    known = drafted.clamp(min=0)
    return {
        "student": drafter.logits(hidden[keep], j),
        "teacher": logits if vocabulary.is_full else logits[:, vocabulary.ids],
        "teacher_lse": logits.logsumexp(-1),
        "token": vocabulary.index[batch.ahead(batch.tokens, 2 + j)[keep]].where(on_text, torch.tensor(-1)),
        "drafted": vocabulary.index[known].where(drafted >= 0, torch.tensor(-1)),
        "old_logq": steps.logq[..., j][keep],
        "offered": offered,
        "taken": offered & (j < accepted),
        "counterfactual": ~on_text,
        "return_": (accepted - j).clamp(min=0).float() * offered,
        "depth": torch.full_like(drafted, j),
        "step": torch.arange(keep.numel()).view(keep.shape)[keep],
    }
