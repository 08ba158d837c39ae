"""`specdrift simulate`: arms x seeds of a scenario, over worker processes, into one run directory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from harness.compare import summarise
from harness.latency import load as load_latency
from harness.policy import make
from harness.runlog import CellWriter, RunWriter
from harness.sim.acceptance import SOURCE as ACCEPTANCE_SOURCE
from harness.sim.build import build_world
from harness.sim.cell import Cell
from harness.sim.job import ACCEPTANCES, Job
from harness.sim.recorder import Recorder
from harness.sim.replay import record


def simulate(
    job: Job,
    out: Path,
    finish: Callable[[Path], object] = lambda run: None,
    on_cell: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Run all cells into the run directory `out` and return its summary.

    `on_cell(done, total)` is called as cells end, `finish(run)` (the report) on the complete run just
    before it gets its name.
    """
    with RunWriter(out, _info(job)) as writer:
        cells = list(job.cells())
        for done, _ in enumerate(_run_all(cells, writer.parts, job), start=1):
            on_cell(done, len(cells))
        writer.merge()
        summary = summarise(writer.path)
        finish(writer.path)
    return summary


def _run_all(cells: list[Cell], parts: Path, job: Job) -> Iterator[None]:
    if job.workers == 1:
        for cell in cells:
            _run_one(cell, parts, job.keep_steps)
            yield
        return
    with ProcessPoolExecutor(job.workers, mp_context=get_context("spawn")) as pool:
        futures = [pool.submit(_run_one, cell, parts, job.keep_steps) for cell in cells]
        try:
            for future in as_completed(futures):
                future.result()
                yield
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _run_one(cell: Cell, parts: Path, keep_steps: bool) -> None:
    with CellWriter(parts, cell.policy, cell.seed, steps=keep_steps) as writer:
        recorder = Recorder(writer)
        world = build_world(cell, recorder)
        world.run()
        recorder.close()


def _info(job: Job) -> dict[str, Any]:
    latency = load_latency(job.latency, draft=job.draft)
    charged = job.scenario.trainer.price
    return {
        "mode": "sim",
        "scenario": job.scenario.name,
        "seeds": list(job.seeds),
        "arms": {name: _arm(job, name, charged) for name in job.policies},
        "latency": {"name": latency.name, "source": latency.source, "note": latency.note},
        "acceptance": _acceptance(job),
        "configuration": {
            "scenario": job.scenario.model_dump(mode="json"),
            "latency": latency.name,
            "draft": job.draft,
            "policy_latency": job.policy_latency or "the simulator's own, so without error",
            "acceptance": job.acceptance,
            "trace": job.trace.name if job.trace else None,
            "trace_reading": dict(job.reading),
            "requests": job.requests or job.scenario.requests,
        },
    }


def _arm(job: Job, name: str, charged: float) -> dict[str, Any]:
    """An arm's settings: as recorded under a replay, which learns nothing itself."""
    if (run := job.recorded) is not None:
        return record.lent_settings(run, name, job.lenders.get(name))
    return {"policy": name, "trainer_accelerators": charged if make(name).trains else 0.0}


def _acceptance(job: Job) -> dict[str, str]:
    if (run := job.recorded) is not None:
        source = f"recorded: verify steps of {run.info['mode']} run {run.path.resolve().name}"
        return {"name": "replay", "source": source, "note": record.NOTE}
    if job.acceptance == ACCEPTANCES[0]:
        source, note = "fitted to published figures, in part assumed", ACCEPTANCE_SOURCE
    else:
        from harness.sim.model.source import NOTE  # needs torch

        source, note = "measured: a real drafter on a real target, in the loop", NOTE
    return {"name": job.acceptance, "source": source, "note": note}
