"""A micro model made once per test process, and traces of it as the simulator's tap would write them."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import torch

from harness.speculator.drafters.eagle3 import Eagle3
from harness.speculator.rows import sequences_of
from harness.speculator.texts import Pools
from harness.speculator.tiny import vllm_head
from harness.speculator.tiny.make import TinyModel, made_model
from harness.speculator.traces import Trace


@cache
def model() -> TinyModel:
    torch.set_num_threads(1)
    return made_model("micro")


@cache
def pools() -> Pools:
    return Pools(model(), 64)


def head() -> Eagle3:
    return vllm_head.load(model().head, pools().target(0))


def traces(domain: str, n: int, drafter: Eagle3 | None = None, k: int = 3, first: int = 0) -> list[Trace]:
    """Texts `first`.. of a domain with the verify steps that `drafter` (default: the static head) gets."""
    drafter = drafter or head()
    pool = pools().pool(0, domain)
    found = []
    for i in range(first, first + n):
        found.append(_verified(replace(pool.trace(i), domain=domain, tenant="t", request_id=i), drafter, k))
    return found


def _verified(trace: Trace, drafter: Eagle3, k: int) -> Trace:
    batch = sequences_of([trace])
    drafts = drafter.draft(batch, k)
    accepted = drafter.accepted(batch, k)[0].tolist()
    at, place = [], trace.prompt_tokens - 1
    while place < len(trace) - 2:
        at.append(place)
        place += accepted[place - batch.start] + 1
    rows = torch.tensor(at, dtype=torch.int64) - batch.start
    return replace(
        trace,
        at=torch.tensor(at, dtype=torch.int64),
        drafted=drafts.tokens[0, rows],
        accepted=torch.tensor([accepted[r] for r in rows.tolist()], dtype=torch.int64),
        logq=drafts.logq[0, rows],
        branch_last=trace.last.new_zeros(0, k, trace.last.shape[1]),
    )


def with_branch(trace: Trace, step: int, states: torch.Tensor) -> Trace:
    """The trace with the target's states of one verify step's drafts, [1, K, H]."""
    return replace(trace, branch=torch.tensor([step]), branch_last=states)
