"""Building one cell under acceptance `parametric`."""

from __future__ import annotations

import numpy as np

from harness.errors import InputError
from harness.latency.model import LatencyModel
from harness.policy import Policy, PolicyContext, make
from harness.sim.acceptance import population_acceptance
from harness.sim.cell import (
    Cell,
    context_of,
    engine_config,
    happenings_of,
    known_traffic,
    mean_context,
    priced_latency,
    requests_of,
    trainer_config,
)
from harness.sim.engine import Engine, Labels
from harness.sim.learning import LearningCurve
from harness.sim.source import Parametric
from harness.sim.trainer import TrainerConfig
from harness.sim.world import Sink, SwapConfig, World
from workloads.domains import DomainProfile, load_domains

FIRST = 256
"""Requests of the known traffic that an operator tuned on."""


def build_parametric_world(cell: Cell, sink: Sink, policy: Policy | None = None) -> World:
    """All parts of the cell, wired; `policy` stands in for the one that the cell names."""
    scenario = cell.scenario
    policy = policy or make(cell.policy)
    if "+" in cell.policy:
        raise InputError(
            f"policy {cell.policy!r} names a learner, but the parametric learning curve does not tell learners "
            "apart; use --acceptance model"
        )
    latency = priced_latency(cell, policy)
    profiles = _profiles(cell)
    curve = LearningCurve(list(profiles.values()), start=scenario.drafter)
    engine = _engine(cell, latency, profiles, policy.uses_drafter)
    trainer = trainer_config(scenario, latency) if scenario.trainer.on else None
    context = _context(cell, latency, engine, curve, trainer)
    return World(
        engine=engine,
        policy=policy,
        context=context,
        requests=requests_of(cell),
        happenings=happenings_of(cell),
        source=Parametric(curve, engine, trainer, cell.seed),
        swap=SwapConfig(transfer=scenario.swap.transfer, stall=scenario.swap.stall),
        sink=sink,
    )


def _profiles(cell: Cell) -> dict[str, DomainProfile]:
    """Profiles of the domains a request may have; a trace may bring any known label."""
    known = load_domains()
    names = list(cell.scenario.domains())
    if cell.trace is not None:
        names += [name for name in known if name not in names]
    return {name: known[name] for name in names}


def _engine(cell: Cell, latency: LatencyModel, profiles: dict[str, DomainProfile], drafter: bool) -> Engine:
    labels = Labels(
        domains=tuple(profiles),
        tenants=tuple(t.name for t in cell.scenario.tenants),
        latent_sd=tuple(p.latent_sd for p in profiles.values()),
        slo={t.name: t.slo for t in cell.scenario.tenants},
    )
    return Engine(engine_config(cell, latency, drafter), labels, latency, cell.seed)


def _context(
    cell: Cell, latency: LatencyModel, engine: Engine, curve: LearningCurve, trainer: TrainerConfig | None
) -> PolicyContext:
    """What an operator knows beforehand: the engine, a latency model, and the traffic of the first minutes."""
    share = _first_mix(cell, engine.labels.domains)
    logits = curve.logits(curve.candidate())
    uncond = np.zeros(max(engine.config.max_k, 1))
    for d, weight in enumerate(share):
        if weight > 0:
            uncond += weight * np.array(
                population_acceptance(logits[d], engine.labels.latent_sd[d], len(uncond))
            )
    reached = np.concatenate([[1.0], uncond[:-1]])
    hazards = np.divide(uncond, reached, out=np.zeros_like(uncond), where=reached > 1e-9)
    hazards = np.clip(hazards, 0.0, 1.0)
    return context_of(cell, latency, engine, tuple(hazards.tolist()), _first_context(cell), trainer)


def _first_mix(cell: Cell, domains: tuple[str, ...]) -> np.ndarray:
    """Share of each domain in the first requests of *another* seed: known traffic, not this run's."""
    counts = np.zeros(len(domains))
    for request, _ in zip(known_traffic(cell), range(FIRST), strict=False):
        counts[domains.index(request.domain)] += 1
    return counts / counts.sum()


def _first_context(cell: Cell) -> float:
    """Mean context of a decoding request in the known traffic, tokens."""
    return mean_context([r for r, _ in zip(known_traffic(cell), range(FIRST), strict=False)])
