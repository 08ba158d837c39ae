"""From a finished request's verify steps to the trace that a live tap would have written."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from harness.sim.model.engine import Verified
from harness.speculator.settings import LearnerSettings
from harness.speculator.texts import Pools, Texts
from harness.speculator.traces import Trace, spread


def trace_of(
    request_id: int,
    steps: Sequence[Verified],
    texts: Texts,
    pools: Pools,
    settings: LearnerSettings,
    domain: str,
    tenant: str,
) -> Trace:
    """The states of rejected drafts, which a server has at hand, cost a pass of the target here: `branches` of
    them are taken per request, evenly over its rejections."""
    fused, last = texts.states(request_id)
    tokens, verifier = texts.tokens(request_id), texts.verifier(request_id)
    deepest = max((s.k for s in steps), default=1)
    drafted = torch.full((len(steps), deepest), -1, dtype=torch.int64)
    logq = torch.zeros(len(steps), deepest)
    for i, s in enumerate(steps):
        drafted[i, : s.k] = s.table.drafts[s.place, : s.k]
        logq[i, : s.k] = s.table.logq[s.place, : s.k]
    at = torch.tensor([s.place + s.table.start for s in steps], dtype=torch.int64)
    refused = [i for i, s in enumerate(steps) if s.accepted < s.k == deepest and drafted[i].min() >= 0]
    branch = spread(refused, settings.branches)
    states = last.new_zeros(0, deepest, last.shape[1])
    if branch:
        target = pools.target(verifier)
        states = target.branches(tokens.tolist(), at[branch].tolist(), drafted[branch])
    return Trace(
        tokens=tokens, prompt_tokens=texts.requests[request_id].prompt_tokens, fused=fused, last=last,
        at=at, drafted=drafted, accepted=torch.tensor([s.accepted for s in steps], dtype=torch.int64),
        logq=logq, branch=torch.tensor(branch, dtype=torch.int64), branch_last=states,
        request_id=request_id, domain=domain, tenant=tenant,
        drafter_version=steps[-1].version if steps else 0, verifier_version=verifier,
    )  # fmt: skip
