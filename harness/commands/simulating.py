"""`specdrift simulate` and `evaluate-offline`: arms of a scenario, or of a recorded run, in the simulator."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from harness.commands.base import Json, RunDir, answer


def simulate(
    scenario: Annotated[
        str | None,
        typer.Option(help="Scenario name or TOML file; default: domain-shift, or that of a replayed run."),
    ] = None,
    trace: Annotated[Path | None, typer.Option(help="Trace file: supplies arrivals and lengths.")] = None,
    policy: Annotated[list[str] | None, typer.Option(help="An arm, e.g. static:3; repeat for more.")] = None,
    seeds: Annotated[
        int | None, typer.Option(min=1, help="How many paired seeds; default: 5, or those of a replayed run.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="The first seed.")] = 0,
    latency: Annotated[str | None, typer.Option(help="Latency model: name, folder or file.")] = None,
    draft: Annotated[
        str | None, typer.Option(help="roofline: an analytic draft head for tables that have none.")
    ] = None,
    policy_latency: Annotated[
        str | None, typer.Option(help="Latency model that policies believe in; default: the true one.")
    ] = None,
    acceptance: Annotated[
        str, typer.Option(help="Source of acceptance: parametric, model[:tiny|small] or replay:RUN.")
    ] = "parametric",
    requests: Annotated[int | None, typer.Option(min=1, help="Stop after this many requests.")] = None,
    steps: Annotated[bool, typer.Option(help="Keep every engine step in the log.")] = True,
    workers: Annotated[int | None, typer.Option(min=1, help="Worker processes; default: all cores.")] = None,
    out: Annotated[Path | None, typer.Option(help="Run directory; default: runs/<scenario>-<time>.")] = None,
    as_json: Json = False,
) -> None:
    """Simulate arms of a scenario over paired seeds; write a run directory with its drift report."""
    from harness.show.progress import cell_progress
    from harness.show.summary import summary_table
    from harness.sim.job import choose, prepare
    from harness.sim.simulate import simulate as run
    from reports import write_report

    chosen, numbers = choose(scenario, acceptance, seed, seeds)
    job = prepare(
        chosen,
        policies=policy or (),
        seeds=numbers,
        latency=latency,
        draft=draft,
        policy_latency=policy_latency,
        acceptance=acceptance,
        trace=trace,
        requests=requests,
        keep_steps=steps,
        workers=workers,
    )
    out = out or Path("runs") / f"{job.scenario.name}-{datetime.now():%Y%m%d-%H%M%S}"
    with cell_progress() as on_cell:
        summary = run(job, out, finish=write_report, on_cell=on_cell)
    answer(as_json, {"run": str(out), **summary}, lambda: summary_table(summary, out))


def evaluate_offline(
    run: RunDir,
    policy: Annotated[list[str], typer.Option(help="A policy that did not run there; repeat for more.")],
    arm: Annotated[
        str | None,
        typer.Option(help="Arm whose drafter and trainer it meets; default: the one that verified most."),
    ] = None,
    latency: Annotated[
        str | None, typer.Option(help="Latency model: name, folder or file; default: the run's own.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Directory of the replay; default: RUN-offline.")] = None,
    as_json: Json = False,
) -> None:
    """What other policies would have made of a live run: their K on what it recorded, no server needed."""
    from harness.evaluate_offline import evaluate_offline as evaluate
    from harness.show.progress import cell_progress
    from harness.show.replayed import offline_table
    from reports import write_report

    out = out or run.with_name(f"{run.name}-offline")
    with cell_progress() as on_cell:
        result = evaluate(run, policy, arm, latency, out, finish=write_report, on_cell=on_cell)
    answer(as_json, {"replay": str(out), **result}, lambda: offline_table(result, out))
