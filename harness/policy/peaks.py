"""Peaks of the load, in which a trainer that slows the server stands aside."""

from __future__ import annotations

import math

from harness.contract import Observation

QUEUE = 0.1
"""Waiting requests per running one above which requests count as queueing."""

QUEUE_RATE = 0.1
"""Weight of a tick in the share of ticks with a queue."""

LEAST_COST = 0.05
"""Added step time (log factor) up to which a trainer is not in the way."""

SOON, A_WHILE = 5.0, 30.0
"""Seconds over which the requests in the server are averaged to see whether they grow in number."""

CLIMB = 1.5
"""Factor by which they must have grown, beyond their square root (what chance moves them by)."""

CROWD = 0.2
"""Share of the seats (`PolicyContext.max_batch`) below which no number of requests is on its way to a queue."""

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
