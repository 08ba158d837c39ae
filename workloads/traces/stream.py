"""From rows to requests: order, ticks, origin of time, empty requests; and an account of what was done."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, groupby, islice

import numpy as np

from harness.contract import Request
from workloads.traces.row import Row
from workloads.traces.textfile import TextFile

REORDER_ROWS = 4096
LOOK_AHEAD = 1000
COARSEST_EXACT = 0.5
"""Seconds; a trace whose distinct times never lie closer than this, and which has equal times, has ticks."""


@dataclass(slots=True)
class TraceReport:
    """What reading did; complete when the stream has ended. Nothing is dropped or changed without a count
    here."""

    format: str
    rows: int = 0
    requests: int = 0
    failures: int = 0
    """Rows left out because the service failed (BurstGPT: 0 response tokens)."""
    clamped: int = 0
    """Rows with 0 prompt or output tokens, read as 1: the request did reach the engine."""
    reordered: int = 0
    """Rows that stood after a later one and were put in order."""
    tick: float = 0.0
    """Seconds of one tick within which arrivals were spread; 0 if they were left alone."""
    borrowed: int = 0
    """Requests whose lengths came from another client's table (ServeGen: clients without one)."""

    def summary(self) -> str:
        """One line, with only the counts that are not 0."""
        parts = [f"{self.requests} requests from {self.rows} rows of {self.format}"]
        notes = [
            (self.failures, "failures left out"),
            (self.clamped, "empty prompts or outputs read as 1 token"),
            (self.reordered, "rows put in order"),
            (self.borrowed, "lengths borrowed from another client"),
        ]
        parts += [f"{count} {what}" for count, what in notes if count]
        if self.tick:
            parts.append(f"arrivals spread within ticks of {self.tick:g} s")
        return ", ".join(parts)


def in_order(rows: Iterable[Row], file: TextFile, report: TraceReport) -> Iterator[Row]:
    """Rows sorted by time through a buffer of REORDER_ROWS; InputError for a row that comes later than
    that."""
    heap: list[Row] = []
    newest, emitted = float("-inf"), float("-inf")
    for row in rows:
        report.rows += 1
        if row.arrival < newest:
            report.reordered += 1
            if row.arrival < emitted:
                raise file.error(
                    f"time runs back to {row.arrival:.6f} s after {emitted:.6f} s, over more than "
                    f"{REORDER_ROWS} rows; sort the trace by time",
                    row.line,
                )
        newest = max(newest, row.arrival)
        if len(heap) < REORDER_ROWS:
            heapq.heappush(heap, row)
        else:
            first = heapq.heappushpop(heap, row)
            emitted = first.arrival
            yield first
    yield from (heapq.heappop(heap) for _ in range(len(heap)))


def spread_ticks(
    rows: Iterator[Row], tick: float | None, rng: np.random.Generator, report: TraceReport
) -> Iterator[Row]:
    """Rows of equal time moved to sorted uniform times within the tick, never past the next distinct time.

    `tick` in seconds; None finds it in the first LOOK_AHEAD rows, 0 leaves the times alone.
    """
    if tick is None:
        head = list(islice(rows, LOOK_AHEAD))
        rows, tick = chain(head, rows), _find_tick([row.arrival for row in head])
    report.tick = tick
    if tick == 0:
        yield from rows
        return
    pending: deque[list[Row]] = deque()
    for _, group in groupby(rows, key=lambda row: row.arrival):
        pending.append(list(group))
        if len(pending) == 2:
            block = pending.popleft()
            yield from _spread(block, min(tick, pending[0][0].arrival - block[0].arrival), rng)
    for block in pending:
        yield from _spread(block, tick, rng)


def _spread(block: list[Row], width: float, rng: np.random.Generator) -> Iterator[Row]:
    for row, offset in zip(block, np.sort(rng.random(len(block))).tolist(), strict=True):
        yield row._replace(arrival=row.arrival + width * offset)


def _find_tick(times: list[float]) -> float:
    distinct = np.unique(times)
    if len(distinct) == len(times) or len(distinct) < 2:
        return 0.0
    gap = float(np.diff(distinct).min())
    return gap if gap >= COARSEST_EXACT else 0.0


def to_requests(rows: Iterable[Row], rebase: bool, file: TextFile, report: TraceReport) -> Iterator[Request]:
    """Requests numbered from 0; `rebase` makes the first arrival 0. InputError when there is none."""
    origin: float | None = None
    for row in rows:
        if origin is None:
            origin = row.arrival if rebase else 0.0
        report.clamped += row.prompt == 0 or row.output == 0
        number = report.requests
        report.requests += 1
        yield Request(
            number,
            row.arrival - origin,
            max(row.prompt, 1),
            max(row.output, 1),
            row.domain,
            row.tenant,
            row.hashes,
        )
    if report.requests == 0:
        raise file.error(f"the trace has no request ({report.failures} failures)", max(file.line, 1))
