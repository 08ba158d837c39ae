"""Whether the trainer should run: on while that pays, off when it does not or in a peak, on after a shift."""

from __future__ import annotations

import math

import numpy as np

from harness.contract import Observation
from harness.policy.payback import Payback, Price
from harness.policy.traffic import Traffic

QUEUE = 0.1
"""Waiting requests per running one above which requests count as queueing."""

QUEUE_RATE = 0.1
"""Weight of a tick in the share of ticks with a queue."""

LEAST_COST = 0.05
"""Added step time (log factor, upper estimate) below which a trainer is not in the way."""

SOON, A_WHILE = 5.0, 30.0
"""Seconds over which the requests in the server are averaged to see whether they grow in number."""

CLIMB = 1.5
"""Factor by which they must have grown, beyond their square root (what chance moves them by)."""

CROWD = 0.2
"""Share of the seats (`PolicyContext.max_batch`) below which no number of requests is on its way to a queue."""

SAME_SHIFT = 5.0
"""Seconds within which signs of a shift (mix, acceptance) are of the same one."""

FIRST_PAUSE = 30.0
"""Seconds of the first pause after a shift; each further one is twice as long, up to the policy's patience. Held-out
figures are noisy, and a pause ends what would correct them."""

TRIAL = 20.0
"""Seconds that a trainer of unknown interference stands aside in a peak, then works, and so on."""


def queued(observation: Observation) -> bool:
    """Whether requests queue: more wait than a tenth of those that run (and more than one)."""
    return observation.waiting > max(1.0, QUEUE * observation.running)


class Growth:
    """Whether a crowd gathers: more requests are in the server than a while ago, by more than chance.

    What a server loses while its load climbs to a peak is a backlog that every request of the peak waits for."""

    def __init__(self, seats: int) -> None:
        self._least = CROWD * seats
        self._time: float | None = None
        self._now = self._before = 0.0

    def update(self, observation: Observation) -> bool:
        requests, time = observation.running + observation.waiting, observation.time
        if self._time is None:
            self._now = self._before = requests
        else:
            self._now += -math.expm1((self._time - time) / SOON) * (requests - self._now)
            self._before += -math.expm1((self._time - time) / A_WHILE) * (requests - self._before)
        self._time = time
        return self._now > max(self._least, CLIMB * (self._before + math.sqrt(self._before)))


class Peaks:
    """Whether a trainer should stand aside: requests queue or are about to, and it is slowing the server.

    While it is not known whether it does, it stands aside and works in turns where they queue: the difference tells.
    An overload that never ends, or one in which nothing can be told, thus stops no trainer for good.
    """

    def __init__(self, seats: int) -> None:
        self._queue = 0.0
        self.high = False
        """Whether requests have queued for most of the last ticks."""
        self._since = 0.0
        self._growth = Growth(seats)

    def in_the_way(self, observation: Observation, interference: tuple[float, float]) -> bool:
        """`interference`: what the trainer at work adds to the server's step time (log factor), and how
        uncertain that is."""
        self._queue += QUEUE_RATE * (queued(observation) - self._queue)
        high = self._queue > (0.2 if self.high else 0.5)
        if high and not self.high:
            self._since = observation.time
        self.high = high
        growing = self._growth.update(observation)
        cost, uncertainty = interference
        if cost - uncertainty > LEAST_COST:
            return high or growing
        if not high or cost + uncertainty <= LEAST_COST:
            return False
        return (observation.time - self._since) // TRIAL % 2 == 0


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
            self._payback.restart(observation.time, busy)
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
