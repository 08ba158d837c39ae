"""The trainer of the parametric source: a bounded buffer of counts, and the learning curve as its weights.

Its `TrainerState` holds estimates drawn from finitely many held-out verify steps, never the truth.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import simpy

from harness.contract import TrainPlan
from harness.errors import InputError
from harness.service import Service
from harness.sim.learning import STEPS_PER_REQUEST, DrafterState, LearningCurve
from harness.sim.trainer import Trainer, TrainerConfig


class CurveTrainer(Trainer):
    """What a training step does to acceptance is `learning.LearningCurve`'s affair."""

    def __init__(
        self,
        env: simpy.Environment,
        config: TrainerConfig,
        curve: LearningCurve,
        domains: tuple[str, ...],
        rng: np.random.Generator,
        service: Service,
        on_busy: Callable[[bool], None],
    ) -> None:
        super().__init__(env, config, on_busy)
        self._curve = curve
        self._domains = domains
        self._rng = rng
        self._service = service
        self._buffer = np.zeros(len(domains))
        self._heldout = np.zeros(len(domains))
        self._new_heldout = 0
        self._seen_requests = 0
        self._seen_tokens = 0

    def follow(self, plan: TrainPlan) -> None:
        """As the base; InputError for objectives, which only a real trainer has."""
        if plan.objectives:
            raise InputError(
                f"the plan names training objectives {sorted(plan.objectives)}, but the parametric learning curve "
                "does not tell objectives apart; leave them empty"
            )
        super().follow(plan)

    def offer(self, done: np.ndarray) -> None:
        """What the buffer cannot hold is dropped and counted, old and new alike in proportion."""
        finished = np.bincount(done["domain"], minlength=len(self._domains))
        self._seen_requests += int(finished.sum())
        self._seen_tokens += int(done["prompt"].sum() + done["output"].sum())
        held = self._rng.binomial(finished, self.config.heldout_share)
        self._remember(held)
        if self._new_heldout >= self.config.heldout_window // 4:
            self._evaluate()
        self._buffer += finished - held
        capacity = self._capacity()
        excess = self._buffer.sum() - capacity
        if excess > 0:
            self._buffer *= capacity / self._buffer.sum()
            self._update(dropped=self.state.dropped + round(float(excess)))
        self._nudge()

    def _capacity(self) -> float:
        """Requests that the buffer can hold, at the mean size seen so far."""
        by_tokens = self.config.buffer_tokens * self._seen_requests / max(self._seen_tokens, 1)
        return (
            by_tokens if self.config.buffer_requests is None else min(by_tokens, self.config.buffer_requests)
        )

    def _ready(self) -> bool:
        return bool(self._buffer.sum() >= self.config.samples_per_step)

    def _draw(self) -> np.ndarray:
        """Take one step's samples out of the buffer, by the plan's mix over domains."""
        wanted = np.array(
            [self._plan.domains.get(d, 1.0) if self._plan.domains else 1.0 for d in self._domains]
        )
        weight = self._buffer * wanted
        if weight.sum() <= 0:
            weight = self._buffer
        batch = np.minimum(self.config.samples_per_step * weight / weight.sum(), self._buffer)
        self._buffer -= batch
        return batch

    def _learn(self, batch: np.ndarray) -> None:
        self._curve.consume(batch)

    def _checkpoint(self) -> None:
        candidate = self._curve.candidate()
        if self._corrupt_next:
            candidate, self._corrupt_next = self._curve.corrupted(candidate), False
        self._offer_candidate(candidate)
        self._evaluate()

    def _evaluate(self) -> None:
        """Refresh the held-out estimates of the serving, static and candidate drafters."""
        self._new_heldout = 0
        steps = np.rint(self._heldout * STEPS_PER_REQUEST).astype(int)
        known = {d: int(n) for d, n in zip(self._domains, steps, strict=True) if n > 0}

        def estimate(state: DrafterState) -> dict[str, float]:
            return {
                d: self._curve.heldout(state, d, n, self._rng, self.config.eval_k) for d, n in known.items()
            }

        self._update(
            heldout_samples=known,
            heldout_serving=estimate(self._service.weights),
            heldout_static=estimate(self._service.static),
            heldout_candidate=estimate(self._candidate) if self._candidate is not None else {},
        )

    def _remember(self, held: np.ndarray) -> None:
        """Slide the held-out window: what is new pushes out what is old, in proportion."""
        self._heldout += held
        self._new_heldout += int(held.sum())
        excess = self._heldout.sum() - self.config.heldout_window
        if excess > 0:
            old = np.maximum(self._heldout - held, 0.0)
            if old.sum() > 0:
                self._heldout -= old * min(1.0, excess / old.sum())
