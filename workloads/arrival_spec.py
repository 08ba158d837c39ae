"""The `[arrivals]` table of a scenario: which arrival process, with which rates. Rates are requests per
second."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import cycle
from typing import Annotated, Literal

import numpy as np
from pydantic import Field, model_validator

from harness.rng import stream
from workloads.arrivals import ClientWindow, Gaps, Law, markov_modulated, renewal, superpose
from workloads.parts import Part, Positive
from workloads.rates import Floats, PiecewiseRate, RateCurve, SinusoidalRate

Rate = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Cv = Annotated[float, Field(ge=0.02, le=20)]


class Gapped(Part):
    """A law of the gaps between arrivals."""

    law: Law = "exponential"
    """Law of the gaps (in operational time where the rate changes)."""
    cv: Cv = 1.0
    """Coefficient of variation of the gaps; production clients lie near 1 to 9 (ServeGen)."""

    @model_validator(mode="after")
    def _exponential_has_cv_1(self) -> Gapped:
        if self.law == "exponential" and self.cv != 1.0:
            raise ValueError(
                f"cv is {self.cv}, which needs law = 'gamma' or 'weibull'; exponential gaps have cv 1"
            )
        return self

    @property
    def gaps(self) -> Gaps:
        return Gaps.of(self.law, self.cv)


class Poisson(Part):
    """Independent arrivals at one rate."""

    process: Literal["poisson"]
    rate: Positive
    """Requests per second."""

    def times(self, seed: int) -> Iterator[Floats]:
        return renewal(stream(seed, "arrivals"), self.rate)


class Renewal(Part):
    """Arrivals at one rate with Gamma or Weibull gaps: burstier (cv > 1) or more even (cv < 1) than
    Poisson."""

    process: Literal["gamma", "weibull"]
    """Law of the gaps."""
    rate: Positive
    """Requests per second."""
    cv: Cv
    """Coefficient of variation of the gaps."""

    def times(self, seed: int) -> Iterator[Floats]:
        return renewal(stream(seed, "arrivals"), self.rate, Gaps.of(self.process, self.cv))


class Piece(Part):
    """A span of time with one rate, or with a rate that runs linearly."""

    seconds: Positive
    """Its length."""
    rate: Rate
    """Rate at its start."""
    to: Rate | None = None
    """Rate at its end; absent means the same."""

    @property
    def last(self) -> float:
        return self.rate if self.to is None else self.to


class Piecewise(Gapped):
    """A rate that jumps or ramps from piece to piece."""

    process: Literal["piecewise"]
    pieces: Annotated[tuple[Piece, ...], Field(min_length=1)]
    """The pieces in order of time."""
    repeat: bool = True
    """Whether the pieces start over when they end; otherwise the last rate holds."""

    @model_validator(mode="after")
    def _never_dries_up(self) -> Piecewise:
        if all(p.rate + p.last == 0 for p in self.pieces):
            raise ValueError("the rates of all pieces are 0; at least one must be positive")
        if not self.repeat and self.pieces[-1].last == 0:
            raise ValueError(
                "the last piece ends at rate 0 and repeat is false; no request would arrive after it"
            )
        return self

    def curve(self) -> RateCurve:
        seconds, first, last = (
            np.array([getattr(p, name) for p in self.pieces], dtype=np.float64)
            for name in ("seconds", "rate", "last")
        )
        return PiecewiseRate(seconds, first, last, self.repeat)

    def times(self, seed: int) -> Iterator[Floats]:
        return renewal(stream(seed, "arrivals"), self.curve(), self.gaps)


class Sinusoidal(Gapped):
    """A rate that swings about its mean: rate * (1 + amplitude * sin(2 pi t / period))."""

    process: Literal["sinusoidal"]
    rate: Positive
    """Mean requests per second."""
    amplitude: Annotated[float, Field(ge=0, le=1)]
    """Largest deviation from the mean, as a share of it."""
    period: Positive
    """Seconds of one swing."""

    def times(self, seed: int) -> Iterator[Floats]:
        return renewal(
            stream(seed, "arrivals"), SinusoidalRate(self.rate, self.amplitude, self.period), self.gaps
        )


class State(Part):
    """One state of a Markov-modulated process."""

    rate: Rate
    """Requests per second while it holds."""
    dwell: Positive
    """Mean seconds of one stay."""


class MarkovModulated(Part):
    """Poisson arrivals whose rate jumps between states at random times."""

    process: Literal["markov"]
    states: Annotated[tuple[State, ...], Field(min_length=2)]
    """Each is followed by one of the others with equal chance."""

    @model_validator(mode="after")
    def _some_rate(self) -> MarkovModulated:
        if all(s.rate == 0 for s in self.states):
            raise ValueError("the rates of all states are 0; at least one must be positive")
        return self

    def times(self, seed: int) -> Iterator[Floats]:
        rates, dwell = [s.rate for s in self.states], [s.dwell for s in self.states]
        return markov_modulated(stream(seed, "arrivals"), rates, dwell)


class Window(Gapped):
    """One window of one client."""

    rate: Rate
    """Requests per second."""


class Client(Part):
    """A client and what it does window after window; then it starts over."""

    windows: Annotated[tuple[Window, ...], Field(min_length=1)]
    """In order of time; after the last comes the first."""


class Clients(Part):
    """The sum of clients, each with its own rate and burstiness per window (ServeGen, arXiv 2505.09999)."""

    process: Literal["clients"]
    window: Positive
    """Seconds of one window."""
    clients: Annotated[tuple[Client, ...], Field(min_length=1)]
    """Their arrivals are put together; tenants are drawn per request all the same."""

    @model_validator(mode="after")
    def _some_rate(self) -> Clients:
        if all(w.rate == 0 for c in self.clients for w in c.windows):
            raise ValueError("the rates of all clients are 0; at least one must be positive")
        return self

    def times(self, seed: int) -> Iterator[Floats]:
        rngs = [stream(seed, "arrivals", "client", i) for i in range(len(self.clients))]
        laws = zip(
            *(cycle([ClientWindow(w.rate, w.gaps) for w in client.windows]) for client in self.clients),
            strict=True,
        )
        return (times for times, _ in superpose(rngs, laws, self.window))


Arrivals = Annotated[
    Poisson | Renewal | Piecewise | Sinusoidal | MarkovModulated | Clients, Field(discriminator="process")
]
