"""Data-parallel ranks in lockstep: one step of all takes as long as the slowest rank's.

Under expert parallelism each rank's experts see the tokens of all ranks, so ranks are planned
together, priced together and committed together. A rank without work runs along empty.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

from harness.contract import Request
from harness.latency.compiled import step_seconds
from harness.latency.shape import DECODE_SEQS, EXPERT_TOKENS, PREFILL_TOKENS, QUERY_TOKENS
from harness.sim.engine import Engine

WAITING_WEIGHT = 4
"""vLLM's load balancer counts a waiting request as four running ones."""


def serve_ranks(ranks: list[Engine], requests: Iterable[Request]) -> tuple[np.ndarray, np.ndarray]:
    """Serve the requests (in order of arrival) to the end; rows of ended requests and of all steps.

    Each request goes to the rank with the least load when it arrives, as vLLM's coordinator does.
    """
    steps: list[np.ndarray] = []
    done: list[np.ndarray] = []
    pending = iter(requests)
    upcoming = next(pending, None)
    clock = 0.0
    while upcoming is not None or not all(rank.idle for rank in ranks):
        if upcoming is not None and all(rank.idle for rank in ranks):
            clock = max(clock, upcoming.arrival)
        while upcoming is not None and upcoming.arrival <= clock:
            _least_loaded(ranks).submit(upcoming)
            upcoming = next(pending, None)
        clock = _step(ranks, clock)
        steps += [rank.take_steps() for rank in ranks]
        done += [rank.take_done() for rank in ranks]
    return np.concatenate(done), np.concatenate(steps)


def _least_loaded(ranks: list[Engine]) -> Engine:
    def load(rank: Engine) -> int:
        r = rank.state.reg[0]
        return int(WAITING_WEIGHT * r["waiting"] + r["running"])

    return min(ranks, key=load)


def _step(ranks: list[Engine], clock: float) -> float:
    """One step of all ranks from `clock`; returns its end."""
    for rank in ranks:
        rank.wait_until(clock)
    working = [rank for rank in ranks if rank.plan()]
    if not working:
        return math.nextafter(clock, math.inf)
    tokens = sum(_tokens(rank.state.x) for rank in working)
    for rank in working:
        rank.state.x[EXPERT_TOKENS] = tokens
    seconds = max(step_seconds(rank.latency.compiled, rank.state.x) for rank in working)
    for rank in working:
        rank.commit(seconds)
    return clock + seconds


def _tokens(x: np.ndarray) -> float:
    return float(x[DECODE_SEQS] * x[QUERY_TOKENS] + x[PREFILL_TOKENS])
