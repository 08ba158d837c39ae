"""Step logs of an engine with a known, linear cost: the rows of a run log and the shape behind each."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from harness.latency import StepShape

BLOCK, MAX_K = 16, 5
BASE, TOKEN, ROW, KV = 6e-3, 0.12e-3, 0.03e-3, 2e-7
IDLE, IDLE_TOKEN, PASS, PASS_SEQ, FURTHER = 1e-3, 0.02e-3, 0.6e-3, 0.02e-3, 0.3e-3
MOST = 16
"""Sequences that run at once."""


def cost(s: StepShape) -> float:
    """Seconds of a step: base and idle pass, tokens, sampled rows, KV tokens, draft passes."""
    seconds = (
        BASE + TOKEN * s.tokens + ROW * s.sampled_rows + KV * (s.kv_sum + s.prefill_kv + s.prefill_tokens)
    )
    if s.drafter_loaded:
        seconds += IDLE + IDLE_TOKEN * s.tokens + s.draft_passes * (PASS + PASS_SEQ * s.decode_seqs)
        seconds += max(s.draft_passes - 1, 0) * FURTHER
    return seconds


@dataclass(frozen=True)
class Log:
    """One arm and seed."""

    frame: pd.DataFrame
    shapes: list[StepShape]


def step_log(
    ks: tuple[int, ...],
    steps: int = 1500,
    seed: int = 0,
    noise: float = 0.0,
    stalls: float = 0.0,
    loaded: bool = True,
) -> Log:
    """A served stream whose load swings, so that every batch size occurs; K changes among `ks` every 7 steps.

    `noise` is the standard deviation of log seconds; a share `stalls` of the steps takes 0.1 s more.
    """
    rng = np.random.default_rng(seed)
    contexts: list[int] = [100]
    verified, clock, rows, shapes = 0, 0.0, [], []
    for number in range(steps):
        busy = number // 60 % 2 == 0
        coming = int(rng.integers(8, 200)) if len(contexts) < MOST and rng.random() < 0.1 + 0.3 * busy else 0
        if len(contexts) > 1 and rng.random() < 0.4 - 0.3 * busy:
            contexts.pop(int(rng.integers(len(contexts))))
        passes = ks[number // 7 % len(ks)] if loaded else 0
        shape = _shape(contexts, verified, passes, coming, loaded)
        seconds = cost(shape) * float(np.exp(noise * rng.normal())) + 0.1 * (rng.random() < stalls)
        accepted = [int(rng.integers(verified + 1)) for _ in contexts]
        held = [c + 1 + verified for c in contexts] + ([coming] if coming else [])
        spare = MAX_K if loaded else 0
        batch = len(contexts)
        rows.append(
            {
                "start": clock, "seconds": seconds, "batch": batch, "k": verified, "prefill_tokens": coming,
                "output_tokens": batch + sum(accepted) + (coming > 0), "accepted": sum(accepted),
                "running": len(held), "waiting": 0, "kv_blocks": sum(-(-(h + spare) // BLOCK) for h in held),
            }
        )  # fmt: skip
        shapes.append(shape)
        clock += seconds
        contexts = [c + 1 + a for c, a in zip(contexts, accepted, strict=True)] + ([coming] if coming else [])
        verified = passes
    return Log(pd.DataFrame(rows), shapes)


def _shape(contexts: list[int], k: int, passes: int, prefill: int, loaded: bool) -> StepShape:
    kv = np.array(contexts, dtype=float)
    return StepShape(
        decode_seqs=len(contexts),
        query_tokens=1 + k,
        kv_sum=kv.sum(),
        kv_sq=(kv**2).sum(),
        kv_max=kv.max(),
        prefill_seqs=int(prefill > 0),
        prefill_tokens=prefill,
        prefill_pairs=prefill * (prefill + 1) / 2,
        sampled_rows=len(contexts) * (1 + k) + (prefill > 0),
        draft_passes=passes,
        drafter_loaded=loaded,
    )
