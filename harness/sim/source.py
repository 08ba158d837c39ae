"""Where acceptance comes from: the one interface between the simulated world and what drafts in it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import simpy

from harness.policy import Truth
from harness.rng import stream
from harness.service import Service
from harness.sim.curve_trainer import CurveTrainer
from harness.sim.engine import Engine
from harness.sim.learning import LearningCurve
from harness.sim.trainer import Trainer, TrainerConfig
from harness.sim.truth import TruthTeller


class Source(Protocol):
    """Weights are opaque to the world: it hands on what `start` or a trainer's `candidate` gave it."""

    start: Any
    """The drafter of the beginning, which stays at hand as the static one."""

    def serve(self, engine: Engine, weights: Any, version: int) -> None:
        """Draft with these weights from the next step on."""

    def update_verifier(self, retained: float) -> None:
        """The target changed. `retained` is the scenario's figure, for sources that cannot know it."""

    def trainer(
        self, env: simpy.Environment, service: Service, on_busy: Callable[[bool], None]
    ) -> Trainer | None:
        """A trainer process in this world; None where the scenario has none."""

    def truth(self, engine: Engine, service: Service, candidate: Any, verifier: int) -> Truth:
        """For oracles only. InputError from a source that cannot tell it."""


class Parametric:
    """Hazards and latents fitted to published figures, moved by the learning curve."""

    def __init__(
        self, curve: LearningCurve, engine: Engine, trainer: TrainerConfig | None, seed: int
    ) -> None:
        self.start = curve.candidate()
        self._curve = curve
        self._trainer = trainer
        self._seed = seed
        self._domains = engine.labels.domains
        self._teller = TruthTeller(engine, curve)

    def serve(self, engine: Engine, weights: Any, version: int) -> None:
        engine.set_drafter(self._curve.logits(weights), version)

    def update_verifier(self, retained: float) -> None:
        self._curve.verifier_update(retained)

    def trainer(
        self, env: simpy.Environment, service: Service, on_busy: Callable[[bool], None]
    ) -> Trainer | None:
        if self._trainer is None:
            return None
        rng = stream(self._seed, "trainer")
        return CurveTrainer(env, self._trainer, self._curve, self._domains, rng, service, on_busy)

    def truth(self, engine: Engine, service: Service, candidate: Any, verifier: int) -> Truth:
        newest = service.published.get(service.newest, service.static)
        return self._teller.tell(service.weights, service.static, newest, candidate, verifier)
