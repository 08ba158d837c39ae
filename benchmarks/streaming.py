"""What ways to learn make of the same stream of traces: a head that knows one domain, then another one arrives.

    python benchmarks/streaming.py [--model tiny] [--domains code,sql] [--seed 0]

No server: 100 texts of the first domain, a shift, then 200 of another, drafted by the static head; at most two
optimiser steps a text, as a trainer beside a server manages. Printed is the held-out acceptance length at K = 4 of
what the learner would offer after 50, 100 and 200 texts, then of the first domain, and CPU seconds.
"""

from __future__ import annotations

import argparse
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context

import torch
from objectives import held_out, traced

from harness.rng import stream
from harness.speculator.judge import Judge, pooled
from harness.speculator.learner import Learner
from harness.speculator.settings import LearnerSettings
from harness.speculator.texts import Pools
from harness.speculator.tiny import vllm_head
from harness.speculator.tiny.make import made_model
from harness.speculator.traces import Trace

KL = LearnerSettings(objectives={"forward_kl": 1.0})
BEFORE = replace(KL, lr=2e-3, depth=4, reuse=1.0, average=0.0)
LEARNERS = {
    "rate 2e-3, depth 4, each trace once": BEFORE,
    "+ average of weights": replace(BEFORE, average=0.95),
    "+ average, depth 3": replace(BEFORE, average=0.95, depth=3),
    "+ average, depth 3, rate 4e-3": replace(BEFORE, average=0.95, depth=3, lr=4e-3),
    "+ each trace twice": KL,
    "+ next token beside it (the default)": LearnerSettings(),
    "  each trace three times": LearnerSettings(reuse=3.0),
}
FIRST, K, STEPS = "math", 4, 2
WARM, TEXTS, HELD = 100, 200, 32
AT = (50, 100, 200)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--domains", default="code,sql")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    domains = given.domains.split(",")
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        jobs = {d: pool.submit(curves, given.model, d, given.seed) for d in domains}
        found = {d: job.result() for d, job in jobs.items()}
    for domain, rows in found.items():
        print(f"{domain:38}" + "".join(f"{f'after {n}':>11}" for n in AT) + f"{FIRST:>9}{'CPU, s':>9}")
        for name, (lengths, first, seconds) in rows.items():
            print(f"{name:38}" + "".join(f"{x:11.2f}" for x in lengths) + f"{first:9.2f}{seconds:9.0f}")


def curves(model: str, domain: str, seed: int) -> dict[str, tuple[list[float], float, float]]:
    """By learner: held-out lengths after each of `AT` texts, of the first domain after the last, CPU seconds."""
    torch.set_num_threads(1)
    pools = Pools(made_model(model), 1024)
    warm, first = _texts(pools, FIRST, WARM, seed)
    texts, held = _texts(pools, domain, TEXTS, seed)
    return {
        name: _curve(pools, settings, warm, texts, held, first, seed) for name, settings in LEARNERS.items()
    }


def _texts(pools: Pools, domain: str, n: int, seed: int) -> tuple[list[Trace], list[Trace]]:
    head = vllm_head.load(pools.model.head, pools.target(0))
    order = stream(seed, "streaming", domain).permutation(len(pools.pool(0, domain)))[: n + HELD].tolist()
    return [traced(head, pools, domain, i) for i in order[:n]], held_out(pools, domain, order[n:])


def _curve(
    pools: Pools,
    settings: LearnerSettings,
    warm: list[Trace],
    texts: list[Trace],
    held: list[Trace],
    first: list[Trace],
    seed: int,
) -> tuple[list[float], float, float]:
    target = pools.target(0)
    learner = Learner(vllm_head.load(pools.model.head, target), target.head, settings, seed)
    judge = Judge(vllm_head.load(pools.model.head, target), K)
    began, lengths = time.process_time(), []
    for i, trace in enumerate((*warm, *texts)):
        if i == len(warm):
            learner.shift()
        learner.add(trace)
        for _ in range(STEPS):
            if learner.ready():
                learner.step()
        if i + 1 - len(warm) in AT:
            lengths.append(pooled(judge.scores(learner.candidate(), held)).length)
    seconds = time.process_time() - began
    return lengths, pooled(judge.scores(learner.candidate(), first)).length, seconds


if __name__ == "__main__":
    main()
