"""The way between a client and the engine's queue, which no engine simulates: how long it took in a run."""

from __future__ import annotations

import numpy as np

from harness.latency.recorded_steps import BREAK_S


def entry_delay(stamps: np.ndarray, scheduled: np.ndarray, steps: np.ndarray) -> float:
    """Mean seconds that requests needed from the API server's stamp to the scheduler, beyond what the step under way
    made them wait, which a simulator knows.

    A request that was there in time is scheduled with the step that begins next, or at once by an idle engine; one
    whose way took longer misses it. Args: float64[requests] times of stamp and scheduling, and STEP_ROW[n] in order of
    time, one clock. Requests that met others waiting for room are left out. 0 where no request tells.
    """
    starts = steps["start"]
    ends = starts + steps["seconds"]
    own = np.searchsorted(starts, scheduled + 1e-9, "right") - 1  # the step that each was scheduled with
    before = np.searchsorted(starts, stamps, "right") - 1  # the last one that began before its stamp
    known = np.isfinite(scheduled) & (own >= 0) & (before >= 0)
    own, before, stamps, scheduled = own[known], before[known], stamps[known], scheduled[known]
    following = np.append(starts[1:], np.inf)[before]
    at_once = following - ends[before] <= BREAK_S  # else the engine was idle in between
    ready = np.where(at_once, following, np.maximum(ends[before], stamps))
    free = (steps["waiting"][own] == 0) & (steps["waiting"][before] == 0)
    delays = np.maximum(scheduled - ready, 0.0)[free]
    return float(delays.mean()) if len(delays) else 0.0
