"""From traces to the rows that objectives see: one batched unroll of the drafter over several requests.

At a place where a verify step was rejected and the target's states of the rejected drafts are at hand, the
chain follows what was drafted (its own drafts, counterfactual targets); everywhere else the text.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import torch

from harness.speculator.drafters.base import Drafter, Sequences, batched
from harness.speculator.fused import cross_entropy, linear_kl
from harness.speculator.objectives import Rows
from harness.speculator.traces import Trace
from harness.speculator.vocabulary import DraftVocabulary


@dataclass(frozen=True, slots=True)
class _Steps:
    """Verify steps of a batch laid over its places. Shapes [B, W, depth]."""

    drafted: torch.Tensor
    """Target token ids, -1 where no step stood."""
    logq: torch.Tensor
    accepted: torch.Tensor
    """int64[B, W], -1 where no step stood."""


CPU = torch.device("cpu")


def sequences_of(traces: Sequence[Trace], device: torch.device = CPU) -> Sequences:
    """The traces as one batch on `device`, whose places begin at the first output token of any."""
    start = max(0, min(t.prompt_tokens for t in traces) - 1)
    batch = batched([t.tokens for t in traces], [t.fused for t in traces], [t.last for t in traces], start)
    return batch.to(device)


@dataclass(frozen=True, slots=True)
class _Pick:
    """The rows of one depth: N places that have a verdict."""

    depth: int
    keep: torch.Tensor
    """bool[B, W]."""
    x: torch.Tensor
    """[N, width]: what the drafter's head reads, with gradient."""
    weight: torch.Tensor
    """[draft vocabulary, width]: that head."""
    last: torch.Tensor
    """[N, H]: the target's state that scores this draft."""
    on_text: torch.Tensor
    """bool[N]: whether the context is the text's own."""


def build_rows(drafter: Drafter, head: torch.Tensor, traces: Sequence[Trace], depth: int) -> Rows:
    """All valid (place, depth) pairs of output tokens. `head` is the target's, float32[V, H], on the drafter's device;
    traces are on the CPU."""
    batch = sequences_of(traces, head.device)
    steps = _lay(traces, batch, depth)
    parts = [
        _fields(p, batch, steps, drafter.vocabulary, head)
        for p in _picks(drafter, traces, batch, steps, depth)
    ]
    return Rows(**{name: torch.cat([part[name] for part in parts]) for name in parts[0]})


FUSABLE = ("forward_kl", "reverse_kl", "next_token")
"""Objectives of `fused_losses`; of the two KLs one at a time."""


def can_fuse(names: Collection[str]) -> bool:
    """Whether `fused_losses` knows these objectives together."""
    return set(names) <= set(FUSABLE) and not {"forward_kl", "reverse_kl"} <= set(names)


def fused_losses(
    drafter: Drafter,
    head: torch.Tensor,
    traces: Sequence[Trace],
    depth: int,
    decay: float,
    names: Collection[str],
) -> dict[str, torch.Tensor]:
    """Each objective as `objectives.combine` weighs its rows, without any [N, V] logits."""
    batch, vocabulary = sequences_of(traces, head.device), drafter.vocabulary
    steps = _lay(traces, batch, depth)
    teacher = head if vocabulary.is_full else head[vocabulary.ids]
    direction = "reverse" if "reverse_kl" in names else "forward"
    total, rows = dict.fromkeys(names, batch.last.new_zeros(())), dict.fromkeys(names, 0.0)
    for p in _picks(drafter, traces, batch, steps, depth):
        x = p.x[p.on_text]
        kl, lse = linear_kl(x, p.weight, p.last[p.on_text], teacher, direction)
        token = _text(p, batch, vocabulary)[p.on_text]
        known = token >= 0
        for name in names:
            loss = cross_entropy(x[known], p.weight, lse[known], token[known]) if name == "next_token" else kl
            total[name] = total[name] + decay**p.depth * loss.sum()
            rows[name] += decay**p.depth * len(loss)
    return {name: total[name] / max(rows[name], 1e-9) for name in names}


def _picks(
    drafter: Drafter, traces: Sequence[Trace], batch: Sequences, steps: _Steps, depth: int
) -> Iterator[_Pick]:
    branch, states = _branches(traces, batch, depth)
    outputs = _is_output(traces, batch)
    for j, hidden in enumerate(drafter.chains(batch, depth, _chain(batch, steps, branch, depth))):
        # behind the first rejection a branch has left the text
        off_text = (branch > 0) & (j > steps.accepted)
        keep = outputs & torch.where(off_text, j <= branch, batch.valid(j))
        last = batch.ahead(batch.last, 1 + j)
        if j:
            last = torch.where(off_text[..., None], states[:, :, j - 1], last)
        x, weight = drafter.output(hidden[keep], j)
        yield _Pick(j, keep, x, weight, last[keep], ~off_text[keep])


def _is_output(traces: Sequence[Trace], batch: Sequences) -> torch.Tensor:
    """bool[B, W]: a verify step can stand at p once the first output token (at p + 1) is there."""
    first = torch.tensor([t.prompt_tokens for t in traces], device=batch.tokens.device)
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
    return _Steps(*(x.to(batch.tokens.device) for x in (drafted, logq, accepted)))


def _branches(traces: Sequence[Trace], batch: Sequences, depth: int) -> tuple[torch.Tensor, torch.Tensor]:
    """int64[B, W]: how many rejected drafts the chain can follow (0: it follows the text), and the target's
    states after each of them [B, W, depth, H]."""
    reach = torch.zeros(len(traces), len(batch.places), dtype=torch.int64)
    states = torch.zeros(*reach.shape, depth, batch.last.shape[-1], dtype=batch.last.dtype)
    for i, t in enumerate(traces):
        if not len(t.branch):
            continue
        at = t.at[t.branch] - batch.start
        kept = t.branch_last[:, :depth].float()
        reach[i, at] = (t.drafted[t.branch, : kept.shape[1]] >= 0).sum(-1)
        states[i, at, : kept.shape[1]] = kept
    return reach.to(batch.tokens.device), states.to(batch.tokens.device)


def _chain(batch: Sequences, steps: _Steps, branch: torch.Tensor, depth: int) -> torch.Tensor | None:
    if depth < 2 or not bool(branch.any()):
        return None
    text = torch.stack([batch.ahead(batch.tokens, 2 + j) for j in range(depth - 1)], -1)
    follows = torch.arange(depth - 1, device=branch.device) < branch[..., None]
    return torch.where(follows, steps.drafted[..., : depth - 1], text)


def _fields(
    p: _Pick, batch: Sequences, steps: _Steps, vocabulary: DraftVocabulary, head: torch.Tensor
) -> dict[str, torch.Tensor]:
    """The fields of `Rows` at one depth."""
    logits = p.last @ head.T
    drafted, accepted = steps.drafted[..., p.depth][p.keep], steps.accepted[p.keep]
    offered = (drafted >= 0) & (p.depth <= accepted) & p.on_text
    nothing = torch.full_like(drafted, -1)
    return {
        "student": p.x @ p.weight.T,
        "teacher": logits if vocabulary.is_full else logits[:, vocabulary.ids],
        "teacher_lse": logits.logsumexp(-1),
        "token": _text(p, batch, vocabulary).where(p.on_text, nothing),
        "drafted": vocabulary.index[drafted.clamp(min=0)].where(drafted >= 0, nothing),
        "old_logq": steps.logq[..., p.depth][p.keep],
        "offered": offered,
        "taken": offered & (p.depth < accepted),
        "counterfactual": ~p.on_text,
        "return_": (accepted - p.depth).clamp(min=0).float() * offered,
        "depth": torch.full_like(drafted, p.depth),
        "step": torch.arange(p.keep.numel(), device=p.keep.device).view(p.keep.shape)[p.keep],
    }


def _text(p: _Pick, batch: Sequences, vocabulary: DraftVocabulary) -> torch.Tensor:
    """int64[N]: draft index of the text's own next token at each row, -1 where the draft vocabulary lacks it."""
    return vocabulary.index[batch.ahead(batch.tokens, 2 + p.depth)[p.keep]]
