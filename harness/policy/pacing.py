"""Whether the trainer should run: on while it still improves, off on a plateau or in a peak, on after a shift."""

from __future__ import annotations

import numpy as np

from harness.contract import Observation

QUEUE = 0.1
"""Waiting requests per running one above which requests count as queueing."""

QUEUE_RATE = 0.1
"""Weight of a tick in the share of ticks with a queue."""

LEAST_COST = 0.05
"""Added step time (log factor, upper estimate) below which a trainer is not in the way."""


def queued(observation: Observation) -> bool:
    """Whether requests queue: more wait than a tenth of those that run (and more than one)."""
    return observation.waiting > max(1.0, QUEUE * observation.running)


TRIAL = 20.0
"""Seconds that a trainer of unknown interference stands aside in a peak, then works, and so on."""


class Peaks:
    """Whether a trainer should stand aside: requests queue, and it is slowing the server.

    While it is not known whether it does, it stands aside and works in turns: the difference tells. An
    overload that never ends, or one in which nothing can be told, thus stops no trainer for good.
    """

    def __init__(self) -> None:
        self._queue = 0.0
        self._high = False
        self._since = 0.0

    def in_the_way(self, observation: Observation, interference: tuple[float, float]) -> bool:
        """`interference`: what the trainer at work adds to the server's step time (log factor), and how
        uncertain that is."""
        self._queue += QUEUE_RATE * (queued(observation) - self._queue)
        high = self._queue > (0.2 if self._high else 0.5)
        if high and not self._high:
            self._since = observation.time
        self._high = high
        cost, uncertainty = interference
        if not high or cost + uncertainty <= LEAST_COST:
            return False
        if cost - uncertainty > LEAST_COST:
            return True
        return (observation.time - self._since) // TRIAL % 2 == 0


class TrainerPacing:
    """Pauses when held-out acceptance has stopped improving.

    A plateau: no improvement of `least` for `patience` seconds *and* for as many samples as it took to get
    there, a scale-free rule that suits slow and fast learners. Resumes on a detected shift, on a verifier
    update, and when the mix has moved by `mix_change` in total variation. While requests queue, a trainer
    that takes from the server's step time stands aside.
    """

    def __init__(self, least: float, patience: float, mix_change: float) -> None:
        self._least, self._patience, self._mix_change = least, patience, mix_change
        self._best = 0.0
        self._best_time = 0.0
        self._best_samples = 0
        self._first_samples = 0
        self._level: float | None = None
        self._paused_mix: np.ndarray | None = None
        self._peaks = Peaks()

    def on(
        self, observation: Observation, mix: np.ndarray, shifted: bool, interference: tuple[float, float]
    ) -> bool:
        """Whether to train until the next tick.

        `shifted`: acceptance or verifier changed in this one; `interference`: see `Peaks`."""
        aside = self._peaks.in_the_way(observation, interference)
        moved = self._paused_mix is not None and 0.5 * np.abs(mix - self._paused_mix).sum() > self._mix_change
        if shifted or moved:
            self._restart(observation)
        if self._paused_mix is not None:
            return False
        self._follow(observation)
        samples = observation.trainer.samples
        took = self._best_samples - self._first_samples
        waited = observation.time - self._best_time
        if waited > self._patience and samples - self._best_samples > max(took, 1):
            self._paused_mix = mix.copy()
            return False
        return not aside

    def _restart(self, observation: Observation) -> None:
        self._paused_mix = None
        self._best = 0.0
        self._level = None
        self._best_time = observation.time
        self._best_samples = self._first_samples = observation.trainer.samples

    def _follow(self, observation: Observation) -> None:
        trainer = observation.trainer
        figures = trainer.heldout_candidate if trainer.candidate is not None else trainer.heldout_serving
        values = [v for v in figures.values() if np.isfinite(v)]
        if not values:
            return
        value = sum(values) / len(values)
        self._level = value if self._level is None else self._level + 0.2 * (value - self._level)
        if self._level > self._best * (1.0 + self._least):
            self._best = self._level
            self._best_time = observation.time
            self._best_samples = trainer.samples
