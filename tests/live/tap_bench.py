"""A runner, its tap, the ring and an assembler, wired for tests."""

from __future__ import annotations

from dataclasses import fields

import pytest

torch = pytest.importorskip("torch")

from fake_runner import FakeRunner, HashBrain, Served, expected  # noqa: E402

from harness.live.assemble import Assembler  # noqa: E402
from harness.live.link import Link  # noqa: E402
from harness.live.tap import TOGETHER, Tap  # noqa: E402
from harness.speculator.traces import Trace  # noqa: E402

PROMPT = [5, 9, 20, 31, 7]


class Bench:
    """A runner, its tap, the ring and an assembler."""

    def __init__(
        self,
        traces_bytes: int = 1 << 20,
        branches: int = 3,
        eos: int | None = None,
        together: int = TOGETHER,
        **runner,
    ):
        self.link = Link.create(traces_bytes)
        self.link.control.set("sample", 1.0)
        self.brain = runner.pop("brain", None) or HashBrain()
        self.runner = FakeRunner(self.brain, **runner)
        self.tap = Tap(self.runner, self.link, together)
        self.assembler = Assembler(() if eos is None else (10**6, eos), branches)
        self.branches = branches
        self.eos = eos

    def __enter__(self) -> Bench:
        return self

    def __exit__(self, *_: object) -> None:
        self.link.remove()

    def end(self, *served: Served) -> list[Trace]:
        """These requests are over; the traces that come of it."""
        self.tap.ended([s.name for s in served])
        assert not self.tap.error
        return list(self.assembler.feed(self.link.traces.take()))

    def check(self, served: Served, trace: Trace, **more) -> None:
        same(trace, expected(served, self.brain, branches=self.branches, eos=self.eos, **more))


def same(found: Trace, wanted: Trace) -> None:
    for field in fields(Trace):
        left, right = getattr(found, field.name), getattr(wanted, field.name)
        if isinstance(right, torch.Tensor):
            assert left.dtype == right.dtype, field.name
            assert left.shape == right.shape, field.name
            assert torch.equal(left, right), field.name
        else:
            assert left == right, field.name
