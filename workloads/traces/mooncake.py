"""Mooncake traces: JSONL with `timestamp` in ms, `input_length`, `output_length`, `hash_ids`.

Each hash id stands for one block of 512 prompt tokens together with all before it, so equal ids share KV. The
conversation trace is recorded in ticks of 3 s. Source: github.com/kvcache-ai/Mooncake (Qin et al., FAST
2025).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import IO, Any

from harness.contract import Request
from workloads.traces.row import Row, json_rows, member, seconds, tokens
from workloads.traces.textfile import TextFile

KEYS = ("timestamp", "input_length", "output_length")
MILLISECOND = 1e-3


def rows(file: TextFile) -> Iterator[Row]:
    for row in json_rows(file):
        time, prompt, output = (member(file, row, (key,)) for key in KEYS)
        yield Row(
            seconds(file, time, KEYS[0], MILLISECOND),
            file.line,
            tokens(file, prompt, KEYS[1]),
            tokens(file, output, KEYS[2]),
            hashes=hash_ids(file, row.get("hash_ids", []), "hash_ids"),
        )


def hash_ids(file: TextFile, value: Any, key: str) -> tuple[int, ...]:
    """A list of block ids, which must be whole numbers."""
    if not isinstance(value, list) or not all(type(block) is int for block in value):
        raise file.error(f"{key} is {value!r:.60}; it must be a list of whole numbers")
    return tuple(value)


def write(out: IO[str], requests: Iterable[Request]) -> None:
    """Arrivals rounded to the millisecond; domains and tenants have no place in this format."""
    for request in requests:
        row = {
            "timestamp": round(request.arrival / MILLISECOND),
            "input_length": request.prompt_tokens,
            "output_length": request.output_tokens,
            "hash_ids": request.prefix_hashes,
        }
        out.write(json.dumps(row) + "\n")
