"""Reading a measured serving run: what was asked, how the engine was set up, what was observed.

Layout (LLMServingSim's, from vLLM's own per-request timestamps): `<prefix>_requests.jsonl` or
`requests.jsonl` in a folder, with `meta.json` beside it (engine arguments), and optionally
`timeseries.csv`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from harness.contract import Request
from harness.errors import InputError, MissingPart

_TIMES = ("arrival_time", "queued_ts", "first_token_ts", "last_token_ts")
_LENGTHS = ("input_toks", "output_toks")


@dataclass(frozen=True)
class MeasuredRun:
    """One run. Times in seconds; arrays hold one value per request, in order of arrival."""

    name: str
    requests: tuple[Request, ...]
    """Arrivals as the client saw them, from the first one on."""
    ttft: np.ndarray
    """From the moment the engine took the request off its input queue (vLLM's `queued_ts`)."""
    ttft_client: np.ndarray
    """From the client's arrival; the two clocks are aligned at their closest request."""
    tpot: np.ndarray
    e2e: np.ndarray
    """From `queued_ts`, as `ttft`."""
    engine: Mapping[str, Any]
    """vLLM's engine arguments."""
    kv_tokens: int | None
    """Tokens that the KV cache held, if the run says so."""
    prefix_caching: bool = True
    async_scheduling: bool = True
    """Both are vLLM's defaults when the run does not say."""


def read_measured(path: Path) -> MeasuredRun:
    """Read a run by its folder or path prefix. InputError or MissingPart, in one sentence, if it is not one."""
    table = _file(path, "requests.jsonl")
    meta = _meta(_file(path, "meta.json"))
    kv_cache = meta.get("kv_cache") or {}
    scheduler = (meta.get("resolved_config") or {}).get("scheduler_config") or {}
    rows = [_row(line, table, i) for i, line in enumerate(table.read_text(encoding="utf-8").splitlines(), 1)]
    if not rows:
        raise InputError(f"{table} holds no request")
    rows.sort(key=lambda row: row["arrival_time"])
    column = {name: np.array([row[name] for row in rows], dtype=float) for name in (*_TIMES, *_LENGTHS)}
    arrival = column["arrival_time"] - column["arrival_time"][0]
    offset = float(np.min(column["queued_ts"] - arrival))
    steps = np.maximum(column["output_toks"] - 1, 1)
    requests = tuple(
        Request(i, float(a), int(p), int(o))
        for i, (a, p, o) in enumerate(zip(arrival, column["input_toks"], column["output_toks"], strict=True))
    )
    return MeasuredRun(
        name=path.name.removesuffix("_requests.jsonl"),
        requests=requests,
        ttft=column["first_token_ts"] - column["queued_ts"],
        ttft_client=column["first_token_ts"] - offset - arrival,
        tpot=(column["last_token_ts"] - column["first_token_ts"]) / steps,
        e2e=column["last_token_ts"] - column["queued_ts"],
        engine=meta.get("engine_kwargs") or {},
        kv_tokens=kv_cache.get("num_kv_tokens"),
        prefix_caching=kv_cache.get("enable_prefix_caching", True),
        async_scheduling=scheduler.get("async_scheduling", True),
    )


def _meta(path: Path) -> dict[str, Any]:
    try:
        meta = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} does not hold a run's settings as JSON: {error}") from error
    if not isinstance(meta, dict):
        raise InputError(f"{path} holds no JSON object; it must have engine_kwargs and the like")
    return meta


def _file(path: Path, name: str) -> Path:
    for candidate in (path / name, path.with_name(f"{path.name}_{name}")):
        if candidate.is_file():
            return candidate
    raise MissingPart(f"measured run {path} has no {name}; give the folder or the path prefix that holds it")


def _row(line: str, table: Path, number: int) -> dict[str, float]:
    try:
        row = json.loads(line)
        values = {name: float(row[name]) for name in (*_TIMES, *_LENGTHS)}
    except (json.JSONDecodeError, TypeError, ValueError) as error:
        raise InputError(f"{table}, line {number}: not a request of a measured run ({error})") from error
    except KeyError as error:
        raise InputError(f"{table}, line {number}: column {error.args[0]!r} is missing") from error
    if not all(map(math.isfinite, values.values())) or min(values["input_toks"], values["output_toks"]) < 1:
        raise InputError(f"{table}, line {number}: every time must be finite and every length at least 1")
    return values
