"""Traces: recorded requests, read and written as streams, plain or gzip.

`read_trace(path)` finds the format in the first line; `write_trace(path, requests, format)` writes one. One
module per format; a new one needs a `rows` function, a `write` function and a line in `FORMATS`.
"""

from workloads.traces.formats import FORMATS, detect_format
from workloads.traces.read import TraceStream, count_requests, read_trace
from workloads.traces.stream import TraceReport
from workloads.traces.write import write_trace

__all__ = [
    "FORMATS",
    "TraceReport",
    "TraceStream",
    "count_requests",
    "detect_format",
    "read_trace",
    "write_trace",
]
