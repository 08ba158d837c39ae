"""JSONL with one request a line: our own full form, vLLM's and GuideLLM's names for the same, measured runs.

| meaning | keys, the first one is written |
| arrival, seconds since the run began | arrival_time, arrival, timestamp |
| prompt tokens | prompt_tokens, input_tokens, input_len, prompt_len |
| output tokens | output_tokens, output_len |
| domain, tenant | domain, tenant (optional) |
| prefix blocks | prefix_hashes (optional) |

A *measured* run (`arrival_time`, `input_toks`, `output_toks`, as recorded from a vLLM server) has arrivals on
the wall clock; reading makes the first one 0.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import IO, Any

from harness.contract import UNKNOWN, Request
from workloads.traces.mooncake import hash_ids
from workloads.traces.row import Row, json_rows, member, seconds, tokens
from workloads.traces.textfile import TextFile

ARRIVAL = ("arrival_time", "arrival", "timestamp")
PROMPT = ("prompt_tokens", "input_tokens", "input_len", "prompt_len")
OUTPUT = ("output_tokens", "output_len")
MEASURED = ("arrival_time", "input_toks", "output_toks")


def rows(file: TextFile) -> Iterator[Row]:
    for row in json_rows(file):
        yield Row(
            seconds(file, member(file, row, ARRIVAL), ARRIVAL[0]),
            file.line,
            tokens(file, member(file, row, PROMPT), PROMPT[0]),
            tokens(file, member(file, row, OUTPUT), OUTPUT[0]),
            _label(file, row, "domain"),
            _label(file, row, "tenant"),
            hash_ids(file, row.get("prefix_hashes", []), "prefix_hashes"),
        )


def measured_rows(file: TextFile) -> Iterator[Row]:
    for row in json_rows(file):
        time, prompt, output = (member(file, row, (key,)) for key in MEASURED)
        yield Row(
            seconds(file, time, MEASURED[0]),
            file.line,
            tokens(file, prompt, MEASURED[1]),
            tokens(file, output, MEASURED[2]),
        )


def _label(file: TextFile, row: Mapping[str, Any], key: str) -> str:
    value = row.get(key, UNKNOWN)
    if not isinstance(value, str) or not value:
        raise file.error(f"{key} is {value!r}; it must be a name")
    return value


def write(out: IO[str], requests: Iterable[Request]) -> None:
    """Every field of a request, without loss."""
    for request in requests:
        row: dict[str, Any] = {
            "arrival_time": request.arrival,
            "prompt_tokens": request.prompt_tokens,
            "output_tokens": request.output_tokens,
        }
        row |= {k: v for k, v in (("domain", request.domain), ("tenant", request.tenant)) if v != UNKNOWN}
        if request.prefix_hashes:
            row["prefix_hashes"] = request.prefix_hashes
        out.write(json.dumps(row) + "\n")
