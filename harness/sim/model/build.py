"""Building one cell under acceptance `model`."""

from __future__ import annotations

from dataclasses import replace

from harness.errors import InputError
from harness.latency.model import LatencyModel
from harness.policy import Policy, PolicyContext, make
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
from harness.sim.engine import Labels
from harness.sim.model.engine import ModelEngine
from harness.sim.model.source import ModelParts, ModelSource, load_parts, offline_hazards
from harness.sim.trainer import TrainerConfig
from harness.sim.world import Sink, SwapConfig, World
from harness.speculator.drafters.registry import trains
from harness.speculator.settings import LearnerSettings, learner
from harness.speculator.texts import known_texts

LEARNERS_OWN = {"samples_per_step", "buffer_requests", "buffer_bytes", "bytes_per_token"}
"""Keys of `[trainer]` that describe what the learner itself decides here."""


KNOWN_TEXTS = 64
"""Texts that an operator measured on before the run."""


def build_model_world(cell: Cell, model: str, sink: Sink) -> World:
    """All parts of the cell, wired. The model is made first where the cache has none."""
    policy, scenario = make(cell.policy), cell.scenario
    if cell.trace is not None:
        raise InputError("acceptance 'model' makes its own texts, so it cannot follow the lengths of a trace")
    if given := LEARNERS_OWN & scenario.trainer.model_fields_set:
        raise InputError(
            f"the scenario's trainer sets {', '.join(sorted(given))}; under acceptance 'model' batch and buffer are "
            "settings of the learner (harness/speculator/learners.toml)"
        )
    if policy.needs_truth:
        raise InputError(
            f"acceptance 'model' cannot tell oracle {cell.policy!r} the truth; leave oracles out"
        )
    latency = priced_latency(cell, policy)
    settings = learner(policy.learner)
    happenings = happenings_of(cell)
    updates = [h.at_request for h in happenings if h.kind == "verifier_update"]
    config = engine_config(cell, latency, policy.uses_drafter)
    parts = load_parts(
        model,
        settings.drafter,
        requests_of(cell),
        cell.total,
        updates,
        cell.seed,
        scenario.drafter,
        max(config.max_k, 1),
    )
    engine = ModelEngine(config, _labels(cell, parts), latency, cell.seed, parts.tables)
    trainer = _trainer(cell, policy, settings, latency)
    return World(
        engine=engine,
        policy=policy,
        context=_context(cell, latency, engine, parts, trainer),
        requests=iter(parts.texts.requests),
        happenings=happenings,
        source=ModelSource(parts, engine, trainer, settings, cell.seed),
        swap=SwapConfig(transfer=scenario.swap.transfer, stall=scenario.swap.stall),
        sink=sink,
    )


def _labels(cell: Cell, parts: ModelParts) -> Labels:
    return Labels(
        domains=tuple(sorted({r.domain for r in parts.texts.requests})),
        tenants=tuple(t.name for t in cell.scenario.tenants),
        slo={t.name: t.slo for t in cell.scenario.tenants},
    )


def _trainer(
    cell: Cell, policy: Policy, settings: LearnerSettings, latency: LatencyModel
) -> TrainerConfig | None:
    if not (cell.scenario.trainer.on and policy.trains and trains(settings.drafter)):
        return None
    return replace(trainer_config(cell.scenario, latency), eval_k=settings.eval_k)


def _context(
    cell: Cell, latency: LatencyModel, engine: ModelEngine, parts: ModelParts, trainer: TrainerConfig | None
) -> PolicyContext:
    """From texts of known traffic, of another seed: nothing of this run's own requests."""
    k = engine.config.max_k
    known = known_texts(parts.pools, known_traffic(cell), KNOWN_TEXTS, cell.seed + 1)
    hazards = offline_hazards(parts, known, k) if k else []
    return context_of(cell, latency, engine, tuple(hazards), mean_context(known.requests), trainer)
