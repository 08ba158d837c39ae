"""Before a run: what a step of this server costs by batch size and K, and what its drafter is worth on known traffic.

Warm-up and calibration are one: closed loops of rising concurrency, at every K that matters. What comes out is what
an operator knows beforehand: a latency model, acceptance by position, and how much the server can do at all.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd

from harness.contract import constant_k
from harness.errors import MissingPart
from harness.latency.model import LatencyModel
from harness.latency.recorded import fit_steps
from harness.latency.shape import decode_shape
from harness.live.feed import RECORD_FIELDS, Feed
from harness.live.load import closed_loop
from harness.live.models import ModelSpec
from harness.live.server import Server
from harness.policy import Policy, PolicyContext
from harness.rng import stream
from harness.speculator.settings import learner
from workloads.scenario import Scenario

CELL_SECONDS = 1.2
WARM_SECONDS = 2.0
MOST_TOKENS = 24
"""Output tokens of a request: short ones let a closed loop end soon after its time."""
PRICE_SPREAD = 0.15
"""What drafts add to a step in the open loop, as a share of it, was 0.7 to 1.03 of what it was in these closed loops
(four runs of model `tiny` on two cores)."""


@dataclass(frozen=True)
class Measured:
    """Of one server."""

    steps: pd.DataFrame
    """Columns of `contract.StepRecord`."""
    offered: np.ndarray
    accepted: np.ndarray
    """int64[max_k]: by draft position, on known traffic, with the drafter that serves now."""
    tokens_per_second: float
    """At the largest concurrency without drafts."""
    kv_blocks: int
    """In all."""


async def measure(
    server: Server,
    prompts: Iterator[list[int]],
    *,
    ks: Sequence[int],
    concurrency: Sequence[int],
    most_tokens: int = MOST_TOKENS,
    temperature: float = 0.0,
) -> Measured:
    """Run closed loops on `server` at each K and concurrency. MissingPart when it makes no steps.

    `ks` must be in rising order and (0,) for a server without a drafter. `most_tokens`: of an answer, at most
    `MOST_TOKENS`."""
    feed, link = Feed({}), server.link
    loop = partial(
        closed_loop,
        server.url,
        server.config.model.name,
        prompts,
        most_tokens=min(most_tokens, MOST_TOKENS),
        temperature=temperature,
    )
    top = max(concurrency)
    await loop(concurrency=top, seconds=WARM_SECONDS)
    for _ in link.steps.take():
        pass
    frames, tokens_per_second = [], 0.0
    offered, accepted = np.zeros(max(*ks, 1), np.int64), np.zeros(max(*ks, 1), np.int64)
    for k in ks:
        link.control.write_schedule(constant_k(k))
        for n in concurrency:
            await loop(concurrency=n, seconds=CELL_SECONDS)
            feed.read(link.steps.take())
            tick = feed.take()
            feed.forget(tick)
            rows = tick.rows
            if not len(rows):
                raise MissingPart(
                    f"the server at {server.url} reports no steps; was it started with the flags of "
                    "specdrift serve --print-flags?"
                )
            frames.append(pd.DataFrame({f: rows[f] for f in RECORD_FIELDS}))
            if k == 0 and n == top:
                tokens_per_second = float(rows["output_tokens"].sum() / rows["seconds"].sum())
            for counts in tick.positions().values():
                offered[: len(counts.offered)] += np.array(counts.offered, np.int64)
                accepted[: len(counts.accepted)] += np.array(counts.accepted, np.int64)
    return Measured(
        pd.concat(frames, ignore_index=True),
        offered,
        accepted,
        tokens_per_second,
        int(rows["kv_total"][0]),
    )


def hazards(measured: Measured) -> tuple[float, ...]:
    """Conditional acceptance by position; a position that was never reached takes the one before."""
    found: list[float] = []
    for offered, accepted in zip(measured.offered.tolist(), measured.accepted.tolist(), strict=True):
        found.append(accepted / offered if offered else (found[-1] if found else 0.0))
    return tuple(found)


def policy_context(
    policy: Policy,
    spec: ModelSpec,
    max_k: int,
    measured: Measured,
    latency: LatencyModel,
    scenario: Scenario,
    mean_context: float,
    seed: int,
) -> PolicyContext:
    """What a policy is told before the first request: what was measured here, and what `scenario` says of trainer,
    swaps and tenants."""
    drafts = policy.uses_drafter
    return PolicyContext(
        max_k=max_k if drafts else 0,
        max_batch=spec.max_num_seqs,
        predict=latency.predict,
        offline_hazards=hazards(measured) if drafts else (),
        mean_context=mean_context,
        trainer=policy.trains and scenario.trainer.on,
        trainer_accelerators=scenario.trainer.price / spec.tensor_parallel,
        swap_stall=scenario.swap.stall,
        slo={t.name: t.slo for t in scenario.tenants},
        seed=int(stream(seed, "policy").integers(2**31)),
        heldout_k=learner(policy.learner).eval_k if drafts else None,
        price_spread=PRICE_SPREAD,
    )


def latency_of(measured: Sequence[tuple[Measured, bool]], name: str, block_size: int) -> LatencyModel:
    """One latency model of the engine, from servers with (True) and without a drafter. Raises as `fit_steps`."""
    model = fit_steps([m.steps for m, _ in measured], [loaded for _, loaded in measured], name, block_size)
    model.predict(decode_shape(1, 0, 1.0, model.has_drafter))  # compiles it now, not under the first arm
    return model
