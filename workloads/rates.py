"""Arrival rates that change with time, and the change of clock that turns them into arrivals.

Any process of mean gap 1 in *operational* time u becomes one of rate r(t) by t = R^-1(u), where
R(t) is the integral of r from 0 to t (time rescaling; for a Poisson process this is exact, for other
renewal processes it defines the modulated process). So a curve only has to invert its integral.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


class RateCurve(Protocol):
    """A rate in requests per second over times from 0 on."""

    def inverse(self, operational: Floats) -> Floats:
        """Times at which the integral of the rate reaches `operational` (float64[n] -> float64[n])."""


@dataclass(frozen=True, slots=True)
class ConstantRate:
    """The same rate for ever, in requests per second."""

    rate: float

    def inverse(self, operational: Floats) -> Floats:
        return operational / self.rate


@dataclass(frozen=True, slots=True)
class PiecewiseRate:
    """Pieces over which the rate runs linearly from `first[i]` to `last[i]`; jumps between pieces are
    allowed.

    With `repeat` the pieces start over when they end; without, the last rate holds for ever and
    must not be 0.
    """

    seconds: Floats
    """float64[pieces], each > 0."""
    first: Floats
    last: Floats
    repeat: bool = False

    def inverse(self, operational: Floats) -> Floats:
        area = np.concatenate(([0.0], np.cumsum(self.seconds * (self.first + self.last) / 2)))
        start = np.concatenate(([0.0], np.cumsum(self.seconds)))
        laps = np.floor(operational / area[-1]) if self.repeat else np.zeros_like(operational)
        rest = operational - laps * area[-1]
        piece = np.clip(np.searchsorted(area, rest, side="right") - 1, 0, len(self.seconds) - 1)
        piece = self._skip_silent(piece)
        inside = np.clip(rest - area[piece], 0.0, area[piece + 1] - area[piece])
        times = laps * start[-1] + start[piece] + self._within(piece, inside)
        if self.repeat:
            return times
        return times + np.maximum(rest - area[-1], 0.0) / self.last[-1]

    def _skip_silent(self, piece: NDArray[np.intp]) -> NDArray[np.intp]:
        """Rounding at the end of the pieces may point into one without area; step back to one that has
        some."""
        loud = np.maximum.accumulate(np.where(self.first + self.last > 0, np.arange(len(self.seconds)), -1))
        return np.where(loud[piece] >= 0, loud[piece], piece)

    def _within(self, piece: NDArray[np.intp], area: Floats) -> Floats:
        """Seconds into the piece at which its integral is `area`: the root of slope/2 x^2 + first x =
        area."""
        first, seconds = self.first[piece], self.seconds[piece]
        slope = (self.last[piece] - first) / seconds
        denominator = first + np.sqrt(np.maximum(first * first + 2 * slope * area, 0.0))
        x = np.divide(2 * area, denominator, out=np.zeros_like(area), where=denominator > 0)
        return np.minimum(x, seconds)


@dataclass(frozen=True, slots=True)
class SinusoidalRate:
    """r(t) = rate * (1 + amplitude * sin(2 pi t / period)), 0 <= amplitude <= 1."""

    rate: float
    amplitude: float
    period: float

    def inverse(self, operational: Floats) -> Floats:
        laps = np.floor(operational / (self.rate * self.period))
        rest = operational / self.rate - laps * self.period
        low, high = np.zeros_like(rest), np.full_like(rest, self.period)
        omega = 2 * np.pi / self.period
        for _ in range(52):  # halving the period 52 times leaves no more than its rounding error
            middle = (low + high) / 2
            below = middle + self.amplitude / omega * (1 - np.cos(omega * middle)) < rest
            low, high = np.where(below, middle, low), np.where(below, high, middle)
        return laps * self.period + (low + high) / 2
