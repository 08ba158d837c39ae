"""Building one (arm, seed) cell of a simulation from a scenario: the only place where the parts meet."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from harness.contract import Request
from harness.errors import InputError, require_learning
from harness.latency import load as load_latency
from harness.latency.model import LatencyModel
from harness.policy import Policy, PolicyContext, make
from harness.rng import stream
from harness.sim.acceptance import population_acceptance
from harness.sim.engine import Engine, EngineConfig, Labels
from harness.sim.learning import LearningCurve
from harness.sim.source import Parametric
from harness.sim.trainer import TrainerConfig
from harness.sim.world import Happening, Sink, SwapConfig, World
from workloads.domains import DomainProfile, load_domains
from workloads.generate import apply_trace, generate
from workloads.scenario import Scenario
from workloads.traces import read_trace

DEFAULT_KV_TOKENS = 400_000
"""Used when neither the scenario nor the latency model says what the KV cache holds (assumed)."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One arm under one seed; picklable, so that a worker process can run it."""

    scenario: Scenario
    policy: str
    seed: int
    latency: str
    trace: Path | None = None
    requests: int | None = None
    """Cut the run short after this many requests."""
    prefix_hashes: int = 0
    """Most prefix hashes of one request of the trace."""
    draft: str | None = None
    """`roofline`: an analytic EAGLE-3 head for measured tables that hold no draft passes."""
    policy_latency: str | None = None
    """The latency model that policies are given; None: the simulator's own, so theirs has no error."""

    acceptance: str = "parametric"
    """`parametric`; `model[:NAME]`: a made model and a real learner; `replay:RUN`: as an arm of a run recorded
    it, and `policy` is that arm's name."""

    @property
    def model(self) -> str | None:
        """Name of the made model; None under parametric acceptance."""
        kind, _, name = self.acceptance.partition(":")
        return (name or DEFAULT_MADE_MODEL) if kind == "model" else None

    @property
    def total(self) -> int:
        return self.requests or self.scenario.requests


DEFAULT_MADE_MODEL = "tiny"


def build_world(cell: Cell, sink: Sink) -> World:
    """All parts of the cell, wired."""
    if cell.model is not None:
        require_learning()
        from harness.sim.model.build import build_model_world

        return build_model_world(cell, cell.model, sink)
    if cell.acceptance.startswith("replay:"):
        from harness.sim.replay.build import build_replay_world

        return build_replay_world(cell, sink)
    scenario = cell.scenario
    policy = make(cell.policy)
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


def priced_latency(cell: Cell, policy: Policy) -> LatencyModel:
    """The cell's latency model. InputError when it cannot price what the policy does."""
    latency = load_latency(cell.latency, draft=cell.draft)
    if policy.uses_drafter and not latency.has_drafter:
        raise InputError(
            f"latency model {latency.name} knows no drafter, so policy {cell.policy!r} cannot be priced on it; "
            "add --draft roofline for an analytic one, or use policy 'none'"
        )
    return latency


def requests_of(cell: Cell) -> Iterator[Request]:
    """The cell's requests in order of arrival; the same for every arm of a seed."""
    if cell.trace is not None:
        return apply_trace(cell.scenario, read_trace(cell.trace, seed=cell.seed), cell.seed, cell.total)
    return generate(cell.scenario.model_copy(update={"requests": cell.total}), cell.seed)


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


def engine_config(cell: Cell, latency: LatencyModel, drafter: bool) -> EngineConfig:
    """Defaults, what the latency model implies, and what the scenario overrides."""
    given: dict[str, Any] = cell.scenario.engine.overrides()
    given.pop("tensor_parallel", None)
    config = EngineConfig(
        kv_tokens=latency.kv_capacity_tokens or DEFAULT_KV_TOKENS,
        max_k=min(cell.scenario.max_k, latency.max_k) if drafter else 0,
        drafter_loaded=drafter,
        prefix_hashes=cell.prefix_hashes,
    )
    return replace(config, **given)


def trainer_config(scenario: Scenario, latency: LatencyModel) -> TrainerConfig:
    """Where it shares the server's accelerator and the scenario leaves open what that costs, as the latency model was
    seen to be slowed."""
    t = scenario.trainer
    told = t.own_accelerator or t.interference > 1.0
    return TrainerConfig(
        samples_per_second=t.samples_per_second,
        samples_per_step=t.samples_per_step,
        buffer_requests=t.buffer_requests,
        buffer_tokens=t.buffer_bytes // t.bytes_per_token,
        slowdown=t.interference if told else latency.interference,
    )


def happenings_of(cell: Cell) -> list[Happening]:
    scenario, total = cell.scenario, cell.total
    updates = [
        Happening(int(u.at * total), "verifier_update", u.stall, u.retained, u.kv_invalid)
        for u in scenario.verifier_updates
    ]
    faults = [Happening(int(f.at * total), f.kind) for f in scenario.faults]
    shifts = [Happening(int(s.at * total), "shift", note=s.after) for s in scenario.shifts()]
    return updates + faults + shifts


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


def context_of(
    cell: Cell,
    latency: LatencyModel,
    engine: Engine,
    hazards: tuple[float, ...],
    mean_context: float,
    trainer: TrainerConfig | None,
) -> PolicyContext:
    """The context from what was measured beforehand on known traffic."""
    return PolicyContext(
        max_k=engine.config.max_k,
        max_batch=engine.config.max_num_seqs,
        predict=(load_latency(cell.policy_latency) if cell.policy_latency else latency).predict,
        offline_hazards=hazards,
        mean_context=mean_context,
        trainer=trainer is not None,
        trainer_accelerators=cell.scenario.trainer.price,
        swap_stall=cell.scenario.swap.stall,
        slo=dict(engine.labels.slo),
        seed=int(stream(cell.seed, "policy").integers(2**31)),
        heldout_k=trainer.eval_k if trainer else None,
    )


FIRST = 256
"""Requests of the known traffic that an operator tuned on."""


def _first_mix(cell: Cell, domains: tuple[str, ...]) -> np.ndarray:
    """Share of each domain in the first requests of *another* seed: known traffic, not this run's."""
    counts = np.zeros(len(domains))
    for request, _ in zip(known_traffic(cell), range(FIRST), strict=False):
        counts[domains.index(request.domain)] += 1
    return counts / counts.sum()


def _first_context(cell: Cell) -> float:
    """Mean context of a decoding request in the known traffic, tokens."""
    return mean_context([r for r, _ in zip(known_traffic(cell), range(FIRST), strict=False)])


def mean_context(requests: Sequence[Request]) -> float:
    """Tokens of context of a decoding request, each request weighed by its output tokens."""
    work = sum(r.output_tokens for r in requests)
    return sum((r.prompt_tokens + r.output_tokens / 2) * r.output_tokens for r in requests) / work


def known_traffic(cell: Cell) -> Iterator[Request]:
    return requests_of(replace(cell, seed=cell.seed + 1_000_003))
