"""What to simulate, resolved and checked: nothing of it has run yet."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from harness.errors import InputError, UnknownName
from harness.policy import make
from harness.runlog import Run
from harness.sim.build import build_world
from harness.sim.cell import Cell
from harness.sim.replay import record
from workloads.scenario import Scenario, load_scenario
from workloads.traces import read_trace

ACCEPTANCES = ("parametric", "model", "replay")
"""Where acceptance may come from; a name may follow `model:`, a run directory must follow `replay:`."""

DEFAULT_SCENARIO = "domain-shift"
DEFAULT_SEEDS = 5


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
    lenders: Mapping[str, str] = field(default_factory=dict)
    """Under replay: of each policy that is no arm of the run, the arm whose drafter and trainer it meets."""
    keep_steps: bool = True
    workers: int = 1

    @property
    def recorded(self) -> Run | None:
        """The run that is replayed; None under another source of acceptance."""
        return _recorded(self.acceptance)

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
                    lender=self.lenders.get(policy),
                )


def choose(
    scenario: str | None, acceptance: str, first_seed: int = 0, seeds: int | None = None
) -> tuple[Scenario, range | tuple[int, ...]]:
    """The scenario and seeds that are meant: as named, by default those of a replayed run or our own.

    InputError for a scenario beside a replayed run, which brings its own.
    """
    run = _recorded(acceptance)
    count = DEFAULT_SEEDS if seeds is None else seeds
    if run is None:
        return load_scenario(scenario or DEFAULT_SCENARIO), range(first_seed, first_seed + count)
    if scenario is not None:
        raise InputError(f"acceptance {acceptance!r} brings the scenario of its run; leave out {scenario!r}")
    known = tuple(seed for seed in run.seeds if seed >= first_seed)
    chosen = known if seeds is None and known else range(first_seed, first_seed + count)
    return record.scenario_of(run), chosen


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
    lenders: Mapping[str, str] | None = None,
    keep_steps: bool = True,
    workers: int | None = None,
) -> Job:
    """Fill in defaults and refuse, in one sentence, what could not run; nothing is written yet.

    Under acceptance `replay:RUN`, `scenario` is that run's (see `choose`) and `policies` are names of its arms, or have
    one of them in `lenders`.
    """
    if requests is not None and requests < 1:
        raise InputError(f"requests is {requests}; simulate at least 1")
    _check_acceptance(acceptance)
    run = _recorded(acceptance)
    arms = tuple(policies) or _default_arms(scenario, acceptance, run)
    if doubled := [a for a in arms if arms.count(a) > 1]:
        raise InputError(f"policy {doubled[0]!r} is given more than once; each arm must be different")
    if run is not None:
        if trace is not None:
            raise InputError(f"acceptance {acceptance!r} brings the requests of its run; leave out the trace")
        record.check_arms(run, [(lenders or {}).get(arm, arm) for arm in arms], seeds)
        known = max(len(record.requests_of(run, seed)) for seed in seeds)
        requests = min(requests or known, known)
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
        lenders=dict(lenders or {}),
        prefix_hashes=hashes,
        keep_steps=keep_steps,
        workers=workers or min(os.cpu_count() or 1, len(arms) * len(seeds)),
    )
    for cell in list(job.cells())[: len(arms)]:
        build_world(cell, _Nowhere())
    return job


def _check_acceptance(acceptance: str) -> None:
    if acceptance.partition(":")[0] not in ACCEPTANCES or acceptance.startswith("parametric:"):
        raise UnknownName("acceptance source", acceptance, ACCEPTANCES)


def _recorded(acceptance: str) -> Run | None:
    path = record.run_path(acceptance)
    return None if path is None else record.open_record(path)


def _default_arms(scenario: Scenario, acceptance: str, run: Run | None) -> tuple[str, ...]:
    """The scenario's, or the replayed run's; only parametric acceptance can tell an oracle the truth."""
    if run is not None:
        return record.default_arms(run)
    if acceptance == ACCEPTANCES[0]:
        return scenario.arms
    return tuple(arm for arm in scenario.arms if not make(arm).needs_truth)


def _split(latency: str, ranks: int | None) -> str:
    """The latency model's name for a target split over `ranks` accelerators; only rooflines know how."""
    if ranks is None or ranks == 1 or latency.endswith(f":tp{ranks}"):
        return latency
    if (Path(latency) / "run.json").exists():  # recorded from a run, so split as that one was
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


class _Nowhere:
    """A sink for worlds that are only built, never run."""

    def name(self, labels: object) -> None: ...
    def step_rows(self, rows: object) -> None: ...
    def request_rows(self, rows: object) -> None: ...
    def events(self, events: object) -> None: ...
