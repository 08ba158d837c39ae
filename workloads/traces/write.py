"""Writing requests as a trace."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import IO

from harness.contract import Request
from harness.errors import InputError
from workloads.traces import azure, burstgpt, mooncake, records, servegen_write
from workloads.traces.formats import format_named
from workloads.traces.textfile import writing

_WRITERS: dict[str, Callable[[IO[str], Iterable[Request]], None]] = {
    "azure": azure.write,
    "mooncake": mooncake.write,
    "burstgpt": burstgpt.write,
    "jsonl": records.write,
}


def write_trace(path: str | os.PathLike[str], requests: Iterable[Request], format: str = "jsonl") -> None:
    """Write the requests, streaming; gzip if `path` ends in `.gz`. A file appears only when it is complete.

    `jsonl` keeps every field. `azure` and `burstgpt` keep times (to 100 ns, 1 us) and lengths, `mooncake`
    also the prefix hashes (times to 1 ms). `servegen` fits tables (path `..._rates.csv[.gz]`, tenants as
    clients). A `measured` run has times of service, which requests have not, so it cannot be written
    (InputError).
    """
    format_named(format)
    if format == "servegen":
        servegen_write.write(path, requests)
    elif format in _WRITERS:
        with writing(path) as out:
            _WRITERS[format](out, requests)
    else:
        valid = ", ".join(sorted([*_WRITERS, "servegen"]))
        raise InputError(f"traces of format {format!r} cannot be written; valid: {valid}")
