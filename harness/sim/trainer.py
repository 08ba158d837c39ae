"""A trainer in the simulated world: when it trains, and what it can say about its candidate.

What a training step does is the subclass's affair (`curve_trainer.py`: the parametric learning curve;
`model/trainer.py`: a real drafter, really trained). This process owns the pace, the plan in force and the
hand-over of candidates.
"""

from __future__ import annotations

import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import simpy

from harness.contract import TrainerState, TrainPlan


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


class Trainer(ABC):
    """Feeds on finished requests, trains by the plan in force, offers candidates."""

    def __init__(
        self, env: simpy.Environment, config: TrainerConfig, on_busy: Callable[[bool], None]
    ) -> None:
        self._env = env
        self.config = config
        self._on_busy = on_busy
        self._plan = TrainPlan()
        self._wake = env.event()
        self._candidate: Any = None
        self._candidate_samples = 0
        self._published_samples = 0
        self._corrupt_next = False
        self.state = TrainerState(alive=True)
        self.busy_seconds = 0.0
        self.refusal = ""
        """Why the latest refused candidate was."""
        env.process(self._run())

    # --- what a subclass does ---

    @abstractmethod
    def offer(self, done: np.ndarray) -> None:
        """Traces of the finished requests `done` (rows of `state.SLOT`); call `_nudge` after taking them."""

    @abstractmethod
    def _ready(self) -> bool:
        """Whether there is enough to train on for one step."""

    @abstractmethod
    def _draw(self) -> Any:
        """Take one step's traces by the plan in force."""

    @abstractmethod
    def _learn(self, batch: Any) -> None:
        """One optimiser step on what `_draw` took."""

    @abstractmethod
    def _checkpoint(self) -> None:
        """Set the candidate and its figures from the training weights as they are."""

    # --- what the world tells it ---

    def follow(self, plan: TrainPlan) -> None:
        """Train by this plan from the next step on."""
        self._plan = plan
        self._nudge()

    def sampled(self, done: np.ndarray) -> np.ndarray:
        """Those of the finished requests whose traces the plan wants; the same ones in every arm."""
        if self._plan.sample >= 1.0:
            return done
        draws = [zlib.crc32(int(i).to_bytes(8, "little")) / 2**32 for i in done["request_id"]]
        return done[np.array(draws) < self._plan.sample]

    def die(self) -> None:
        self._update(alive=False, candidate=None)
        self._candidate = None

    def corrupt_next(self) -> None:
        """The next checkpoint will be broken (fault injection)."""
        self._corrupt_next = True

    @property
    def candidate(self) -> Any:
        """The weights that are ready to publish; later training does not touch them. None without any."""
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
            if not self._plan.on or self._plan.budget == 0 or not self._ready():
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
            self._learn(batch)
            self._update(
                busy_seconds=self.busy_seconds,
                steps=self.state.steps + 1,
                samples=self.state.samples + config.samples_per_step,
            )
            if self.state.steps % config.checkpoint_steps == 0:
                self._checkpoint()
        self._on_busy(False)

    def _offer_candidate(self, weights: Any) -> None:
        self._candidate = weights
        self._candidate_samples = self.state.samples
        self._update(
            candidate=self.state.steps, candidate_samples=self.state.samples - self._published_samples
        )

    def _update(self, **changes: object) -> None:
        self.state = replace(self.state, **changes)  # type: ignore[arg-type]

    def _nudge(self) -> None:
        if not self._wake.triggered:
            self._wake.succeed()
