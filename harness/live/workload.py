"""What a live run asks: the scenario's requests, with texts of their domains in the target's tokens."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from itertools import cycle
from typing import Any

from harness.contract import Request
from harness.live.load import Ask
from harness.speculator.texts import OUTPUT_TOKENS, deal, pool_size, prompts
from workloads.generate import generate
from workloads.scenario import Scenario


@dataclass(frozen=True)
class Workload:
    """A scenario cut to `total` requests whose arrivals are divided by `load`."""

    scenario: Scenario
    total: int
    load: float
    tokenizer: Any

    def asks(self, seed: int) -> list[Ask]:
        """The requests of one seed; texts are those that the simulator deals for the same seed and length."""
        scenario = self.scenario.model_copy(
            update={"requests": self.total, "load": self.scenario.load * self.load}
        )
        requests = list(generate(scenario, seed))
        size = pool_size(self.total)
        places = deal(requests, (), size, seed)
        pools = {domain: _prompts(self.tokenizer, domain, size) for domain in {p.domain for p in places}}
        return [
            Ask(self._request(r, pools[p.domain][p.index]), pools[p.domain][p.index])
            for r, p in zip(requests, places, strict=True)
        ]

    def known(self, seed: int) -> Iterator[list[int]]:
        """Prompts of traffic known before the run, without end: the first mix of domains, of another seed."""
        scenario = self.scenario.model_copy(update={"requests": max(256, self.total)})
        first = [r for r, _ in zip(generate(scenario, seed + 1), range(64), strict=False)]
        size = pool_size(self.total)
        places = deal(first, (), size, seed + 1)
        pools = {domain: _prompts(self.tokenizer, domain, size) for domain in {p.domain for p in places}}
        return cycle([pools[p.domain][p.index] for p in places])

    def mean_context(self, seed: int) -> float:
        """Tokens of context of a decoding request in the known traffic: its prompt and half of its output."""
        prompts = self.known(seed)
        lengths = [len(next(prompts)) for _ in range(64)]
        return sum(lengths) / len(lengths) + OUTPUT_TOKENS / 2

    def rate(self, seed: int = 0) -> float:
        """Mean requests per second at load 1."""
        scenario = self.scenario.model_copy(update={"requests": self.total})
        last = max(r.arrival for r in generate(scenario, seed))
        return self.total / last if last > 0 else float("inf")

    def _request(self, request: Request, prompt: list[int]) -> Request:
        return replace(request, prompt_tokens=len(prompt), output_tokens=OUTPUT_TOKENS, prefix_hashes=())


@cache
def _prompts(tokenizer: Any, domain: str, size: int) -> list[list[int]]:
    """As `texts.prompts`, remembered: every seed of a run deals from the same pool."""
    return prompts(tokenizer, domain, size)


__all__ = ["OUTPUT_TOKENS", "Workload"]
