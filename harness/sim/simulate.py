"""`specdrift simulate`: arms x seeds of a scenario, over worker processes, into one run directory."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from harness.compare import summarise
from harness.errors import InputError, UnknownName
from harness.latency import load as load_latency
from harness.policy import make
from harness.runlog import CellWriter, RunWriter
from harness.sim.acceptance import SOURCE as ACCEPTANCE_SOURCE
from harness.sim.cell import Cell, build_world
from harness.sim.recorder import Recorder
from workloads.scenario import Scenario
from workloads.traces import read_trace

ACCEPTANCES = ("parametric", "model")
"""Where acceptance may come from; a name may follow `model:`."""


@dataclass(frozen=True, slots=True)
class Job:
    """What to simulate, resolved: nothing here is a default any more."""

    scenario: Scenario
    policies: tuple[str, ...]
    seeds: tuple[int, ...]
    latency: str
    draft: str | None = None
    policy_latency: str | None = None
    trace: Path | None = None
    requests: int | None = None
    prefix_hashes: int = 0
    reading: Mapping[str, Any] = field(default_factory=dict)
    """What reading the trace had to leave out or change (`workloads.traces.TraceReport`)."""
    acceptance: str = ACCEPTANCES[0]
    keep_steps: bool = True
    workers: int = 1

    def cells(self) -> Iterator[Cell]:
        """Seed by seed, so that an interrupted look at the log already compares all arms."""
        for seed in self.seeds:
            for policy in self.policies:
                yield Cell(
                    scenario=self.scenario,
                    policy=policy,
                    seed=seed,
                    latency=self.latency,
                    draft=self.draft,
                    trace=self.trace,
                    requests=self.requests,
                    prefix_hashes=self.prefix_hashes,
                    policy_latency=self.policy_latency,
                    acceptance=self.acceptance,
                )


def prepare(
    scenario: Scenario,
    *,
    policies: Sequence[str] = (),
    seeds: Sequence[int] = (0,),
    latency: str | None = None,
    draft: str | None = None,
    policy_latency: str | None = None,
    acceptance: str = ACCEPTANCES[0],
    trace: Path | None = None,
    requests: int | None = None,
    keep_steps: bool = True,
    workers: int | None = None,
) -> Job:
    """Fill in defaults and refuse, in one sentence, what could not run; nothing is written yet."""
    if requests is not None and requests < 1:
        raise InputError(f"requests is {requests}; simulate at least 1")
    arms = tuple(policies) or _default_arms(scenario, acceptance)
    if doubled := [a for a in arms if arms.count(a) > 1]:
        raise InputError(f"policy {doubled[0]!r} is given more than once; each arm must be different")
    if acceptance.partition(":")[0] not in ACCEPTANCES or acceptance.startswith("parametric:"):
        raise UnknownName("acceptance source", acceptance, ACCEPTANCES)
    reading: dict[str, Any] = {}
    hashes = 0
    if trace is not None:
        reading, hashes = _scan(trace)
        requests = min(requests or reading["requests"], reading["requests"])
    job = Job(
        scenario=scenario,
        policies=arms,
        seeds=tuple(seeds),
        latency=_split(latency or scenario.latency, scenario.engine.tensor_parallel),
        draft=draft,
        policy_latency=policy_latency,
        trace=trace,
        requests=requests,
        reading=reading,
        acceptance=acceptance,
        prefix_hashes=hashes,
        keep_steps=keep_steps,
        workers=workers or min(os.cpu_count() or 1, len(arms) * len(seeds)),
    )
    for cell in list(job.cells())[: len(arms)]:
        build_world(cell, _Nowhere())
    return job


def _default_arms(scenario: Scenario, acceptance: str) -> tuple[str, ...]:
    """The scenario's; a real model cannot tell an oracle the truth, so oracles are left out there."""
    if acceptance == ACCEPTANCES[0]:
        return scenario.arms
    return tuple(arm for arm in scenario.arms if not make(arm).needs_truth)


def _split(latency: str, ranks: int | None) -> str:
    """The latency model's name for a target split over `ranks` accelerators; only rooflines know how."""
    if ranks is None or ranks == 1 or latency.endswith(f":tp{ranks}"):
        return latency
    if not latency.startswith("roofline:") or ":tp" in latency:
        raise InputError(
            f"the scenario sets tensor_parallel = {ranks}, which latency model {latency!r} does not have; "
            f"use a roofline, such as roofline:h100:llama3-70b:tp{ranks}"
        )
    return f"{latency}:tp{ranks}"


def _scan(trace: Path) -> tuple[dict[str, Any], int]:
    """The reader's report and the most prefix hashes of one request: one pass with all of its checks."""
    stream = read_trace(trace)
    hashes = max(len(request.prefix_hashes) for request in stream)
    return asdict(stream.report), hashes


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
    trainer = job.scenario.trainer
    charged = 1.0 / trainer.servers if trainer.on and trainer.own_accelerator else 0.0
    return {
        "mode": "sim",
        "scenario": job.scenario.name,
        "seeds": list(job.seeds),
        "arms": {
            name: {"policy": name, "trainer_accelerators": charged if make(name).trains else 0.0}
            for name in job.policies
        },
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


def _acceptance(job: Job) -> dict[str, str]:
    if job.acceptance == ACCEPTANCES[0]:
        source, note = "fitted to published figures, in part assumed", ACCEPTANCE_SOURCE
    else:
        from harness.sim.model.source import NOTE  # needs torch

        source, note = "measured: a real drafter on a real target, in the loop", NOTE
    return {"name": job.acceptance, "source": source, "note": note}


class _Nowhere:
    """A sink for worlds that are only built, never run."""

    def name(self, labels: object) -> None: ...
    def step_rows(self, rows: object) -> None: ...
    def request_rows(self, rows: object) -> None: ...
    def events(self, events: object) -> None: ...
