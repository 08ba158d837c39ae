"""What a live run asks: the scenario's requests or a trace's, each with a prompt in the target's tokens."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import cycle, islice
from pathlib import Path

from harness.contract import Request
from harness.live.load import Ask
from harness.live.prompts import Prompts
from harness.speculator.texts import OUTPUT_TOKENS
from workloads.generate import apply_trace, generate
from workloads.scenario import Scenario
from workloads.traces import read_trace

KNOWN = 64
"""Requests whose prompts are known before the run."""


@dataclass(frozen=True)
class Workload:
    """A scenario cut to `total` requests whose arrivals are divided by `load`."""

    scenario: Scenario
    total: int
    load: float
    prompts: Prompts
    trace: Path | None = None
    """Supplies arrivals, and labels where it has them; lengths are the prompts' own."""
    output_tokens: int = OUTPUT_TOKENS
    """Most of an answer."""

    def asks(self, seed: int) -> list[Ask]:
        """The requests of one seed."""
        requests = self._requests(seed, self.load)
        prompts = self.prompts.of(requests, seed)
        return [Ask(self._request(r, p), p) for r, p in zip(requests, prompts, strict=True)]

    def known(self, seed: int) -> Iterator[list[int]]:
        """Prompts of traffic known before the run, without end: the first mix of domains, of another seed."""
        scenario = self.scenario.model_copy(update={"requests": max(256, self.total)})
        first = list(islice(generate(scenario, seed + 1), KNOWN))
        return cycle(self.prompts.of(first, seed + 1))

    def mean_context(self, seed: int) -> float:
        """Tokens of context of a decoding request in the known traffic: its prompt and half of its output."""
        prompts = self.known(seed)
        lengths = [len(next(prompts)) for _ in range(KNOWN)]
        return sum(lengths) / len(lengths) + self.output_tokens / 2

    def rate(self, seed: int = 0) -> float:
        """Mean requests per second at load 1."""
        last = max(r.arrival for r in self._requests(seed, 1.0))
        return self.total / last if last > 0 else float("inf")

    def _requests(self, seed: int, load: float) -> list[Request]:
        scenario = self.scenario.model_copy(
            update={"requests": self.total, "load": self.scenario.load * load}
        )
        if self.trace is None:
            return list(generate(scenario, seed))
        rows = apply_trace(scenario, read_trace(self.trace, seed=seed), seed, self.total)
        return list(islice(rows, self.total))

    def _request(self, request: Request, prompt: list[int]) -> Request:
        return replace(request, prompt_tokens=len(prompt), output_tokens=self.output_tokens, prefix_hashes=())


__all__ = ["Workload"]
