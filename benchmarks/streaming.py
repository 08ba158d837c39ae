"""What ways to learn make of the same stream of traces: a head that knows one domain, then another one arrives.

    python benchmarks/streaming.py [--model tiny] [--domains code,sql] [--seed 0] [--long]

No server: 100 texts of the first domain, a shift, then 200 of another, drafted by the static head; at most two
optimiser steps a text, as a trainer beside a server manages. Printed is the held-out acceptance length at K = 4 of
what the learner would offer after 50, 100 and 200 texts, then of the first domain, and CPU seconds.

`--long`: 200 texts, a shift, 700 of another domain, then 600 of a new verifier; at most six steps a text.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context

import torch
from objectives import held_out, traced

from harness.rng import stream
from harness.speculator.judge import Judge, pooled
from harness.speculator.learner import Learner
from harness.speculator.settings import LearnerSettings, learner
from harness.speculator.texts import Pools
from harness.speculator.tiny import vllm_head
from harness.speculator.tiny.make import made_model
from harness.speculator.traces import Trace

KL = LearnerSettings(objectives={"forward_kl": 1.0})
BEFORE = replace(KL, lr=2e-3, depth=4, reuse=1.0, average=0.0)
FIRST, K, HELD = "math", 4, 32


@dataclass(frozen=True)
class Run:
    """Texts of the first domain, of the other, of the other under a new verifier; optimiser steps a text at most."""

    learners: Mapping[str, LearnerSettings]
    warm: int
    texts: int
    updated: int
    steps: int
    at: tuple[int, ...]
    at_updated: tuple[int, ...] = ()


SHORT = Run(
    {
        "rate 2e-3, depth 4, each trace once": BEFORE,
        "+ average of weights": replace(BEFORE, average=0.95),
        "+ average, depth 3": replace(BEFORE, average=0.95, depth=3),
        "+ average, depth 3, rate 4e-3": replace(BEFORE, average=0.95, depth=3, lr=4e-3),
        "+ each trace twice": KL,
        "+ next token beside it (the default)": LearnerSettings(),
        "  each trace three times": LearnerSettings(reuse=3.0),
    },
    warm=100, texts=200, updated=0, steps=2, at=(50, 100, 200),
)  # fmt: skip
FOUR = LearnerSettings(reuse=4.0, burst=480)
LONG = Run(
    {
        "the default": LearnerSettings(),
        "each trace four times": FOUR,
        "  and steps of four traces": replace(FOUR, batch=4),
        "  and a falling rate": replace(FOUR, settle=300),
        "  and a larger buffer (thorough)": learner("thorough"),
    },
    warm=200, texts=700, updated=600, steps=6, at=(100, 300, 700), at_updated=(100, 300, 600),
)  # fmt: skip


@dataclass(frozen=True)
class Part:
    """A stretch of the stream, and when to judge by which texts."""

    verifier: int
    texts: list[Trace]
    held: list[Trace]
    at: tuple[int, ...]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--domains", default="code,sql")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--long", action="store_true")
    given = parser.parse_args()
    domains, run = given.domains.split(","), LONG if given.long else SHORT
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        jobs = {d: pool.submit(curves, given.model, d, given.seed, run) for d in domains}
        found = {d: job.result() for d, job in jobs.items()}
    heads = [f"after {n}" for n in run.at] + [f"new, {n}" for n in run.at_updated]
    for domain, rows in found.items():
        print(f"{domain:38}" + "".join(f"{head:>11}" for head in heads) + f"{FIRST:>9}{'CPU, s':>9}")
        for name, (lengths, first, seconds) in rows.items():
            print(f"{name:38}" + "".join(f"{x:11.2f}" for x in lengths) + f"{first:9.2f}{seconds:9.0f}")


def curves(model: str, domain: str, seed: int, run: Run) -> dict[str, tuple[list[float], float, float]]:
    """By learner: held-out lengths where the run wants them, of the first domain after the shift's last text, CPU
    seconds."""
    torch.set_num_threads(1)
    pools = Pools(made_model(model), 1024)
    warm = _part(pools, 0, FIRST, run.warm, (), seed)
    parts = [warm, _part(pools, 0, domain, run.texts, run.at, seed)]
    if run.updated:
        parts.append(_part(pools, 1, domain, run.updated, run.at_updated, seed))
    return {name: _curve(pools, settings, parts, run.steps, seed) for name, settings in run.learners.items()}


def _part(pools: Pools, verifier: int, domain: str, n: int, at: tuple[int, ...], seed: int) -> Part:
    head = vllm_head.load(pools.model.head, pools.target(verifier))
    size = len(pools.pool(verifier, domain))
    order = stream(seed, "streaming", domain).permutation(size)[: n + HELD].tolist()
    texts = [traced(head, pools, domain, i, verifier) for i in order[:n]]
    return Part(verifier, texts, held_out(pools, domain, order[n:], verifier), at)


def _curve(
    pools: Pools, settings: LearnerSettings, parts: list[Part], steps: int, seed: int
) -> tuple[list[float], float, float]:
    first, target = parts[0].held, pools.target(0)
    learning = Learner(vllm_head.load(pools.model.head, target), target.head, settings, seed)
    judge, known = _judge(pools, 0), 0.0
    began, lengths = time.process_time(), []
    for before, part in zip([None, *parts], parts, strict=False):
        if before and part.verifier != before.verifier:
            new = pools.target(part.verifier)
            learning.set_verifier(part.verifier, new.head, new.embedding)
            judge = _judge(pools, part.verifier)
        elif before:
            learning.shift()
        for i, trace in enumerate(part.texts):
            learning.add(trace)
            for _ in range(steps):
                if learning.ready():
                    learning.step()
            if i + 1 in part.at:
                lengths.append(pooled(judge.scores(learning.candidate(), part.held)).length)
        if part is parts[1]:
            known = pooled(judge.scores(learning.candidate(), first)).length
    return lengths, known, time.process_time() - began


def _judge(pools: Pools, verifier: int) -> Judge:
    return Judge(vllm_head.load(pools.model.head, pools.target(verifier)), K)


if __name__ == "__main__":
    main()
