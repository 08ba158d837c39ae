"""`specdrift live` and `serve`: real vLLM servers on this machine."""

from __future__ import annotations

import sys
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from harness.commands.base import Json, answer

TrainerDevice = Annotated[
    str | None,
    typer.Option(
        help="Where the drafter learns: cpu, cuda:1, ...; default: a GPU with room for it, else the CPU."
    ),
]


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
            help="Time of each arm and seed: as many requests as arrive in it, 50 at least; default: 30."
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
    trainer_device: TrainerDevice = None,
    simulated: Annotated[bool, typer.Option(help="Simulate the run afterwards, side by side.")] = True,
    out: Annotated[
        Path | None, typer.Option(help="Run directory; default: runs/live-<scenario>-<time>.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Run arms against real vLLM servers on this machine; write a run directory with its drift report."""
    from harness.errors import require_learning
    from harness.show.progress import cell_progress, stage_lines
    from harness.show.summary import summary_table
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
        trainer_device=trainer_device,
    )
    out = out or Path("runs") / f"live-{job.scenario.name}-{datetime.now():%Y%m%d-%H%M%S}"
    with cell_progress() as on_cell:
        summary = run(job, out, finish=write_report, on_cell=on_cell, say=stage_lines())
    if simulated:
        validate_live(out)
        write_report(out, None)
    answer(as_json, {"run": str(out), **summary}, lambda: summary_table(summary, out))


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
    trainer_device: TrainerDevice = None,
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
    from harness.live.models import model_spec
    from harness.live.needs import missing_parts
    from harness.live.placement import place
    from harness.live.serve import ServeJob, command_line
    from harness.live.serve import serve as run

    spec = model_spec(model, cache_only=True)
    if not print_flags and (missing := missing_parts(spec)):
        raise MissingPart(f"{model} cannot be served here: " + "; ".join(missing))
    job = ServeJob(
        spec, policy, host, port, max_k, prefix_caching, events, metrics_port,
        placement=place(spec, trainer=trainer_device),
    )  # fmt: skip
    if print_flags:
        link, words = command_line(job)
        print(words)
        where = f" --trainer-device {trainer_device}" if trainer_device else ""
        print(
            f"then: specdrift serve --model {model} --port {port}{where} --attach {link.folder}",
            file=sys.stderr,
        )
        return
    run(job, attach)
