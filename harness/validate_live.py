"""The harness's own test of honesty: a live run, simulated again with what was recorded from it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness.compare.side_by_side import side_by_side
from harness.latency.store import believed
from harness.sim.job import choose, prepare
from harness.sim.simulate import simulate

SIMULATED = "simulated"
"""Folder of the simulation within the live run's directory."""


def validate_live(
    run: Path,
    latency: str | None = None,
    on_cell: Callable[[int, int], None] = lambda done, total: None,
    finish: Callable[[Path], object] = lambda run: None,
    workers: int | None = None,
) -> dict[str, Any]:
    """Simulate the run at `run` into RUN/simulated, compare, write RUN/side-by-side.json and return it.

    All arms but oracles and all seeds, acceptance as recorded. Steps cost what they cost in the run, and policies
    believe what they were told in it; `latency` names another model for both. `on_cell` and `finish` are handed to
    `sim.simulate`; an earlier RUN/simulated is replaced. Raises InputError when the run has no verify steps, no
    summary, or cannot be simulated.
    """
    run = Path(run)
    acceptance = f"replay:{run}"
    scenario, seeds = choose(None, acceptance)
    job = prepare(
        scenario,
        seeds=seeds,
        latency=latency or str(run),
        policy_latency=None if latency else believed(run),
        acceptance=acceptance,
        workers=workers,
    )
    out = run / SIMULATED
    if (out / "run.json").is_file():
        shutil.rmtree(out)
    simulate(job, out, finish=finish, on_cell=on_cell)
    return side_by_side(run, out)
