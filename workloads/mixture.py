"""Which domain a request belongs to, as a function of how far the run has come.

Progress 0 is the start of the run, 1 its end. A mixture is a path of domain weights over progress, piecewise
linear between knots; constant, domain after domain, cross-fade and recurrence are all such paths.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Weights = Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Shift:
    """A moment at which the likeliest domain changes."""

    at: float
    """Progress, 0..1."""
    before: str
    after: str


@dataclass(frozen=True, slots=True)
class Mixture:
    """Shares of the domains at each knot of progress, linear in between."""

    names: tuple[str, ...]
    at: NDArray[np.float64]
    """float64[knots], non-decreasing from 0; two equal knots make a jump."""
    shares: NDArray[np.float64]
    """float64[knots, domains], each row sums to 1."""

    def probabilities(self, progress: NDArray[np.float64]) -> NDArray[np.float64]:
        """Shares of the domains at each progress: float64[n] -> float64[n, domains]."""
        right = np.clip(np.searchsorted(self.at, progress, side="right"), 1, len(self.at) - 1)
        left = right - 1
        width = self.at[right] - self.at[left]
        part = np.divide(progress - self.at[left], width, out=np.ones_like(width), where=width > 0)
        part = np.clip(part, 0.0, 1.0)[:, None]
        return self.shares[left] * (1 - part) + self.shares[right] * part

    def choose(self, uniform: NDArray[np.float64], progress: NDArray[np.float64]) -> NDArray[np.int64]:
        """Index into `names` for each request, from one uniform draw each: int64[n]."""
        edges = np.cumsum(self.probabilities(progress), axis=1)[:, :-1]
        return (uniform[:, None] >= edges).sum(axis=1)

    def shifts(self) -> tuple[Shift, ...]:
        """Where the likeliest domain changes, in order; the middle of a cross-fade between two domains."""
        found: list[Shift] = []
        current = int(self.shares[0].argmax())
        for i in range(1, len(self.at)):
            after = int(self.shares[i].argmax())
            if after == current:
                continue
            lead, next_lead = (self.shares[j, current] - self.shares[j, after] for j in (i - 1, i))
            at = self.at[i - 1] + (self.at[i] - self.at[i - 1]) * lead / (lead - next_lead)
            found.append(Shift(float(at), self.names[current], self.names[after]))
            current = after
        return tuple(found)


def constant(weights: Weights) -> Mixture:
    """The same shares throughout."""
    return path([(0.0, weights), (1.0, weights)])


def stages(steps: Sequence[tuple[float, Weights]], fade: float = 0.0) -> Mixture:
    """One mix after the other.

    `steps` are (length, weights); lengths are relative. `fade` is the share of progress over which each
    mix turns linearly into the next, centred on their boundary; 0 jumps.
    """
    lengths = np.array([length for length, _ in steps], dtype=np.float64)
    ends = np.cumsum(lengths) / lengths.sum()
    mixes = [weights for _, weights in steps]
    knots: list[tuple[float, Weights]] = [(0.0, mixes[0])]
    for end, before, after in zip(ends[:-1], mixes[:-1], mixes[1:], strict=True):
        knots += [(end - fade / 2, before), (end + fade / 2, after)]
    return path([*knots, (1.0, mixes[-1])])


def path(knots: Sequence[tuple[float, Weights]]) -> Mixture:
    """Linear between the given (progress, weights); a domain that a knot does not name has share 0 there."""
    names = tuple(dict.fromkeys(name for _, weights in knots for name in weights))
    shares = np.array([[weights.get(name, 0.0) for name in names] for _, weights in knots], dtype=np.float64)
    return Mixture(names, np.array([at for at, _ in knots]), shares / shares.sum(axis=1, keepdims=True))
