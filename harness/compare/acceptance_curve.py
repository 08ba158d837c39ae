"""Acceptance length over the requests of a run, and how far two runs of the same requests are apart in it."""

from __future__ import annotations

from typing import Any

import numpy as np

from harness.errors import InputError
from harness.runlog import Run

BLOCK = 100
"""Requests of one point: their verify steps put the noise of a point near 0.03."""
BAR = 0.15
"""Largest difference of a point, in tokens a verify step, that passes."""


def compare_curves(live: Run, sim: Run) -> dict[str, Any]:
    """Per arm of `sim`: `live` and `simulated` curves (mean over seeds, a point per `BLOCK` requests in order of
    arrival, None where nothing was drafted), the `largest` difference and whether it is `within` the bar. A point that
    one side alone has is not.

    Raises InputError when an arm or seed of `sim` is not in `live`, or the numbers of requests differ."""
    arms = {arm: _arm(live, sim, arm) for arm in sim.arms}
    return {"block": BLOCK, "bar": BAR, "ok": all(a["within"] for a in arms.values()), "arms": arms}


def _arm(live: Run, sim: Run, arm: str) -> dict[str, Any]:
    curves = [np.array([curve(run, arm, seed) for seed in sim.seeds]) for run in (live, sim)]
    if curves[0].shape != curves[1].shape:
        raise InputError(
            f"arm {arm!r} has {curves[0].shape[1]} points in {live.path} and {curves[1].shape[1]} in {sim.path}; "
            "they must serve the same requests"
        )
    here, there = (c.mean(0) for c in curves)
    apart = np.abs(here - there)
    known = ~np.isnan(apart)
    alone = (np.isnan(here) != np.isnan(there)).any()
    largest = float(apart[known].max()) if known.any() else None
    return {
        "live": plain(here),
        "simulated": plain(there),
        "largest": largest,
        "mean": float(apart[known].mean()) if known.any() else None,
        "within": largest is not None and largest <= BAR and not bool(alone),
    }


def curve(run: Run, arm: str, seed: int, block: int = BLOCK) -> list[float]:
    """1 + accepted drafts by verify steps, a point per `block` requests; NaN where nothing was drafted."""
    columns = ("request_id", "arrival", "accepted_tokens", "verify_steps")
    rows = run.requests(arm, seed, columns).sort_values(["arrival", "request_id"])
    accepted, steps = (rows[name].to_numpy(dtype=float) for name in columns[2:])
    found = []
    for begin in range(0, len(rows), block):
        part = slice(begin, begin + block)
        total = steps[part].sum()
        found.append(1.0 + accepted[part].sum() / total if total else float("nan"))
    return found


def plain(values: np.ndarray) -> list[float | None]:
    return [None if np.isnan(v) else round(float(v), 4) for v in values]
