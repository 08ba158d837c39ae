"""Azure LLM inference traces: CSV `TIMESTAMP,ContextTokens,GeneratedTokens`, times of day with 7 decimals.

Source: github.com/Azure/AzurePublicDataset (Patel et al., Splitwise, ISCA 2024).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from typing import IO

from harness.contract import Request
from workloads.traces.row import Row, csv_rows, tokens
from workloads.traces.textfile import TextFile

COLUMNS = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")
_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
_TICKS_PER_SECOND = 10_000_000


def rows(file: TextFile) -> Iterator[Row]:
    """Rows with times in seconds since 2000-01-01 UTC, exact to 100 ns of a day's distance."""
    start: datetime | None = None
    for stamp, prompt, output in csv_rows(file, COLUMNS):
        moment, ticks = _moment(file, stamp)
        start = start or moment.replace(hour=0, minute=0, second=0)
        # counted from the first row's midnight, so that a double holds all 7 decimals
        time = (moment - start).total_seconds() + ticks / _TICKS_PER_SECOND
        yield Row(time, file.line, tokens(file, prompt, COLUMNS[1]), tokens(file, output, COLUMNS[2]))


def _moment(file: TextFile, stamp: str) -> tuple[datetime, int]:
    """Whole second and the 100 ns ticks after it; datetime itself holds 6 decimals only."""
    clock, _, rest = stamp.partition(".")
    digits = rest.split("+")[0].rstrip("Z")
    rule = "a time such as 2023-11-16 18:15:46.6805900"
    moment = file.parse(datetime.fromisoformat, clock.strip().split("+")[0], COLUMNS[0], rule)
    ticks = file.parse(int, digits.ljust(7, "0")[:7], COLUMNS[0], rule) if digits else 0
    return moment.replace(tzinfo=None), ticks


def write(out: IO[str], requests: Iterable[Request]) -> None:
    """Arrivals as times from 2000-01-01 on, rounded to 100 ns; reading makes the first one 0."""
    out.write(",".join(COLUMNS) + "\n")
    for request in requests:
        whole, ticks = divmod(round(request.arrival * _TICKS_PER_SECOND), _TICKS_PER_SECOND)
        stamp = (_EPOCH + timedelta(seconds=whole)).strftime("%Y-%m-%d %H:%M:%S")
        out.write(f"{stamp}.{ticks:07d},{request.prompt_tokens},{request.output_tokens}\n")
