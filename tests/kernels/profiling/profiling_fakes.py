"""A profiling backend made of numbers: its clock moves only when something is measured."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from kernels.profiling.plan import Item
from kernels.profiling.runner import Ceilings, Timing

CEILINGS = Ceilings("Fake", 4000.0, 4200.0, 800.0, 132, 60 << 20, "torch 0, triton 0", "c0ffee")


@dataclass
class FakeJob:
    backend: FakeBackend
    item: Item

    def error(self) -> float:
        return self.backend.errors(self.item)

    def time(self) -> Timing:
        self.backend.clock += self.backend.seconds
        floor = self.item.cost.floor_us(CEILINGS.gb_per_s, CEILINGS.tflops)
        median = self.backend.ratio(self.item) * max(floor, 1.0)
        return Timing(median, 0.9 * median, 1.1 * median, 20, 1980)


@dataclass
class FakeBackend:
    """`ratio` is the time over the floor, `errors` the relative error, `fails` raises for an item."""

    seconds: float = 1.0
    ratio: Callable[[Item], float] = lambda item: 1.25
    errors: Callable[[Item], float] = lambda item: 1e-3
    fails: Callable[[Item], Exception | None] = lambda item: None
    lives: bool = True
    clock: float = 100.0
    measured: list[str] = field(default_factory=list)

    def now(self) -> float:
        return self.clock

    def ceilings(self) -> Ceilings:
        return CEILINGS

    def job(self, item: Item) -> FakeJob:
        self.measured.append(item.key)
        if failure := self.fails(item):
            raise failure
        return FakeJob(self, item)

    def alive(self) -> bool:
        return self.lives
