"""Whether further training pays for its trainer: what it gains, for how long, against the price.

*Gain*: growth of the log of the held-out acceptance length per second that the trainer works, over the last few
candidates. At a given K that is the relative gain in tokens per second.
*How long*: until the next shift, when it has to be learnt anew. With n shifts in t seconds and a first guess of
one in `horizon` seconds, that is (horizon + t) / (1 + n) seconds (a Poisson rate under a Gamma prior).
*Price*: what a trainer second costs: accelerators that could serve, and speed where it slows the server down.

Training on pays while worth * gain * how long >= accelerators + worth * slowdown. Both sides are shares of a serving
accelerator: at `worth` 1 a server that is 1% faster is worth as much as 1% of a server.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from harness.contract import STATIC, Observation
from harness.policy.promotion import heldout_difference

LOOKS = 4
"""Candidates seen after the start or a shift before the rate counts as known: the first ones are of the learner's
warm-up, and judged by few held-out texts."""

KEEP = 0.7
"""Weight that a candidate's evidence keeps when the next one is seen: some three are averaged."""

BELOW = 2
"""Candidates in a row that must speak for a pause: held-out figures are noisy."""

RESUME = 1.25
"""Factor on the price for a pause to end of its own accord: no flapping."""

COVERED = 0.5
"""Least share of the traffic mix with held-out texts for figures to speak for it."""


LEAST_PRICE = 0.02
"""Accelerators that a trainer costs at least: a trainer for nothing would never stop."""


@dataclass(frozen=True, slots=True)
class Price:
    """Of a trainer at work, by second: accelerators taken from serving, and the share by which it slows the server."""

    accelerators: float = 0.0
    slowdown: float = 0.0

    def at(self, worth: float) -> float:
        """In accelerators, where speed is worth `worth`."""
        return max(LEAST_PRICE, self.accelerators + worth * self.slowdown)


class Payback:
    """Follows candidates; says whether to go on. `patience` seconds without a figure to judge by are a no, and so
    is a `worth` of 0."""

    def __init__(self, horizon: float, worth: float, patience: float) -> None:
        self._horizon, self._worth, self._patience = horizon, worth, patience
        self._shifts = 0
        self._version: int | None = None
        self._candidate: int | None = None
        self._level = 0.0
        self._busy = 0.0
        self.restart(0.0, 0.0)

    def restart(self, time: float, busy: float) -> None:
        """Forget the rate, at `busy` seconds of training: it has to be found anew."""
        self._looked = time
        self._gained = self._spent = 0.0
        self._looks = self._below = 0
        self._level, self._busy = 0.0, busy

    def look_again(self, time: float) -> None:
        """Go on where a pause began. The rate of then counts on, so two poor candidates begin the next pause."""
        self._looked, self._below = time, 0

    def shift(self, time: float, busy: float) -> None:
        """What was learnt lasted until now."""
        self._shifts += 1
        self.restart(time, busy)

    def lasts(self, time: float) -> float:
        """Seconds until the next shift, as expected at `time`."""
        return (self._horizon + time) / (1 + self._shifts)

    @property
    def rate(self) -> float:
        """Relative gain per busy second; infinite while unknown."""
        return self._gained / self._spent if self._looks >= LOOKS and self._spent > 0 else math.inf

    def resumes(self, time: float, price: Price) -> bool:
        """Whether what it gained at last would pay after all, now that what is learnt has lasted longer."""
        if not RESUME * price.at(self._worth) <= self._worth * self.rate * self.lasts(time) < math.inf:
            return False
        self.look_again(time)
        return True

    def pays(
        self, observation: Observation, busy: float, mix: Mapping[str, float], price: Price, queues: bool
    ) -> bool:
        """Whether to train on. `busy`: seconds of training so far; `mix` weighs domains, empty when unlabelled;
        `queues`: requests wait, so that speed is goodput and worth 1 at least."""
        if self._worth == 0.0:
            return False
        worth = max(self._worth, 1.0) if queues else self._worth
        if self._look(observation, busy, mix):
            poor = worth * self.rate * self.lasts(observation.time) < price.at(worth)
            self._below = self._below + 1 if poor else 0
            self._looked = observation.time
        return self._below < BELOW and observation.time - self._looked <= self._patience

    def _look(self, observation: Observation, busy: float, mix: Mapping[str, float]) -> bool:
        """Take in a candidate not seen before; True if its figures say something."""
        trainer = observation.trainer
        if trainer.candidate is None or trainer.candidate == self._candidate:
            return False
        level = _level(observation, mix)
        if level is None:
            return False
        version = -1 if observation.drafter == STATIC else observation.drafter_version
        if self._version is not None and version != self._version:
            # The candidate seen last serves now; or something older, off which no progress can be read.
            self._level = 0.0 if version > self._version else level
        self._version, self._candidate = version, trainer.candidate
        self._gained = KEEP * self._gained + level - self._level
        self._spent = KEEP * self._spent + max(0.0, busy - self._busy)
        self._level, self._busy = level, busy
        self._looks += 1
        return True


def _level(observation: Observation, mix: Mapping[str, float]) -> float | None:
    """Log of the candidate's held-out acceptance length over the serving drafter's, over the mix."""
    trainer = observation.trainer
    known = [d for d in trainer.heldout_candidate if d in trainer.heldout_serving]
    total = sum(mix.values())
    if total > 0 and sum(mix.get(d, 0.0) for d in known) < COVERED * total:
        return None
    nothing = dict.fromkeys(known, 0.0)
    new = heldout_difference(trainer, trainer.heldout_candidate, nothing, mix, 0.0)
    old = heldout_difference(trainer, trainer.heldout_serving, nothing, mix, 0.0)
    if new is None or old is None or min(new[0], old[0]) <= 0.0:
        return None
    return math.log(new[0] / old[0])
