"""Fits ServeGen tables to requests: each tenant becomes a client, the tables go to the two files that are
read."""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from harness.contract import Request
from workloads.traces.servegen import COLUMNS, lengths_path
from workloads.traces.textfile import writing

WINDOW = 600
"""Seconds of a window of rates, as in ServeGen's tables."""
LENGTHS_WINDOW = 21_600
MOST_EVEN_SHAPE = 1e4
"""Largest Gamma shape written: gaps without any spread would need an infinite one."""


@dataclass(slots=True)
class _Gaps:
    """Moments of the gaps that end in one window."""

    arrivals: int = 0
    count: int = 0
    total: float = 0.0
    squares: float = 0.0

    def row(self) -> tuple[float, float, str, float, float]:
        """rate, cv, pattern, shape, scale: a Gamma law by the method of moments; with under 3 gaps cv is
        1."""
        rate = self.arrivals / WINDOW
        mean = self.total / self.count if self.count else 0.0
        variance = self.squares / self.count - mean * mean if self.count else 0.0
        cv = math.sqrt(max(variance, 0.0)) / mean if self.count >= 3 and mean > 0 else 1.0
        shape = min(cv**-2, MOST_EVEN_SHAPE) if cv > 0 else MOST_EVEN_SHAPE
        return rate, cv, "Gamma", shape, 1 / (shape * rate)


@dataclass(slots=True)
class _Client:
    last: float | None = None
    gaps: dict[int, _Gaps] = field(default_factory=dict)
    prompts: dict[int, Counter[int]] = field(default_factory=dict)
    outputs: dict[int, Counter[int]] = field(default_factory=dict)

    def add(self, request: Request) -> None:
        cell = self.gaps.setdefault(int(request.arrival // WINDOW), _Gaps())
        cell.arrivals += 1
        if self.last is not None:
            gap = request.arrival - self.last
            cell.count, cell.total, cell.squares = cell.count + 1, cell.total + gap, cell.squares + gap * gap
        self.last = request.arrival
        span = int(request.arrival // LENGTHS_WINDOW)
        self.prompts.setdefault(span, Counter())[request.prompt_tokens] += 1
        self.outputs.setdefault(span, Counter())[request.output_tokens] += 1


def write(path: str | os.PathLike[str], requests: Iterable[Request]) -> None:
    """Write `..._rates.csv[.gz]` and the `..._lengths.jsonl[.gz]` beside it; clients are numbered as they
    appear.

    Memory grows with clients x windows and with the number of distinct lengths, not with requests.
    """
    rates_file = Path(path)
    lengths_file = lengths_path(rates_file)
    clients: dict[str, _Client] = {}
    for request in requests:
        clients.setdefault(request.tenant, _Client()).add(request)
    windows = 1 + max((max(client.gaps) for client in clients.values()), default=0)
    with ExitStack() as stack:
        rates, lengths = (stack.enter_context(writing(file)) for file in (rates_file, lengths_file))
        rates.write(",".join(COLUMNS) + "\n")
        for name, client in enumerate(clients.values()):
            for window in range(max(windows, 2)):  # one window alone would not tell its length
                cells = client.gaps[window].row() if window in client.gaps else (0, 0, "", 0, 0)
                rates.write(",".join(str(cell) for cell in (name, window * WINDOW, *cells)) + "\n")
            for span in sorted(client.prompts):
                row = {
                    "client": name,
                    "timestamp": span * LENGTHS_WINDOW,
                    "input_tokens": _shares(client.prompts[span]),
                    "output_tokens": _shares(client.outputs[span]),
                }
                lengths.write(json.dumps(row) + "\n")


def _shares(counts: Counter[int]) -> str:
    total = counts.total()
    return "{" + ", ".join(f"{value}: {counts[value] / total}" for value in sorted(counts)) + "}"
