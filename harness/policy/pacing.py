"""Whether the trainer should run: on while that pays, off when it does not or in a peak, on after a shift."""

from __future__ import annotations

import math

import numpy as np

from harness.contract import Observation
from harness.policy.payback import Payback, Price
from harness.policy.peaks import Peaks
from harness.policy.traffic import Traffic

SAME_SHIFT = 5.0
"""Seconds within which signs of a shift (mix, acceptance) are of the same one."""

FIRST_PAUSE = 30.0
"""Seconds of the first pause after a shift; each further one is twice as long, up to the policy's patience. Held-out
figures are noisy, and a pause ends what would correct them."""


class TrainerPacing:
    """Trains while that pays (`payback.py`), and not in a peak that the trainer makes worse.

    Resumes on a shift, a verifier update, when the mix has moved by `mix_change` in total variation since the
    pause, and for another look after a time that grows from pause to pause up to `patience` seconds.
    """

    def __init__(
        self, payback: Payback, accelerators: float, seats: int, patience: float, mix_change: float
    ) -> None:
        self._payback = payback
        self._accelerators, self._patience, self._mix_change = accelerators, patience, mix_change
        self._paused: tuple[float, np.ndarray] | None = None
        self._pause = FIRST_PAUSE
        self._last_shift = -math.inf
        self._peaks = Peaks(seats)
        self._worked = 0.0
        self._time = 0.0

    def on(
        self,
        observation: Observation,
        traffic: Traffic,
        shifted: bool,
        interference: tuple[float, float],
    ) -> bool:
        """Whether to train until the next tick.

        `shifted`: acceptance, mix or verifier changed in this one; `interference`: see `Peaks`."""
        aside = self._peaks.in_the_way(observation, interference)
        busy = self._busy(observation, not aside)
        if self._shift(observation.time, traffic.slow_mix, shifted):
            self._payback.shift(observation.time, busy)
            self._paused, self._pause = None, FIRST_PAUSE
        elif self._pause_over(observation.time):
            self._payback.look_again(observation.time)
            self._paused, self._pause = None, 2.0 * self._pause
        price = Price(self._accelerators, math.expm1(max(0.0, interference[0])))
        if self._paused is not None:
            if not self._payback.resumes(observation.time, price):
                return False
            self._paused = None
        mix = traffic.domain_mix()
        if not self._payback.pays(observation, busy, mix, price, self._peaks.high):
            self._paused = (observation.time, traffic.slow_mix.copy())
            return False
        return not aside

    def _pause_over(self, time: float) -> bool:
        return self._paused is not None and time - self._paused[0] >= min(self._pause, self._patience)

    def _shift(self, time: float, mix: np.ndarray, shifted: bool) -> bool:
        """Whether this is a shift; several signs of the same one count once."""
        moved = self._paused is not None and 0.5 * np.abs(mix - self._paused[1]).sum() > self._mix_change
        if not (shifted or moved) or time - self._last_shift < SAME_SHIFT:
            return False
        self._last_shift = time
        return True

    def _busy(self, observation: Observation, on: bool) -> float:
        """Seconds of training so far; the time it was told to train where it does not tell them."""
        if self._paused is None and on:
            self._worked += max(0.0, observation.time - self._time)
        self._time = observation.time
        return observation.trainer.busy_seconds or self._worked
