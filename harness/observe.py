"""Step history -> `Observation`: the one place where a policy's view is built, for sim and live alike.

A world collects rows while it serves and calls `observe` at each control tick. Nothing enters that a
real server could not measure about itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from harness.contract import Observation, PositionCounts, StepLatency, Swap, TrainerState

TICK_STEPS = 32
TICK_SECONDS = 1.0
"""A control tick comes after this many engine steps or seconds, whichever is first."""


@dataclass(frozen=True, slots=True)
class Gauges:
    """The server's state at the tick."""

    time: float
    running: int
    waiting: int
    kv_use: float
    mean_context: float


@dataclass(frozen=True, slots=True)
class Serving:
    """Which weights serve, since when, and what the last swap did."""

    drafter: str
    drafter_version: int
    since: float
    verifier_version: int
    last_swap: Swap | None


def observe(
    gauges: Gauges,
    steps: np.ndarray,
    positions: Mapping[tuple[str, str], PositionCounts],
    finished: Sequence[bool] | np.ndarray,
    serving: Serving,
    trainer: TrainerState,
) -> Observation:
    """Build the view of one tick.

    `steps` is a structured array with the fields of `contract.StepRecord` (only `seconds`, `batch`,
    `k`, `prefill_tokens` and `output_tokens` are read) and, of an engine that drafts at the end of a step, `drafted`:
    the draft tokens per sequence that it proposed for the next one; `finished` says for each request that ended
    since the last tick whether it met its SLO.
    """
    return Observation(
        time=gauges.time,
        running=gauges.running,
        waiting=gauges.waiting,
        kv_use=gauges.kv_use,
        mean_context=gauges.mean_context,
        engine_steps=len(steps),
        steps=_latencies(steps),
        tokens=int(steps["output_tokens"].sum()),
        prefill_tokens=int(steps["prefill_tokens"].sum()),
        finished=len(finished),
        positions=positions,
        drafter=serving.drafter,
        drafter_version=serving.drafter_version,
        drafter_age=gauges.time - serving.since,
        verifier_version=serving.verifier_version,
        trainer=trainer,
        last_swap=serving.last_swap,
        slo_attainment=float(np.mean(finished)) if len(finished) else 1.0,
    )


def _latencies(steps: np.ndarray) -> tuple[StepLatency, ...]:
    """Decode-only steps gathered by (batch, K, drafted), in order of first appearance."""
    gathered: dict[tuple[int, int, int | None], list[float]] = {}
    names = ("batch", "k", "seconds", "prefill_tokens", "output_tokens")
    columns = [steps[name].tolist() for name in names]
    drafts = steps["drafted" if "drafted" in (steps.dtype.names or ()) else "k"].tolist()
    for batch, k, seconds, prefill, tokens, drafted in zip(*columns, drafts, strict=True):
        if prefill or not batch:
            continue
        cell = gathered.setdefault((batch, k, drafted if drafted != k else None), [0, 0.0, 0])
        cell[0] += 1
        cell[1] += seconds
        cell[2] += tokens
    return tuple(
        StepLatency(batch=b, k=k, steps=int(n), seconds=seconds, tokens=int(tokens), drafted=drafted)
        for (b, k, drafted), (n, seconds, tokens) in gathered.items()
    )


def position_counts(
    offered: np.ndarray, accepted: np.ndarray, domains: Sequence[str], tenants: Sequence[str]
) -> dict[tuple[str, str], PositionCounts]:
    """Counts int64[domains, tenants, positions] -> the contract's form; empty pairs are left out."""
    counts: dict[tuple[str, str], PositionCounts] = {}
    for d, t in np.argwhere(offered[:, :, 0] > 0).tolist():
        deepest = int(np.flatnonzero(offered[d, t])[-1]) + 1
        counts[domains[d], tenants[t]] = PositionCounts(
            offered=tuple(offered[d, t, :deepest].tolist()),
            accepted=tuple(accepted[d, t, :deepest].tolist()),
        )
    return counts
