"""What each objective teaches a head about a domain that it does not know, on the same traces, step for step.

    python benchmarks/objectives.py [--model tiny] [--domain code] [--seeds 5] [--workers 2]

No server: per seed, 160 texts of the domain are drafted by the static head (verify steps at K = 4, target states of
two refused drafts each), and every objective trains a copy of that head on them for 40 steps of 8. Printed is the
held-out acceptance length at K = 4 over 40 other texts, mean and 95% interval over seeds, and its paired
difference from forward KL after the last step.
"""

from __future__ import annotations

import argparse
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context

import numpy as np
import torch

from harness.compare.interval import t_interval
from harness.contract import TrainPlan
from harness.rng import stream
from harness.speculator.drafters.eagle3 import Eagle3
from harness.speculator.judge import Judge, pooled
from harness.speculator.learner import Learner
from harness.speculator.rows import sequences_of
from harness.speculator.settings import LearnerSettings
from harness.speculator.texts import Pools
from harness.speculator.tiny import vllm_head
from harness.speculator.tiny.make import made_model
from harness.speculator.traces import Trace

OBJECTIVES: dict[str, dict[str, float]] = {
    "forward KL": {"forward_kl": 1.0},
    "forward KL + 0.5 discard": {"forward_kl": 1.0, "discard": 0.5},
    "reverse KL": {"reverse_kl": 1.0},
    "next token": {"next_token": 1.0},
    "0.5 forward KL + 0.5 next token": {"forward_kl": 0.5, "next_token": 0.5},
    "total variation": {"total_variation": 1.0},
    "log acceptance": {"log_acceptance": 1.0},
    "forward KL + 0.3 policy gradient": {"forward_kl": 1.0, "policy_gradient": 0.3},
    "policy gradient": {"policy_gradient": 1.0},
}
K, TEXTS, HELD, BRANCHES = 4, 160, 40, 2
AT = (0, 10, 20, 40)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--domain", default="code")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=2)
    given = parser.parse_args()
    with ProcessPoolExecutor(given.workers, mp_context=get_context("spawn")) as pool:
        jobs = [pool.submit(curves, given.model, given.domain, seed) for seed in range(given.seeds)]
        found = [job.result() for job in jobs]
    print(f"{'objective':34}" + "".join(f"after {n:<13}" for n in AT) + "less forward KL")
    for name in OBJECTIVES:
        values = np.array([seed[name] for seed in found])
        base = np.array([seed["forward KL"] for seed in found])
        cells = "".join(f"{_interval(column):19}" for column in values.T)
        print(f"{name:34}{cells}{_interval((values - base)[:, -1])}", flush=True)


def _interval(values: np.ndarray) -> str:
    bounds = t_interval(list(values))
    tail = "" if bounds is None else f" [{bounds[0]:.2f}, {bounds[1]:.2f}]"
    return f"{values.mean():.2f}{tail}"


def curves(model: str, domain: str, seed: int) -> dict[str, list[float]]:
    """Held-out acceptance length after each of `AT` steps, by objective."""
    torch.set_num_threads(1)
    pools = Pools(made_model(model), 1024)
    order = stream(seed, "objectives").permutation(len(pools.pool(0, domain)))[: TEXTS + HELD]
    head = vllm_head.load(pools.model.head, pools.target(0))
    traces = [traced(head, pools, domain, int(i)) for i in order[:TEXTS]]
    held = held_out(pools, domain, order[TEXTS:].tolist())
    return {name: _curve(pools, weights, traces, held, seed) for name, weights in OBJECTIVES.items()}


def _curve(
    pools: Pools, weights: dict[str, float], traces: list[Trace], held: list[Trace], seed: int
) -> list[float]:
    target = pools.target(0)
    settings = LearnerSettings(batch=8, lr=3e-3, warmup=0, reuse=100.0, replay_share=0.0, recent_share=1.0)
    learner = Learner(vllm_head.load(pools.model.head, target), target.head, settings, seed)
    for trace in traces:
        learner.buffer.add(trace)
    judge = Judge(vllm_head.load(pools.model.head, target), K)
    plan, found = TrainPlan(on=True, objectives=weights), []
    for step in range(max(AT) + 1):
        if step in AT:
            found.append(pooled(judge.scores(learner.candidate(), held)).length)
        if step < max(AT):
            learner.step(plan)
    return found


def held_out(pools: Pools, domain: str, texts: list[int], verifier: int = 0) -> list[Trace]:
    """Texts to judge by, not drafted by anyone."""
    return [replace(pools.pool(verifier, domain).trace(i), request_id=i, domain=domain) for i in texts]


def traced(head: Eagle3, pools: Pools, domain: str, i: int, verifier: int = 0) -> Trace:
    """Text i with the verify steps of the static head and what the target thought of refused drafts."""
    target = pools.target(verifier)
    trace = replace(
        pools.pool(verifier, domain).trace(i, K), domain=domain, request_id=i, verifier_version=verifier
    )
    batch = sequences_of([trace])
    drafts, accepted = head.draft(batch, K), head.accepted(batch, K)[0].tolist()
    at, place = [], trace.prompt_tokens - 1
    while place < len(trace) - 2:
        at.append(place)
        place += accepted[place - batch.start] + 1
    rows = torch.tensor(at, dtype=torch.int64) - batch.start
    drafted = drafts.tokens[0, rows]
    refused = [s for s, r in enumerate(rows.tolist()) if accepted[r] < K]
    branch = torch.tensor(refused[:: max(1, len(refused) // BRANCHES)][:BRANCHES], dtype=torch.int64)
    return replace(
        trace,
        at=torch.tensor(at, dtype=torch.int64),
        drafted=drafted,
        accepted=torch.tensor([accepted[r] for r in rows.tolist()], dtype=torch.int64),
        logq=drafts.logq[0, rows],
        branch=branch,
        branch_last=target.branches(trace.tokens.tolist(), [at[b] for b in branch.tolist()], drafted[branch]),
    )


if __name__ == "__main__":
    main()
