"""The `[mixture]` table of a scenario: how the shares of the domains change over the run."""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from workloads import mixture
from workloads.domains import domain
from workloads.parts import Part, Positive, Share, Weights, check_weights


def check_domains(weights: Weights, what: str) -> None:
    """Raise ValueError or UnknownName unless every domain exists and some weight is positive."""
    for name in weights:
        domain(name)
    check_weights(weights, what)


class Stage(Part):
    """A mix of domains that holds for a part of the run."""

    domains: Weights
    """Weight of each domain; only the ratios count."""
    share: Positive = 1.0
    """Length relative to the other stages."""


class Pace(Part):
    """What moves the mixture forward."""

    by: Literal["requests", "time"] = "requests"
    """`requests`: progress is the share of the run's requests that have arrived. `time`: it is the share of
    `period` that has passed, and the mixture starts over after each period."""
    period: Positive | None = None
    """Seconds of one pass; needed by `time`, forbidden by `requests`."""

    @model_validator(mode="after")
    def _period_goes_with_time(self) -> Pace:
        if (self.by == "time") != (self.period is not None):
            raise ValueError(
                f"by is {self.by!r} and period is {self.period}; by = 'time' needs a period, 'requests' none"
            )
        return self

    def progress(
        self, index: NDArray[np.int64], times: NDArray[np.float64], total: int
    ) -> NDArray[np.float64]:
        """Progress 0..1 of requests number `index` (from 0) of `total` that arrive at `times`."""
        if self.period is not None:
            return np.mod(times, self.period) / self.period
        return np.minimum(index / total, 1.0)


class ConstantMix(Pace):
    """The same shares throughout."""

    kind: Literal["constant"]
    domains: Weights
    """Weight of each domain; only the ratios count."""

    def build(self) -> mixture.Mixture:
        return mixture.constant(self.domains)

    def mixes(self) -> tuple[Weights, ...]:
        return (self.domains,)


class Staged(Pace):
    """Several mixes in an order."""

    stages: Annotated[tuple[Stage, ...], Field(min_length=2)]
    """The mixes, first to last."""

    def steps(self) -> list[tuple[float, Weights]]:
        return [(stage.share, stage.domains) for stage in self.stages]

    def mixes(self) -> tuple[Weights, ...]:
        return tuple(stage.domains for stage in self.stages)


class PiecewiseMix(Staged):
    """One stage after the other, with jumps."""

    kind: Literal["piecewise"]

    def build(self) -> mixture.Mixture:
        return mixture.stages(self.steps())


class GradualMix(Staged):
    """One stage after the other, each turning linearly into the next."""

    kind: Literal["gradual"]
    fade: Share
    """Share of the run that each change takes, centred on the boundary; at most the shortest stage's."""

    @model_validator(mode="after")
    def _fades_do_not_overlap(self) -> GradualMix:
        shares = [stage.share for stage in self.stages]
        shortest = min(shares) / sum(shares)
        if self.fade > shortest + 1e-12:
            raise ValueError(
                f"fade is {self.fade}; it must not exceed the shortest stage's share, {shortest:.4g}"
            )
        return self

    def build(self) -> mixture.Mixture:
        return mixture.stages(self.steps(), fade=self.fade)


class RecurringMix(Staged):
    """The stages over and over: A B A B ..."""

    kind: Literal["recurring"]
    cycles: Annotated[float, Field(gt=1)]
    """How often the stages are passed through in the run; 1.5 of A, B gives A B A."""

    @model_validator(mode="after")
    def _ends_between_stages(self) -> RecurringMix:
        if not (self.cycles * len(self.stages)).is_integer():
            raise ValueError(
                f"cycles is {self.cycles}; times {len(self.stages)} stages it must be whole, so the run ends "
                "with a complete stage"
            )
        return self

    def build(self) -> mixture.Mixture:
        count = int(self.cycles * len(self.stages))
        steps = self.steps()
        return mixture.stages([steps[i % len(steps)] for i in range(count)])


Mix = Annotated[ConstantMix | PiecewiseMix | GradualMix | RecurringMix, Field(discriminator="kind")]
