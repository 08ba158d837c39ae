"""How steady the machine of a live run was: what steps of the same batch and K took, seed against seed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from harness.runlog import Run

FEWEST = 20
"""Steps of a batch and K in every seed, for its median to count."""
UNSTEADY = 1.1
"""Ratio above which a reader should be told before any speedup."""


def step_drift(run: Run, arms: Sequence[str]) -> dict[str, Any] | None:
    """The arm, of `arms`, whose decode steps of equal batch and K differed most between two seeds, and by which
    ratio; None where no two seeds have such steps.

    Give arms that learn nothing: a trainer at work slows the server by design.
    """
    found = [(ratio, arm) for arm in arms if (ratio := _ratio(run, arm)) is not None]
    if not found:
        return None
    ratio, arm = max(found)
    return {"arm": arm, "ratio": ratio}


def unsteady(drift: dict[str, Any] | None) -> str:
    """A sentence where the machine was not steady; empty where it was, or nobody knows."""
    if drift is None or drift["ratio"] <= UNSTEADY:
        return ""
    return (
        f"the machine was not steady: the same steps (batch, K) took {drift['ratio']:.2f} times as long under one seed "
        f"as under another (arm {drift['arm']})"
    )


def _ratio(run: Run, arm: str) -> float | None:
    medians, counts = {}, {}
    for seed in run.seeds:
        steps = run.steps(arm, seed, ("seconds", "batch", "k", "prefill_tokens"))
        alike = steps[(steps["prefill_tokens"] == 0) & (steps["batch"] > 0)].groupby(["batch", "k"])[
            "seconds"
        ]
        medians[seed], counts[seed] = alike.median(), alike.count()
    seconds, weights = pd.DataFrame(medians).dropna(), pd.DataFrame(counts).min(axis=1, skipna=False)
    seconds = seconds[weights.reindex(seconds.index) >= FEWEST]
    if len(seconds) == 0 or len(run.seeds) < 2:
        return None
    logs = np.log(seconds.to_numpy())
    speeds = np.average(logs, axis=0, weights=weights.reindex(seconds.index))
    return float(np.exp(speeds.max() - speeds.min()))
