"""The simulated trainer: when it trains, on what, and what it can say about its candidate.

What a training step does to acceptance is `learning.LearningCurve`'s affair. This process owns the
bounded trace buffer (and what it drops), the pace, the held-out slice and the checkpoints. Its
`TrainerState` holds estimates drawn from finitely many held-out verify steps, never the truth.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass

import numpy as np
import simpy

from harness.contract import TrainerState, TrainPlan
from harness.errors import InputError
from harness.sim.learning import STEPS_PER_REQUEST, DrafterState, LearningCurve
from harness.sim.service import Service


@dataclass(frozen=True, slots=True)
class TrainerConfig:
    samples_per_second: float = 40.0
    """Requests' traces it can train on per second."""
    samples_per_step: int = 8
    buffer_requests: int | None = None
    buffer_tokens: int = 1 << 19
    """Most traced tokens the buffer holds (a bound in bytes, divided by the bytes of a token)."""
    slowdown: float = 1.0
    """Factor on an engine step's time while it trains on the server's accelerator; 1 with its own."""
    heldout_share: float = 0.1
    """Share of traces never trained on."""
    heldout_window: int = 256
    """Most recent held-out requests kept."""
    checkpoint_steps: int = 10
    """Training steps between candidates."""
    eval_k: int = 5
    """Draft positions that the held-out estimate rolls out."""


class Trainer:
    """Feeds on finished requests, trains by the plan in force, offers checkpoints."""

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
        self._env = env
        self.config = config
        self._curve = curve
        self._domains = domains
        self._rng = rng
        self._service = service
        self._on_busy = on_busy
        self._plan = TrainPlan()
        self._buffer = np.zeros(len(domains))
        self._heldout = np.zeros(len(domains))
        self._wake = env.event()
        self._candidate: DrafterState | None = None
        self._candidate_samples = 0
        self._published_samples = 0
        self._new_heldout = 0
        self._seen_requests = 0
        self._seen_tokens = 0
        self._corrupt_next = False
        self.state = TrainerState(alive=True)
        self.busy_seconds = 0.0
        env.process(self._run())

    # --- what the world tells it ---

    def follow(self, plan: TrainPlan) -> None:
        """Train by this plan from the next step on. InputError for objectives, which only a real trainer has."""
        if plan.objectives:
            raise InputError(
                f"the plan names training objectives {sorted(plan.objectives)}, but the parametric learning curve "
                "does not tell objectives apart; leave them empty"
            )
        self._plan = plan
        self._nudge()

    def offer(self, finished: np.ndarray, tokens: int) -> None:
        """Traces of finished requests, counted per domain, and their tokens in all.

        What the buffer cannot hold is dropped and counted, old and new alike in proportion.
        """
        self._seen_requests += int(finished.sum())
        self._seen_tokens += tokens
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

    def die(self) -> None:
        self._update(alive=False, candidate=None)
        self._candidate = None

    def corrupt_next(self) -> None:
        """The next checkpoint will be broken (fault injection)."""
        self._corrupt_next = True

    @property
    def candidate(self) -> DrafterState | None:
        """The checkpoint that is ready to publish; later training does not touch it."""
        return self._candidate

    def published(self) -> None:
        """The candidate went into service."""
        self._published_samples = self._candidate_samples
        self._candidate = None
        self._update(candidate=None, candidate_samples=0, heldout_candidate={})

    # --- its own life ---

    def _run(self) -> Generator[simpy.Event, object, None]:
        config = self.config
        while self.state.alive:
            if not self._plan.on or self._plan.budget == 0 or self._buffer.sum() < config.samples_per_step:
                self._on_busy(False)
                self._wake = self._env.event()
                yield self._wake
                continue
            batch = self._draw()
            self._on_busy(True)
            seconds = config.samples_per_step / config.samples_per_second
            yield self._env.timeout(seconds / self._plan.budget)
            if not self.state.alive:
                break
            self.busy_seconds += seconds
            self._curve.consume(batch)
            self._update(steps=self.state.steps + 1, samples=self.state.samples + config.samples_per_step)
            if self.state.steps % config.checkpoint_steps == 0:
                self._checkpoint()
        self._on_busy(False)

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

    def _checkpoint(self) -> None:
        candidate = self._curve.candidate()
        if self._corrupt_next:
            candidate, self._corrupt_next = self._curve.corrupted(candidate), False
        self._candidate = candidate
        self._candidate_samples = self.state.samples
        self._update(
            candidate=self.state.steps, candidate_samples=self.state.samples - self._published_samples
        )
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

    def _update(self, **changes: object) -> None:
        fields = {name: getattr(self.state, name) for name in self.state.__dataclass_fields__}
        self.state = TrainerState(**{**fields, **changes})

    def _nudge(self) -> None:
        if not self._wake.triggered:
            self._wake.succeed()
