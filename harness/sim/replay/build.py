"""Building one cell under acceptance `replay`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

import numpy as np

from harness.contract import Request
from harness.errors import InputError
from harness.latency import load as load_latency
from harness.latency.model import LatencyModel
from harness.latency.recorded_trainer import working
from harness.policy import Policy, PolicyContext, make
from harness.rng import stream
from harness.runlog import Run
from harness.sim.cell import Cell, engine_config, mean_context, priced_latency
from harness.sim.engine import EngineConfig, Labels
from harness.sim.replay.hazards import pooled_hazards
from harness.sim.replay.outcomes import Outcomes
from harness.sim.replay.record import (
    events_of,
    lent_settings,
    open_record,
    requests_of,
    run_path,
    static_steps,
    trainer_states,
    verify_steps,
)
from harness.sim.replay.source import ReplayEngine, ReplaySource
from harness.sim.replay.world import ReplayWorld
from harness.sim.world import Sink, SwapConfig

KNOWN = 64
"""Requests of the record that stand for the traffic known beforehand, where it does not say what was told."""

ENGINE_KEYS = {f.name for f in fields(EngineConfig)} - {"drafter_loaded", "prefix_hashes", "max_k"}
CONTEXT_KEYS = {f.name for f in fields(PolicyContext)} - {"predict", "slo", "seed"}


def build_replay_world(cell: Cell, sink: Sink) -> ReplayWorld:
    """All parts of the cell, wired; `cell.policy` names an arm of the recorded run, or meets what `cell.lender` met."""
    path = run_path(cell.acceptance)
    assert path is not None
    run, seed = open_record(path), cell.seed
    settings = lent_settings(run, cell.policy, cell.lender)
    policy = make(str(settings["policy"]))
    latency = priced_latency(cell, policy)
    requests = requests_of(run, seed)[: cell.total]
    config = _engine_config(cell, run, latency, policy.uses_drafter)
    arm = cell.lender or cell.policy
    taught = cell.lender is None or policy.trains
    steps = verify_steps(run, arm, seed)
    if not taught:
        steps = steps[steps["drafter_version"] == 0]
    outcomes = Outcomes(requests, steps, max(config.max_k, 1), seed, static_steps(run, seed))
    labels = _labels(cell, requests)
    return ReplayWorld(
        engine=ReplayEngine(config, labels, latency, seed, outcomes),
        policy=policy,
        context=_context(cell, run, settings, policy, latency, config, labels, requests),
        requests=iter(requests),
        happenings=(),
        source=ReplaySource(),
        swap=SwapConfig(),
        sink=sink,
        events=events_of(run, arm, seed, taught),
        outcomes=outcomes,
        slowdowns=_slowdowns(run, arm, seed, latency) if taught else (),
        trainer_states=trainer_states(run, arm, seed) if taught else (),
    )


def _slowdowns(run: Run, arm: str, seed: int, latency: LatencyModel) -> list[tuple[float, float]]:
    """From when on, and by what factor, the recorded trainer slowed the server: by the share of its time that it
    worked, from one moment that the log knows to the next. None under a latency model that knows no such factor."""
    found = working(run, arm, seed)
    if found is None or latency.interference == 1.0:
        return []
    ends = np.append(found.times[1:], found.times[-1])
    factors = 1.0 + (latency.interference - 1.0) * found.share(found.times, ends - found.times)
    return list(zip(found.times.tolist(), factors.tolist(), strict=True))


def _engine_config(cell: Cell, run: Run, latency: LatencyModel, drafter: bool) -> EngineConfig:
    """The scenario's engine under what the recorded server said of itself (`configuration.engine`)."""
    told: Mapping[str, Any] = (run.info.get("configuration") or {}).get("engine") or {}
    given = {name: told[name] for name in sorted(ENGINE_KEYS & set(told)) if told[name] is not None}
    if drafter and told.get("max_k") is not None:
        given["max_k"] = min(told["max_k"], latency.max_k)
    return replace(engine_config(cell, latency, drafter), **given)


def _labels(cell: Cell, requests: Sequence[Request]) -> Labels:
    slo = {t.name: t.slo for t in cell.scenario.tenants}
    return Labels(
        domains=tuple(sorted({r.domain for r in requests})),
        tenants=tuple(sorted(set(slo) | {r.tenant for r in requests})),
        slo=slo,
    )


def _context(
    cell: Cell,
    run: Run,
    settings: Mapping[str, Any],
    policy: Policy,
    latency: LatencyModel,
    config: EngineConfig,
    labels: Labels,
    requests: Sequence[Request],
) -> PolicyContext:
    """As told to the arm when it was recorded (its settings' `context`), else from the record."""
    told: Mapping[str, Any] = settings.get("context") or {}
    given = {name: told[name] for name in sorted(CONTEXT_KEYS & set(told)) if told[name] is not None}
    if "offline_hazards" not in given and config.max_k:
        given["offline_hazards"] = _first_hazards(run, cell, requests, config.max_k)
    known: dict[str, Any] = {
        "max_batch": config.max_num_seqs,
        "offline_hazards": (),
        "mean_context": mean_context(requests[:KNOWN]),
        "trainer": policy.trains and policy.uses_drafter and cell.scenario.trainer.on,
        "swap_stall": cell.scenario.swap.stall,
        "seed": int(stream(cell.seed, "policy").integers(2**31)),
    } | given
    known["offline_hazards"] = tuple(known["offline_hazards"])
    known["max_k"] = min(given.get("max_k", config.max_k), config.max_k)
    believed = load_latency(cell.policy_latency) if cell.policy_latency else latency
    return PolicyContext(predict=believed.predict, slo=dict(labels.slo), **known)


def _first_hazards(run: Run, cell: Cell, requests: Sequence[Request], depth: int) -> list[float]:
    """Of the first KNOWN requests: this arm's steps, or all arms' where it verified nothing in them."""
    first = [r.request_id for r in requests[:KNOWN]]
    for arm in (cell.lender or cell.policy, None):
        steps = verify_steps(run, arm, cell.seed)
        steps = steps[steps["request_id"].isin(first)]
        if len(steps):
            hazards: list[float] = pooled_hazards(
                steps["k"].to_numpy(), steps["accepted"].to_numpy(), depth
            ).tolist()
            return hazards
    raise InputError(f"{run.path} has no verify step in its first {KNOWN} requests of seed {cell.seed}")
