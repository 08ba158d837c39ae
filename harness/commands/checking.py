"""`specdrift validate`, `calibrate` and `gate`: is what we say true? Exit code 1 where it is not."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from harness.commands.base import Json, RunDir, answer


def validate(
    measured: Annotated[Path | None, typer.Option(help="Measured serving run (path prefix).")] = None,
    latency: Annotated[str | None, typer.Option(help="Latency model: name or folder of tables.")] = None,
    live: Annotated[
        Path | None,
        typer.Option(metavar="RUN", help="Live run: simulate it again, with its own latency model."),
    ] = None,
    acceptance: Annotated[
        str | None,
        typer.Option(help="With --live: 'replay' (as recorded, the default) or 'model' (learnt anew)."),
    ] = None,
    published: Annotated[bool, typer.Option(help="Check against the published figures instead.")] = False,
    as_json: Json = False,
) -> None:
    """Simulate a measured run, a live one or the published tables, and print the errors."""
    from harness.errors import InputError, UnknownName
    from harness.show.checking import validation_table

    if acceptance not in (None, "replay", "model"):
        raise UnknownName("acceptance of --live", acceptance, ("replay", "model"))
    if live is not None:
        if measured is not None or published:
            raise InputError("--live stands alone: give --measured or --published in a call of its own")
        _validate_live(live, latency, acceptance == "model", as_json)
    if acceptance is not None:
        raise InputError("--acceptance says how a live run is simulated; give --live RUN with it")
    from harness.sim.validate import validate as run

    result = run(measured=measured, latency=latency, published=published)
    answer(as_json, result, lambda: validation_table(result))
    raise typer.Exit(0 if result["ok"] else 1)


def _validate_live(run: Path, latency: str | None, learnt: bool, as_json: bool) -> None:
    from harness.errors import require_learning
    from harness.show.progress import cell_progress
    from harness.show.replayed import curves_table, side_by_side_table
    from harness.validate_learning import validate_learning
    from harness.validate_live import validate_live
    from reports import write_report

    if learnt:
        require_learning()
    validate, table = (validate_learning, curves_table) if learnt else (validate_live, side_by_side_table)
    with cell_progress() as on_cell:
        result = validate(run, latency, on_cell, finish=write_report)
    if not learnt:
        write_report(run)  # shows the side by side
    answer(as_json, result, lambda: table(result))
    raise typer.Exit(0 if result["ok"] else 1)


def calibrate(
    profile: Annotated[Path | None, typer.Option(help="Kernel profile (.jsonl.gz) to fit.")] = None,
    tables: Annotated[
        list[Path] | None, typer.Option(help="Folder of public kernel tables; repeat for more.")
    ] = None,
    kernels: Annotated[bool, typer.Option(help="Measure the GPU at hand into --profile first.")] = False,
    budget: Annotated[float, typer.Option(min=1, help="Seconds for --kernels.")] = 480.0,
    cross: Annotated[
        tuple[str, str] | None, typer.Option(help="Two sources to compare; the second may be roofline:<gpu>.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="Model to compose: <model>[:tpN].")] = None,
    draft: Annotated[
        str | None, typer.Option(help="'roofline': an analytic drafter for tables without one.")
    ] = None,
    engine: Annotated[Path | None, typer.Option(help="Run directory whose whole steps to fit.")] = None,
    out: Annotated[Path | None, typer.Option(help="Write the fitted model (.json, .json.gz).")] = None,
    as_json: Json = False,
) -> None:
    """Fit latency models to measured kernels or steps and print how wrong they are on held-out shapes."""
    from harness.calibrate import calibrate as run
    from harness.show.checking import calibration_table

    result = run(profile, tuple(tables or ()), kernels, cross, model, draft, budget, out, engine)
    answer(as_json, result, lambda: calibration_table(result))
    raise typer.Exit(0 if result["ok"] else 1)


def gate(
    run: RunDir,
    baseline: Annotated[Path | None, typer.Option(help="Baseline JSON; default: the scenario's own.")] = None,
    update: Annotated[bool, typer.Option(help="Write the run as the new baseline.")] = False,
    as_json: Json = False,
) -> None:
    """Hold a run's speedups against a committed baseline: exit 0 pass, 1 regression."""
    from harness.gate import gate as judge
    from harness.gate import write_baseline
    from harness.show.checking import gate_table

    if update:
        written = write_baseline(run, baseline)
        answer(as_json, written, lambda: f"wrote the baseline of scenario {written['scenario']}")
        return
    result = judge(run, baseline)
    answer(as_json, result.as_dict(), lambda: gate_table(result))
    raise typer.Exit(result.exit_code)
