"""The `model` source: a made tiny model, its pretrained head, and the learner, wired for one cell."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import simpy
import torch

from harness.contract import Request
from harness.errors import InputError
from harness.policy import Truth
from harness.service import Service
from harness.sim.engine import Engine
from harness.sim.model.engine import ModelEngine
from harness.sim.model.tables import Tables
from harness.sim.model.trainer import ModelTrainer
from harness.sim.trainer import Trainer, TrainerConfig
from harness.speculator import draft_model
from harness.speculator.checkpoint import Snapshot, snapshot
from harness.speculator.drafters.base import Drafter
from harness.speculator.drafters.eagle3 import Eagle3
from harness.speculator.drafters.llama import LlamaDrafter
from harness.speculator.drafters.registry import make_drafter
from harness.speculator.learner import Learner
from harness.speculator.settings import LearnerSettings
from harness.speculator.texts import Pools, Texts, pool_size, tell
from harness.speculator.tiny import vllm_head
from harness.speculator.tiny.make import TinyModel, made_model

NOTE = (
    "a tiny target and its real drafter, trained for real on the texts of the run (specdrift make-model); "
    "requests have these texts' lengths (shorter than the scenario's), arrivals are the scenario's; "
    "what a drafter keeps after a verifier update is the successor's doing, not `retained`"
)


@dataclass(frozen=True)
class ModelParts:
    """All that a cell needs of the made model."""

    pools: Pools
    texts: Texts
    drafter: Drafter
    tables: Tables
    start: Snapshot
    fresh: bool
    """Whether the drafter begins from nothing."""


def load_parts(
    name: str,
    kind: str,
    requests: Iterator[Request],
    total: int,
    updates: list[int],
    seed: int,
    start: str,
    max_k: int,
) -> ModelParts:
    """Make or load the model and deal the run's texts. `kind` of drafter; `start`: pretrained or untrained."""
    torch.set_num_threads(1)  # one cell a process: more threads would only wait for each other
    model = made_model(name, progress=_tell_stage)
    pools = Pools(model, pool_size(total))
    texts = Texts(pools, requests, updates, seed)
    drafter = first_drafter(kind, model, pools, start, seed)
    embeddings = [pools.target(v).embedding for v in range(2 if updates else 1)]
    shadow = first_drafter(kind, model, pools, start, seed)
    tables = Tables(shadow, texts, embeddings, max_k)
    fresh = kind != Eagle3.kind or start != "pretrained"
    return ModelParts(pools, texts, drafter, tables, snapshot(drafter), fresh)


def _tell_stage(stage: str, done: int, total: int) -> None:
    if done == 1:
        tell(f"making the model: {stage} ({total} steps)")


def first_drafter(kind: str, model: TinyModel, pools: Pools, start: str, seed: int) -> Drafter:
    """The model's own drafter (kind `eagle3`, the default, whatever it is), pretrained on the first domain; one that
    knows nothing for `untrained` or another kind."""
    target, alone = pools.target(0), model.record.get("drafter") == LlamaDrafter.kind
    if alone and kind == Eagle3.kind and start != "pretrained":
        return draft_model.untrained(model.head, target, seed)
    own = draft_model.load(model.head, target) if alone else vllm_head.load(model.head, target)
    if kind == Eagle3.kind and start == "pretrained":
        return own
    fresh = make_drafter(kind, target, own.vocabulary, seed)
    with torch.no_grad():
        for rows in fresh.heads() if kind == Eagle3.kind else ():
            rows.normal_(std=0.02, generator=torch.Generator().manual_seed(seed))
    return fresh


def offline_hazards(parts: ModelParts, known: Texts, k: int) -> list[float]:
    """Conditional acceptance by position of the drafter of the start, on texts of traffic known beforehand."""
    tables = Tables(parts.drafter, known, [parts.pools.target(0).embedding], k)
    ids = range(len(known))
    found: list[int] = []
    for i, table in zip(ids, tables.of(list(ids)), strict=True):
        begin = known.requests[i].prompt_tokens - 1 - table.start
        found += table.accepted[begin : len(known.tokens(i)) - 2 - table.start]
    counts = np.array(found)
    reached = [max(1, int((counts >= j).sum())) for j in range(k)]
    return [float((counts > j).sum()) / reached[j] for j in range(k)]


class ModelSource:
    """See `source.Source`."""

    def __init__(
        self,
        parts: ModelParts,
        engine: ModelEngine,
        trainer: TrainerConfig | None,
        settings: LearnerSettings,
        seed: int,
    ) -> None:
        self.start = parts.start
        self._parts = parts
        self._engine = engine
        self._config = trainer
        self._settings = settings
        self._seed = seed
        self._verifier = 0
        self.learner: Learner | None = None

    def serve(self, engine: Engine, weights: Any, version: int) -> None:
        self._parts.tables.use(weights)
        engine.state.reg[0]["drafter_version"] = version

    def update_verifier(self, retained: float) -> None:
        """The successor serves. What its drafter keeps is not told by the scenario here: it is what it is."""
        self._verifier += 1
        if self.learner is not None:
            target = self._parts.pools.target(self._verifier)
            self.learner.set_verifier(self._verifier, target.head, target.embedding)

    def trainer(
        self, env: simpy.Environment, service: Service, on_busy: Callable[[bool], None]
    ) -> Trainer | None:
        if self._config is None:
            return None
        parts, s = self._parts, self._settings
        self.learner = Learner(parts.drafter, parts.pools.target(0).head, s, self._seed, parts.fresh)
        config = replace(
            self._config,
            samples_per_step=s.batch,
            checkpoint_steps=s.checkpoint_steps,
            eval_k=s.eval_k,
        )
        return ModelTrainer(
            env, config, self.learner, self._engine, parts.texts, parts.pools, service, on_busy
        )

    def truth(self, engine: Engine, service: Service, candidate: Any, verifier: int) -> Truth:
        raise InputError("acceptance 'model' cannot tell an oracle the truth; leave oracles out")
