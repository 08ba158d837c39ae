"""What a drafter comes to on one domain with all texts of it at hand from the start, and no server.

    python benchmarks/reach.py [--model tiny] [--verifier 0] [--domain sql] [--texts 960] [--learner default]
                               [--steps 480,960,1920,3840]

The learner is trained on these texts alone; `--verifier 1` is the model's successor. Printed is the held-out
acceptance length at K = 3 (64 texts) after each number of optimiser steps of two texts.
"""

from __future__ import annotations

import argparse
from dataclasses import replace

import torch

from harness.rng import stream
from harness.speculator.judge import Judge, pooled
from harness.speculator.learner import Learner
from harness.speculator.settings import learner as named
from harness.speculator.texts import Pools
from harness.speculator.tiny import vllm_head
from harness.speculator.tiny.make import made_model
from harness.speculator.traces import Trace

HELD, K = 64, 3
ALONE = {"gate": False, "buffer_tokens": 2**20, "recent_share": 1.0, "replay_share": 0.0}
"""Nothing held out by the learner itself, and room for every text."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--verifier", type=int, choices=(0, 1), default=0)
    parser.add_argument("--domain", default="sql")
    parser.add_argument("--texts", type=int, default=960)
    parser.add_argument("--learner", default="default")
    parser.add_argument("--steps", default="480,960,1920,3840")
    given = parser.parse_args()
    torch.set_num_threads(1)
    pools = Pools(made_model(given.model), given.texts + HELD)
    target = pools.target(given.verifier)
    head = vllm_head.load(pools.model.head, target)
    learner, judge = (
        Learner(head, target.head, replace(named(given.learner), **ALONE), seed=0),
        Judge(vllm_head.load(pools.model.head, target), K),
    )
    order = stream(0, "reach").permutation(given.texts + HELD).tolist()
    for trace in _texts(pools, given.verifier, given.domain, order[: given.texts]):
        learner.add(trace)
    held = _texts(pools, given.verifier, given.domain, order[given.texts :])
    for steps in sorted(int(n) for n in given.steps.split(",")):
        while learner.steps < steps:
            learner.step()
        print(f"{steps:6d} steps  {pooled(judge.scores(learner.candidate(), held)).length:.2f}", flush=True)


def _texts(pools: Pools, verifier: int, domain: str, chosen: list[int]) -> list[Trace]:
    pool = pools.pool(verifier, domain)
    return [replace(pool.trace(i), domain=domain, request_id=i) for i in chosen]


if __name__ == "__main__":
    main()
