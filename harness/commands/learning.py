"""`specdrift train-policy` and `sweep`: many simulations, to learn from or to compare."""

from __future__ import annotations

import os
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from harness.commands.base import Json, answer


def train_policy(
    scenario: Annotated[
        list[str] | None, typer.Option(help="Scenario name or TOML file to learn on; repeat for more.")
    ] = None,
    latency: Annotated[
        list[str] | None,
        typer.Option(
            help="Latency model to learn on; repeat for more. Default: the scenario's own and others."
        ),
    ] = None,
    requests: Annotated[int, typer.Option(min=1, help="Requests of an episode, at most.")] = 4000,
    ticks: Annotated[int, typer.Option(min=1, help="Control ticks to learn from.")] = 400_000,
    seed: Annotated[int, typer.Option(min=0, help="What is learned follows from it and --workers.")] = 0,
    workers: Annotated[int | None, typer.Option(min=1, help="Simulators; default: all cores.")] = None,
    out: Annotated[Path, typer.Option(help="The policy file.")] = Path("policy.safetensors"),
    as_json: Json = False,
) -> None:
    """Learn a policy by PPO in the simulator; run it as --policy ppo:FILE, simulated or live."""
    from harness.show.learned import learned_table
    from harness.show.progress import stage_progress
    from harness.sim.lesson import DEFAULT_LATENCIES, DEFAULT_SCENARIOS, Lesson, learn

    lesson = Lesson(
        scenarios=tuple(scenario or DEFAULT_SCENARIOS),
        latencies=tuple(latency or DEFAULT_LATENCIES),
        requests=requests,
        ticks=ticks,
        seed=seed,
        processes=workers or os.cpu_count() or 1,
    )
    with stage_progress() as on_step:
        learned = learn(lesson, out, on_step)
    answer(as_json, {"policy": str(out), **learned}, lambda: learned_table(learned, out))


def sweep(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A TOML file with a [grid].")],
    ray: Annotated[
        str | None, typer.Option(help="Address of a Ray cluster, or local; default: processes here.")
    ] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Worker processes; default: all cores.")] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Directory; an unfinished sweep there goes on. Default: runs/sweep-<time>."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Simulate the same arms at every point of a grid; one table, one page, and a run for each point."""
    from harness.show.progress import stage_progress
    from harness.show.swept import sweep_table
    from harness.sweep.grid import points_of, read_sweep
    from harness.sweep.run import run_sweep

    chosen = read_sweep(file)
    points = points_of(chosen)
    out = out or Path("runs") / f"sweep-{datetime.now():%Y%m%d-%H%M%S}"
    with stage_progress() as on_step:
        result = run_sweep(chosen, points, out, workers or os.cpu_count() or 1, ray, on_step)
    answer(as_json, {"sweep": str(out), **result}, lambda: sweep_table(result, out))
