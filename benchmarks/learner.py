"""What learning costs: tokens a second of the trainer, bytes of traces, and what storing them small loses.

    python benchmarks/learner.py [--model tiny] [--steps 60]

One core; figures are CPU seconds. The model is made first where the cache has none. Each row trains the
pretrained head on texts of a domain that it does not know, with the same draws, from traces stored in that
format, and gives the held-out acceptance length before and after.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace

import torch

from harness.speculator.judge import Judge, pooled
from harness.speculator.learner import Learner
from harness.speculator.settings import LearnerSettings
from harness.speculator.texts import Pools
from harness.speculator.tiny import vllm_head
from harness.speculator.tiny.make import made_model

FORMATS = ("float32", "bfloat16", "float8_e4m3fn")
TEXTS, HELD = 200, 40


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--domain", default="code")
    parser.add_argument("--steps", type=int, default=60)
    given = parser.parse_args()
    torch.set_num_threads(1)
    pools = Pools(made_model(given.model), 1024)
    print("format         bytes/token  peak MiB  tokens/CPU-s  step ms  length before  after")
    for store in FORMATS:
        print(_row(pools, given.domain, given.steps, store), flush=True)


def _row(pools: Pools, domain: str, steps: int, store: str) -> str:
    target, pool = pools.target(0), pools.pool(0, domain)
    head = vllm_head.load(pools.model.head, target)
    settings = LearnerSettings(store=store, batch=8, lr=3e-3, warmup=0, reuse=100.0, branches=0, coverage=0.0)
    learner = Learner(head, target.head, settings, seed=0)
    for i in range(TEXTS):
        learner.buffer.add(replace(pool.trace(i), domain=domain, request_id=i))
    held = [replace(pool.trace(i), domain=domain, request_id=i) for i in range(TEXTS, TEXTS + HELD)]
    judge = Judge(vllm_head.load(pools.model.head, target), settings.eval_k)
    before = pooled(judge.scores(learner.candidate(), held)).length
    began = time.process_time()
    for _ in range(steps):
        learner.step()
    seconds = time.process_time() - began
    after = pooled(judge.scores(learner.candidate(), held)).length
    tokens = sum(len(pool.text(i)) for i in range(TEXTS)) / TEXTS * settings.batch * steps
    per_token = learner.buffer.nbytes / sum(len(pool.text(i)) for i in range(TEXTS))
    peak = learner.buffer.peak_bytes / 2**20
    return (
        f"{store:14} {per_token:11.0f} {peak:9.1f} {tokens / seconds:13.0f} {1e3 * seconds / steps:8.0f}"
        f" {before:14.3f} {after:6.3f}"
    )


if __name__ == "__main__":
    main()
