"""BurstGPT traces: CSV with whole seconds, model, request, response and total tokens, log type.

A row with 0 response tokens is a failed request; it is left out and counted. Later releases add columns,
which are not needed here. Source: github.com/HPMLL/BurstGPT (Wang et al., arXiv 2401.17644).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import IO

from harness.contract import Request
from workloads.traces.row import Row, csv_rows, seconds, tokens
from workloads.traces.stream import TraceReport
from workloads.traces.textfile import TextFile

COLUMNS = ("Timestamp", "Request tokens", "Response tokens")
HEADER = "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type"


def rows(file: TextFile, report: TraceReport) -> Iterator[Row]:
    for stamp, request, response in csv_rows(file, COLUMNS):
        time = seconds(file, stamp, COLUMNS[0])
        prompt, output = tokens(file, request, COLUMNS[1]), tokens(file, response, COLUMNS[2])
        if output == 0:
            report.rows += 1
            report.failures += 1
            continue
        yield Row(time, file.line, prompt, output)


def write(out: IO[str], requests: Iterable[Request]) -> None:
    """Arrivals to the microsecond; model and log type are not known and say so."""
    out.write(HEADER + "\n")
    for request in requests:
        total = request.prompt_tokens + request.output_tokens
        out.write(
            f"{request.arrival:.6f},unknown,{request.prompt_tokens},{request.output_tokens},{total},API log\n"
        )
