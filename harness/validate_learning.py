"""A live run under the simulator's own learner: the same stream at the same pace, does acceptance go the same way?"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from harness.compare.acceptance_curve import compare_curves
from harness.errors import InputError
from harness.latency.store import believed
from harness.policy import make
from harness.runlog import Run, read_run, write_json
from harness.sim.job import prepare
from harness.sim.replay.record import scenario_of
from harness.sim.simulate import simulate
from workloads.parts import Engine
from workloads.scenario import Scenario

LEARNED = "learned"
"""Folder of the simulation within the live run's directory."""
RESULT = "acceptance-beside.json"


def validate_learning(
    run: Path,
    latency: str | None = None,
    on_cell: Callable[[int, int], None] = lambda done, total: None,
    finish: Callable[[Path], object] = lambda run: None,
    workers: int | None = None,
) -> dict[str, Any]:
    """Simulate the arms of the live run at `run` that draft, under acceptance `model`, into RUN/learned; compare
    acceptance length along the requests, write RUN/acceptance-beside.json and return it.

    Texts, target, first head, learner and policy are those of the live run; its latency model is fitted to the
    run's own steps, and the trainer's pace is the one that it had beside the server. Raises InputError for a run
    whose model the simulator cannot run, or which drafted in no arm.
    """
    live = read_run(Path(run))
    arms = tuple(arm for arm in live.arms if make(arm).uses_drafter)
    if not arms:
        raise InputError(f"no arm of {run} drafts, so there is no acceptance to compare")
    _check_stream(live)
    pace = trainer_pace(live)
    job = prepare(
        _scenario(live, pace),
        policies=arms,
        seeds=live.seeds,
        latency=latency or str(run),
        policy_latency=None if latency else believed(Path(run)),
        acceptance=f"model:{_model(live)}",
        requests=int(live.info["configuration"]["requests"]),
        workers=workers,
    )
    out = Path(run) / LEARNED
    if (out / "run.json").is_file():
        shutil.rmtree(out)
    simulate(job, out, finish=finish, on_cell=on_cell)
    found = {
        "scenario": live.info["scenario"],
        "seeds": list(live.seeds),
        "samples_per_second": pace,
        **compare_curves(live, read_run(out)),
    }
    write_json(Path(run) / RESULT, found)
    return found


def _check_stream(run: Run) -> None:
    """InputError unless the simulator can make the run's requests and texts again."""
    from harness.speculator.texts import OUTPUT_TOKENS

    told = run.info["configuration"]
    for what in ("trace", "prompts"):
        if told.get(what):
            raise InputError(
                f"{run.path} took its {what} from {told[what]}, which its record does not hold; only runs of a "
                "scenario with generated texts can be learnt anew"
            )
    if told.get("temperature"):
        raise InputError(
            f"{run.path} sampled its answers at temperature {told['temperature']:g}; the simulator's texts are greedy"
        )
    if told.get("output_tokens", OUTPUT_TOKENS) != OUTPUT_TOKENS:
        raise InputError(
            f"{run.path} answered with up to {told['output_tokens']} tokens; the simulator's texts have {OUTPUT_TOKENS}"
        )


def trainer_pace(run: Run) -> float | None:
    """Traces a second that the run's trainer was trained on while it was busy; None where none trained."""
    samples = busy = 0.0
    for arm in run.arms:
        for seed in run.seeds:
            told = [d["busy_seconds"] for d in run.events(arm, seed, ("trainer",))["detail"]]
            ticks = list(run.events(arm, seed, ("tick",))["detail"])
            if told and ticks:
                busy += told[-1]
                samples += ticks[-1]["trainer"][1]
    return samples / busy if samples and busy else None


def _scenario(run: Run, pace: float | None) -> Scenario:
    """The run's own, on its engine, with its trainer's pace. Batch and buffer are the learner's own settings, and a
    trainer that names them is refused."""
    scenario = scenario_of(run)
    told: Mapping[str, Any] = run.info["configuration"]["engine"]
    engine = Engine(**{name: told[name] for name in Engine.model_fields if name in told})
    trainer = scenario.trainer
    if pace is not None:
        trainer = type(trainer)(
            on=trainer.on,
            own_accelerator=trainer.own_accelerator,
            interference=trainer.interference,
            servers=trainer.servers,
            samples_per_second=pace,
        )
    return scenario.model_copy(update={"engine": engine, "trainer": trainer})


def _model(run: Run) -> str:
    from harness.speculator.tiny.spec import made_names

    name = str(run.info["configuration"].get("model", {}).get("name"))
    if name not in made_names():
        raise InputError(
            f"{run.path} served {name!r}; the simulator's learner runs made models only: {', '.join(made_names())}"
        )
    return name
