"""The face: parse, call, print. No logic lives here.

Exit codes: 0 good, 1 a gate or check failed, 2 bad input or a missing part.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from harness.errors import SpecdriftError

app = typer.Typer(
    name="specdrift",
    help="Simulate, run live and judge online-adaptive speculative decoding.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
RunDir = Annotated[Path, typer.Argument(metavar="RUN", help="A run directory.")]


@app.command()
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
    from harness.show import cell_progress, summary_table
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
    _answer(as_json, {"run": str(out), **summary}, lambda: summary_table(summary, out))


@app.command()
def live(
    model: Annotated[str, typer.Option(help="tiny, small, a name of models.toml, a folder.")] = "tiny",
    scenario: Annotated[str, typer.Option(help="Scenario name or TOML file.")] = "domain-shift",
    policy: Annotated[list[str] | None, typer.Option(help="An arm, e.g. static:3; repeat for more.")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="How many paired seeds.")] = 2,
    seed: Annotated[int, typer.Option(min=0, help="The first seed.")] = 0,
    requests: Annotated[
        int | None, typer.Option(min=1, help="Requests of each arm and seed; default: see --seconds.")
    ] = None,
    seconds: Annotated[
        float | None,
        typer.Option(
            help="Time of each arm and seed: as many requests as arrive in it, 110 at least; default: 30."
        ),
    ] = None,
    load: Annotated[
        float | None,
        typer.Option(help="Factor on arrival rates, above 0; default: see --utilisation."),
    ] = None,
    utilisation: Annotated[
        float | None,
        typer.Option(help="Offered load as a share of what this server does without drafts; default: 0.25."),
    ] = None,
    max_k: Annotated[int | None, typer.Option(min=1, help="Largest number of draft tokens.")] = None,
    trace: Annotated[Path | None, typer.Option(help="Trace file: supplies arrivals.")] = None,
    prompts: Annotated[
        Path | None,
        typer.Option(
            help="Your prompts, a line of JSON each: domain, and prompt or messages; default: generated texts."
        ),
    ] = None,
    output_tokens: Annotated[int | None, typer.Option(help="Most tokens of an answer; default: 64.")] = None,
    temperature: Annotated[float, typer.Option(help="Sample answers at this temperature; 0: greedy.")] = 0.0,
    simulated: Annotated[bool, typer.Option(help="Simulate the run afterwards, side by side.")] = True,
    out: Annotated[
        Path | None, typer.Option(help="Run directory; default: runs/live-<scenario>-<time>.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Run arms against real vLLM servers on this machine; write a run directory with its drift report."""
    from harness.errors import require_learning
    from harness.show import cell_progress, stage_lines, summary_table
    from workloads.scenario import load_scenario

    require_learning()
    from harness.live.job import prepare
    from harness.live.run import live as run
    from harness.validate_live import validate_live
    from reports import write_report

    job = prepare(
        load_scenario(scenario),
        model=model,
        policies=policy or (),
        seeds=range(seed, seed + seeds),
        requests=requests,
        seconds=seconds,
        load=load,
        utilisation=utilisation,
        max_k=max_k,
        trace=trace,
        prompts=prompts,
        output_tokens=output_tokens,
        temperature=temperature,
    )
    out = out or Path("runs") / f"live-{job.scenario.name}-{datetime.now():%Y%m%d-%H%M%S}"
    with cell_progress() as on_cell:
        summary = run(job, out, finish=write_report, on_cell=on_cell, say=stage_lines())
    if simulated:
        validate_live(out)
        write_report(out, None)
    _answer(as_json, {"run": str(out), **summary}, lambda: summary_table(summary, out))


@app.command()
def serve(
    model: Annotated[str, typer.Option(help="tiny, small, a name of models.toml, a folder.")] = "tiny",
    policy: Annotated[
        str, typer.Option(help="Who decides how much to draft, and when to publish.")
    ] = "bandit",
    host: Annotated[
        str, typer.Option(help="Interface to answer on; default: this machine only.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to answer on.")] = 8000,
    max_k: Annotated[int, typer.Option(min=1, help="Largest number of draft tokens.")] = 5,
    prefix_caching: Annotated[bool, typer.Option(help="Reuse the KV of shared prompts.")] = True,
    events: Annotated[
        Path | None, typer.Option(help="Append every event to this file, a line of JSON each.")
    ] = None,
    metrics_port: Annotated[
        int | None,
        typer.Option(min=1, max=65535, help="Answer Prometheus at this port, /metrics; default: nowhere."),
    ] = None,
    print_flags: Annotated[
        bool, typer.Option("--print-flags", help="Print how to start the server by hand, and start nothing.")
    ] = False,
    attach: Annotated[
        Path | None,
        typer.Option(help="Link folder of a server that was started by hand (see --print-flags)."),
    ] = None,
) -> None:
    """Serve a model with vLLM; its drafter learns from the traffic. Until interrupted."""
    from harness.errors import MissingPart, require_learning

    require_learning()
    from harness.live.models import missing_parts, model_spec
    from harness.live.serve import ServeJob, command_line
    from harness.live.serve import serve as run

    job = ServeJob(
        model_spec(model, cache_only=True), policy, host, port, max_k, prefix_caching, events, metrics_port
    )
    if print_flags:
        link, words = command_line(job)
        print(words)
        print(f"then: specdrift serve --model {model} --port {port} --attach {link.folder}", file=sys.stderr)
        return
    if missing := missing_parts(job.model):
        raise MissingPart(f"{model} cannot be served here: " + "; ".join(missing))
    run(job, attach)


@app.command()
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
    from harness.show import validation_table

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
    _answer(as_json, result, lambda: validation_table(result))
    raise typer.Exit(0 if result["ok"] else 1)


def _validate_live(run: Path, latency: str | None, learnt: bool, as_json: bool) -> None:
    from harness.errors import require_learning
    from harness.show import cell_progress, curves_table, side_by_side_table
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
    _answer(as_json, result, lambda: table(result))
    raise typer.Exit(0 if result["ok"] else 1)


@app.command()
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
    from harness.show import calibration_table

    result = run(profile, tuple(tables or ()), kernels, cross, model, draft, budget, out, engine)
    _answer(as_json, result, lambda: calibration_table(result))
    raise typer.Exit(0 if result["ok"] else 1)


@app.command()
def report(
    run: RunDir,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="HTML file; default: RUN/report.html.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Draw the HTML drift report of a run."""
    from reports import write_report

    path = write_report(run, out)
    _answer(as_json, {"report": str(path)}, lambda: str(path))


@app.command()
def gate(
    run: RunDir,
    baseline: Annotated[Path | None, typer.Option(help="Baseline JSON; default: the scenario's own.")] = None,
    update: Annotated[bool, typer.Option(help="Write the run as the new baseline.")] = False,
    as_json: Json = False,
) -> None:
    """Hold a run's speedups against a committed baseline: exit 0 pass, 1 regression."""
    from harness.gate import gate as judge
    from harness.gate import write_baseline
    from harness.show import gate_table

    if update:
        written = write_baseline(run, baseline)
        _answer(as_json, written, lambda: f"wrote the baseline of scenario {written['scenario']}")
        return
    result = judge(run, baseline)
    _answer(as_json, result.as_dict(), lambda: gate_table(result))
    raise typer.Exit(result.exit_code)


@app.command()
def recovery(
    run: RunDir,
    over: Annotated[
        str | None, typer.Option(help="Arm to compare with; default: the first that never swaps.")
    ] = None,
    level: Annotated[
        float | None, typer.Option(help="Also count requests until acceptance length first stands here.")
    ] = None,
    as_json: Json = False,
) -> None:
    """How fast each arm's drafter recovered from the shifts of a run, and how deep it dipped."""
    from harness.compare.recovery import recovery as measure
    from harness.runlog import read_run
    from harness.show import recovery_table

    found = measure(read_run(run), over, level)
    _answer(as_json, found, lambda: recovery_table(found))


@app.command()
def curve(
    run: RunDir,
    every: Annotated[int, typer.Option(min=1, help="Requests of one row.")] = 100,
    over: Annotated[
        str | None, typer.Option(help="Arm to compare with; default: none, else the first.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Speedup and acceptance length of each arm as requests went by."""
    from harness.compare.by_requests import by_requests
    from harness.runlog import read_run
    from harness.show import curve_table

    found = by_requests(read_run(run), every, over)
    _answer(as_json, found, lambda: curve_table(found))


@app.command("make-model")
def make_model(
    name: Annotated[str, typer.Argument(help="tiny or small.")],
    seed: Annotated[int, typer.Option(min=0, help="Everything of the model follows from it.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Folder; default: the cache.")] = None,
    as_json: Json = False,
) -> None:
    """Make a small target, its tokenizer, an EAGLE-3 head and a fine-tuned successor on this machine."""
    from harness.errors import require_learning
    from harness.show import made_table, stage_progress

    require_learning()
    from harness.speculator.tiny.make import made_model

    with stage_progress() as on_step:
        made = made_model(name, seed, out, on_step)
    found = {"folder": str(made.folder), **made.record}
    _answer(as_json, found, lambda: made_table(found))


@app.command()
def doctor(as_json: Json = False) -> None:
    """Say what is installed and what would run here."""
    from harness.doctor import examine
    from harness.show import doctor_table

    findings = examine()
    _answer(as_json, findings, lambda: doctor_table(findings))


def _answer(as_json: bool, data: Any, readable: Any) -> None:
    """Print one JSON object, or what `readable()` returns, on standard output."""
    if as_json:
        print(json.dumps(data, allow_nan=False))
        return
    from rich.console import Console

    Console().print(readable())


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line; errors of the user become one sentence on standard error and exit code 2."""
    try:
        app(args=argv)
    except SpecdriftError as error:
        print(f"specdrift: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
