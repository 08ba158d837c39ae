"""Whether the trainer should run: on while it still improves, off on a plateau, on again after a shift."""

from __future__ import annotations

import numpy as np

from harness.contract import Observation


class TrainerPacing:
    """Pauses when held-out acceptance has stopped improving.

    A plateau: no improvement of `least` for `patience` seconds *and* for as many samples as it took to get
    there, a scale-free rule that suits slow and fast learners. Resumes on a detected shift, on a verifier
    update, and when the mix has moved by `mix_change` in total variation.
    """

    def __init__(self, least: float, patience: float, mix_change: float) -> None:
        self._least, self._patience, self._mix_change = least, patience, mix_change
        self._best = 0.0
        self._best_time = 0.0
        self._best_samples = 0
        self._first_samples = 0
        self._level: float | None = None
        self._paused_mix: np.ndarray | None = None

    def on(self, observation: Observation, mix: np.ndarray, shifted: bool) -> bool:
        """Whether to train until the next tick. `shifted`: acceptance or verifier changed in this one."""
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
        return True

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
