"""Reading a trace of any format as a stream of requests."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator

from harness.contract import Request
from harness.errors import InputError
from harness.rng import stream
from workloads.traces import azure, burstgpt, mooncake, records, servegen
from workloads.traces.formats import detect_format, format_named
from workloads.traces.row import Row
from workloads.traces.stream import TraceReport, in_order, spread_ticks, to_requests
from workloads.traces.textfile import TextFile


class TraceStream(Iterator[Request]):
    """Requests in order of arrival, read as they are asked for. `report` is complete at the end of the
    stream."""

    def __init__(self, requests: Iterator[Request], report: TraceReport) -> None:
        self._requests = requests
        self.report = report

    def __next__(self) -> Request:
        return next(self._requests)


def read_trace(
    path: str | os.PathLike[str],
    format: str | None = None,
    *,
    seed: int = 0,
    tick: float | None = None,
    scale: float | None = None,
) -> TraceStream:
    """The requests of a trace file, numbered from 0, in order of arrival.

    `format` is a key of FORMATS (default: from the first line). `seed` feeds the draws of formats that need
    some (ticks, ServeGen). `tick`: seconds of one tick of a Mooncake or BurstGPT trace (default: found in
    the data; 0 leaves times alone). `scale`: factor on every client's rate of a ServeGen table (default 1).

    Raises InputError at once for a missing file, an unknown format or an option that the format does not
    have, and while streaming, with file and line, for a bad row, a time that runs back, a damaged file or
    no request.
    """
    name = format or detect_format(path)
    form = format_named(name)
    if tick is not None and not form.ticks:
        raise InputError(f"tick is {tick}, but a trace of format {name!r} has no ticks")
    if tick is not None and not (math.isfinite(tick) and tick >= 0):
        raise InputError(f"tick is {tick}; it must be finite and not negative")
    if scale is not None and name != "servegen":
        raise InputError(f"scale is {scale}, but only ServeGen tables have rates to scale, not {name!r}")
    if scale is not None and not (math.isfinite(scale) and scale > 0):
        raise InputError(f"scale is {scale}; it must be finite and positive")
    file, report = TextFile(path), TraceReport(name)
    rows = in_order(_rows(name, file, report, seed, scale or 1.0), file, report)
    if form.ticks:
        rows = spread_ticks(rows, tick, stream(seed, "trace", "ticks"), report)
    return TraceStream(to_requests(rows, form.wall_clock, file, report), report)


def _rows(name: str, file: TextFile, report: TraceReport, seed: int, scale: float) -> Iterator[Row]:
    if name == "burstgpt":
        return burstgpt.rows(file, report)
    if name == "servegen":
        return servegen.rows(file, report, seed, scale)
    plain = {
        "azure": azure.rows,
        "mooncake": mooncake.rows,
        "measured": records.measured_rows,
        "jsonl": records.rows,
    }
    return plain[name](file)


def count_requests(path: str | os.PathLike[str], format: str | None = None) -> int:
    """How many requests the trace has: one pass over the file, with all its checks."""
    return sum(1 for _ in read_trace(path, format))
