"""Which candidates may be offered at all. Whether one is worth a swap is the policy's affair, not this file's.

A candidate is *quarantined* when it is broken (a weight is not finite or has another shape), when weights and
draft vocabulary do not belong together, or when it is credibly worse than what serves for any domain or
tenant that the server sees now: a mean over all traffic would let one customer's poisoned traffic pay for
the loss of the others.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from harness.speculator.checkpoint import Snapshot
from harness.speculator.judge import Group, Judge, Score, finite
from harness.speculator.traces import Trace

LEAST_TRACES = 4
"""Held-out texts below which a group is not judged: its noise would decide."""

ERRORS = 2.0
"""Standard errors of the paired difference beyond which a loss is credible."""

LEAST_KNOWN = 0.5
"""Share of the latest traffic that must be judged before training is undone."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """`reason` is one sentence; empty when the candidate may be offered."""

    reason: str = ""
    undo: bool = False
    """Whether training should go back too: the weights are broken, or worse for the traffic as a whole. A
    candidate that some group pays for is only withheld; more training may mend it."""

    @property
    def ok(self) -> bool:
        return not self.reason


def vet(
    candidate: Snapshot,
    serving: Snapshot,
    judge: Judge,
    groups: Mapping[Group, Sequence[Trace]],
    tolerance: float,
    shares: Mapping[Group, float] | None = None,
) -> Verdict:
    """Look at weights first, then at every group of held-out traces.

    `shares` of the latest traffic by group (None: all groups alike) say whether traffic as a whole loses; while
    less than half of it can be judged, as right after a shift, nobody knows."""
    if not finite(candidate):
        return Verdict("a weight is not a finite number", undo=True)
    if shapes(candidate) != shapes(serving):
        return Verdict("a weight is missing or has another shape than what serves", undo=True)
    if not candidate.consistent:
        return Verdict(
            "the draft vocabulary is not the one that the weights were trained under, or they were changed"
        )
    judged = {
        group: paired_loss(judge.scores(candidate, traces), judge.scores(serving, traces))
        for group, traces in groups.items()
        if len(traces) >= LEAST_TRACES
    }
    known = {group: 1.0 / len(judged) if shares is None else shares.get(group, 0.0) for group in judged}
    worse = sum(known[group] * loss for group, (loss, _, _) in judged.items()) > 0.0
    for group, (loss, error, now) in judged.items():
        if loss - ERRORS * error > tolerance * (now - 1.0):
            return Verdict(
                f"{'/'.join(group)}: acceptance length {now - loss:.2f} against {now:.2f} of what serves, "
                f"over {len(groups[group])} held-out texts",
                undo=worse and sum(known.values()) >= LEAST_KNOWN,
            )
    return Verdict()


def paired_loss(candidate: Sequence[Score], serving: Sequence[Score]) -> tuple[float, float, float]:
    """(loss of acceptance length, its standard error, length of what serves), paired over texts."""
    new = np.array([s.length for s in candidate])
    old = np.array([s.length for s in serving])
    difference = old - new
    error = float(difference.std(ddof=1)) / math.sqrt(len(difference)) if len(difference) > 1 else math.inf
    return float(difference.mean()), error, float(old.mean())


def shapes(snapshot: Snapshot) -> dict[str, tuple[int, ...]]:
    return {name: tuple(w.shape) for name, w in snapshot.weights.items()}
