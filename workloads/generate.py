"""Requests from a scenario, streamed: `generate` makes them all, `apply_trace` labels those of a trace.

Each kind of draw has a random stream of its own, so a change to one leaves the others' draws as they were:
the i-th request of a domain has the same lengths under every arrival process.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from harness.contract import UNKNOWN, Request
from harness.errors import InputError, UnknownName
from harness.rng import stream
from workloads.domains import domain
from workloads.mixture import constant
from workloads.rates import Floats
from workloads.scenario import Scenario

CHUNK = 4096


def generate(scenario: Scenario, seed: int) -> Iterator[Request]:
    """The scenario's requests in order of arrival; memory does not grow with their number.

    The same scenario and seed always give the same requests.
    """
    labels = _Labels(scenario, seed)
    lengths = _Lengths(labels.domains, seed)
    for start, times in _blocks(scenario.arrivals.times(seed), scenario.requests):
        arrivals = times / scenario.load
        kind, tenant = labels.draw(start, arrivals, scenario.requests)
        prompt, output = lengths.draw(kind)
        yield from map(
            Request,
            range(start, start + len(times)),
            arrivals.tolist(),
            prompt.tolist(),
            output.tolist(),
            [labels.domains[i] for i in kind.tolist()],
            [labels.tenants[i] for i in tenant.tolist()],
        )


def apply_trace(
    scenario: Scenario, trace: Iterable[Request], seed: int, total: int | None = None
) -> Iterator[Request]:
    """The trace's arrivals, lengths and prefixes with the scenario's load factor, domains and tenants.

    A domain or tenant that the trace itself gives is kept; it must be one we know (UnknownName otherwise).
    `total` is the number of requests that make progress 1 (default: the scenario's `requests`); the mixture
    stays at its end for those beyond. The whole trace passes through: cut it with `itertools.islice`.
    """
    labels = _Labels(scenario, seed)
    rows, start = iter(trace), 0
    while block := list(islice(rows, CHUNK)):
        times = np.array([row.arrival for row in block]) / scenario.load
        kind, tenant = labels.draw(start, times, total or scenario.requests)
        drawn = zip(block, times.tolist(), kind.tolist(), tenant.tolist(), strict=True)
        for number, (row, arrival, d, t) in enumerate(drawn, start):
            yield Request(
                number,
                arrival,
                row.prompt_tokens,
                row.output_tokens,
                labels.domain_of(row, d),
                labels.tenant_of(row, t),
                row.prefix_hashes,
            )
        start += len(block)


def _blocks(chunks: Iterator[Floats], total: int) -> Iterator[tuple[int, Floats]]:
    """Re-cut chunks of times into blocks of CHUNK, `total` in all: (number of the first, float64[n])."""
    start, held, count = 0, [], 0
    for chunk in chunks:
        held.append(chunk)
        count += len(chunk)
        if count < min(CHUNK, total - start):
            continue
        times = np.concatenate(held)
        while start < total and len(times) >= min(CHUNK, total - start):
            size = min(CHUNK, total - start)
            yield start, times[:size]
            start, times = start + size, times[size:]
        if start >= total:
            return
        held, count = [times], len(times)
    raise InputError(f"the arrival process ended after {start + count} of {total} requests")


class _Labels:
    """Draws the tenant and the domain of each request."""

    def __init__(self, scenario: Scenario, seed: int) -> None:
        self.tenants = tuple(tenant.name for tenant in scenario.tenants)
        shares = np.array([tenant.share for tenant in scenario.tenants])
        self._edges = np.cumsum(shares / shares.sum())[:-1]
        self._pace = scenario.mixture
        own = [None if t.domains is None else constant(t.domains) for t in scenario.tenants]
        self._mixes = [scenario.mixture.build() if mix is None else mix for mix in own]
        self.domains = tuple(dict.fromkeys(name for mix in self._mixes for name in mix.names))
        self._index = [np.array([self.domains.index(n) for n in mix.names]) for mix in self._mixes]
        self._of_tenant, self._of_domain = stream(seed, "tenants"), stream(seed, "domains")

    def draw(self, start: int, times: Floats, total: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Indices into `domains` and `tenants` of requests number `start`, `start` + 1, ...: two int64[n]."""
        n = len(times)
        tenant = np.searchsorted(self._edges, self._of_tenant.random(n), side="right")
        uniform = self._of_domain.random(n)
        progress = self._pace.progress(np.arange(start, start + n), times, total)
        kind = np.zeros(n, dtype=np.int64)
        for t, mix in enumerate(self._mixes):
            mine = tenant == t
            kind[mine] = self._index[t][mix.choose(uniform[mine], progress[mine])]
        return kind, tenant

    def domain_of(self, row: Request, drawn: int) -> str:
        if row.domain == UNKNOWN:
            return self.domains[drawn]
        return domain(row.domain).name

    def tenant_of(self, row: Request, drawn: int) -> str:
        if row.tenant == UNKNOWN:
            return self.tenants[drawn]
        if row.tenant not in self.tenants:
            raise UnknownName("tenant", row.tenant, self.tenants)
        return row.tenant


class _Lengths:
    """Draws prompt and output lengths; each domain has its own two streams."""

    def __init__(self, domains: tuple[str, ...], seed: int) -> None:
        self._laws = [
            (
                domain(name).prompt,
                stream(seed, "prompt", name),
                domain(name).output,
                stream(seed, "output", name),
            )
            for name in domains
        ]

    def draw(self, kind: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Prompt and output tokens of requests with these domains: two int64[n]."""
        prompt, output = np.empty_like(kind), np.empty_like(kind)
        for d, (prompts, of_prompt, outputs, of_output) in enumerate(self._laws):
            mine = np.flatnonzero(kind == d)
            if len(mine):
                prompt[mine] = prompts.sample(of_prompt, len(mine))
                output[mine] = outputs.sample(of_output, len(mine))
        return prompt, output
