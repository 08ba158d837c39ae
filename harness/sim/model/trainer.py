"""The learner of `harness.speculator` as a process of the simulated world: real optimiser steps at simulated times."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import simpy

from harness.service import Service
from harness.sim.model.engine import ModelEngine
from harness.sim.model.tracing import trace_of
from harness.sim.trainer import Trainer, TrainerConfig
from harness.speculator.checkpoint import broken
from harness.speculator.learner import Learner
from harness.speculator.texts import Pools, Texts


class ModelTrainer(Trainer):
    """Builds traces of finished requests, trains, vets candidates, measures held-out figures."""

    def __init__(
        self,
        env: simpy.Environment,
        config: TrainerConfig,
        learner: Learner,
        engine: ModelEngine,
        texts: Texts,
        pools: Pools,
        service: Service,
        on_busy: Callable[[bool], None],
    ) -> None:
        super().__init__(env, config, on_busy)
        self.learner = learner
        self._engine = engine
        self._texts = texts
        self._pools = pools
        self._service = service

    def offer(self, done: np.ndarray) -> None:
        for row in done:
            steps = self._engine.verified(int(row["request_id"]))
            if self._plan.on or self.learner.steps:
                self.learner.add(self._trace(row, steps))
        self._update(dropped=self.learner.buffer.dropped, shifts=self.learner.shifts)
        self._nudge()

    def _trace(self, row: Any, steps: list[Any]) -> Any:
        labels = self._engine.labels
        return trace_of(
            int(row["request_id"]), steps, self._texts, self._pools, self.learner.settings,
            labels.domains[row["domain"]], labels.tenants[row["tenant"]],
        )  # fmt: skip

    def _ready(self) -> bool:
        return self.learner.ready()

    def _draw(self) -> None:
        return None

    def _learn(self, batch: None) -> None:
        if len(self.learner.buffer):  # a verifier update may have voided all traces since the step began
            self.learner.step(self._plan)

    def _checkpoint(self) -> None:
        candidate = self.learner.candidate()
        if self._corrupt_next:
            candidate, self._corrupt_next = broken(candidate), False
        verdict = self.learner.vet(candidate, self._service.weights)
        if verdict.ok:
            self._offer_candidate(candidate)
        else:
            self._candidate = None
            self.refusal = verdict.reason
            self._update(candidate=None, quarantined=self.state.quarantined + 1)
        if self.learner.settings.gate:
            self._evaluate()

    def _evaluate(self) -> None:
        """Held-out figures of the serving, static and candidate drafters; Aurora's trainer has none."""
        judge, groups = self.learner.judge, self.learner.present_groups()
        serving = judge.lengths(self._service.weights, groups)
        static = judge.lengths(self._service.static, groups)
        found = judge.lengths(self._candidate, groups) if self._candidate is not None else {}
        self._update(
            heldout_samples={d: s.steps for d, s in serving.items()},
            heldout_serving={d: s.length for d, s in serving.items()},
            heldout_static={d: s.length for d, s in static.items()},
            heldout_candidate={d: s.length for d, s in found.items()},
        )
