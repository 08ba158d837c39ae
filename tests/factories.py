"""Small synthetic run directories, physically consistent, with a chosen true speedup of each arm."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from harness.contract import Event, RequestRecord, StepRecord
from harness.rng import stream
from harness.runlog import CellWriter, RunWriter

STEP_SECONDS = 0.01
"""Of the arm without speculation, whatever the batch."""
SLOTS = 8
DOMAINS = ("chat", "code")
K = 3
TOKENS_PER_VERIFY = 2
SHIFT_AT = 0.5
"""Share of the requests after which all traffic is `code`."""


def write_run(
    out: Path,
    speedups: Mapping[str, float] | None = None,
    *,
    seeds: tuple[int, ...] = (0, 1, 2),
    requests: int = 60,
    noise: float = 0.01,
    unfinished: Mapping[str, int] | None = None,
    mode: str = "sim",
    scenario: str = "factory",
    configuration: Mapping[str, Any] | None = None,
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    salt: int = 0,
) -> Path:
    """Write a run and return its path.

    `speedups` maps each arm to its true time-in-engine speedup over `none` (default: none 1, static:3
    1.2, bandit 1.5); every cell's own is that times exp(noise * normal). A request decodes alone at one
    token per STEP_SECONDS / speedup; an arm other than `none` verifies K = 3 drafts a step and gains what
    it must for that. `unfinished` leaves an arm's last requests without an end; `salt` redraws the noise
    of the arms but not the traffic.
    """
    speedups = {"none": 1.0, "static:3": 1.2, "bandit": 1.5} if speedups is None else speedups
    given = settings or {}
    info = {
        "mode": mode,
        "scenario": scenario,
        "seeds": list(seeds),
        "arms": {arm: {"policy": arm, **given.get(arm, {})} for arm in speedups},
        "configuration": {"requests": requests, **(configuration or {})},
        "latency": {"source": "synthetic"},
        "acceptance": {"source": "synthetic"},
    }
    with RunWriter(out, info) as writer:
        for arm, speedup in speedups.items():
            for seed in seeds:
                wobble = float(np.exp(noise * stream(seed, "noise", arm, salt).normal()))
                with CellWriter(writer.parts, arm, seed) as cell:
                    write_cell(
                        cell, seed, requests, speedup * wobble, arm != "none", (unfinished or {}).get(arm, 0)
                    )
    return out


def write_cell(
    cell: CellWriter, seed: int, requests: int, speedup: float, drafts: bool, unfinished: int = 0
) -> None:
    """One cell: `requests` one after another in SLOTS lanes, a step table that accounts for their tokens."""
    table = request_table(seed, requests, speedup, drafts)
    if unfinished:
        table["status"] = ["finished"] * (requests - unfinished) + ["unfinished"] * unfinished
        table["finish"][-unfinished:] = np.nan
        table["slo_met"][-unfinished:] = False
    cell.requests(table)
    cell.steps(step_table(table, drafts))
    end = float(np.nanmax(table["finish"]))
    events = [Event(0.0, "tick", {"plan": {"k": [[1, 64, K]]}})]
    events.append(Event(float(table["arrival"][int(requests * SHIFT_AT)]), "shift", {"to": "code"}))
    if drafts:
        events.append(Event(end * 0.6, "publish", {"samples": 100}))
        events.append(Event(end * 0.62, "swap", {"version": 1, "ok": True, "stall": 0.25}))
        events.append(Event(end * 0.8, "swap", {"version": 2, "ok": False, "stall": 0.05}))
    cell.events(events)


def request_table(seed: int, requests: int, speedup: float, drafts: bool) -> dict[str, Any]:
    """Columns of RequestRecord. Arrivals and lengths depend on the seed only: arms share them."""
    rng = stream(seed, "traffic")
    arrival = np.cumsum(rng.exponential(0.2, requests))
    prompt, output = rng.integers(20, 200, requests), rng.integers(2, 80, requests)
    code = np.arange(requests) >= requests * SHIFT_AT
    inside = output * STEP_SECONDS / speedup
    scheduled, free = np.empty(requests), np.zeros(SLOTS)
    for i in range(requests):
        lane = int(np.argmin(free))
        scheduled[i] = max(arrival[i], free[lane])
        free[lane] = scheduled[i] + inside[i]
    verify = np.ceil(output / TOKENS_PER_VERIFY).astype(int) if drafts else np.zeros(requests, int)
    first, finish = scheduled + inside / output, scheduled + inside
    columns = {
        "request_id": np.arange(requests),
        "domain": [DOMAINS[int(c)] for c in code],
        "tenant": ["default"] * requests,
        "arrival": arrival,
        "scheduled": scheduled,
        "first_token": first,
        "finish": finish,
        "prompt_tokens": prompt,
        "output_tokens": output,
        "cached_tokens": np.zeros(requests, int),
        "preemptions": np.zeros(requests, int),
        "verify_steps": verify,
        "draft_tokens": verify * K,
        "accepted_tokens": output - verify if drafts else verify,
        "slo_met": finish - arrival < 2.0,
        "status": ["finished"] * requests,
    }
    assert columns.keys() == {f.name for f in fields(RequestRecord)}
    return columns


def step_table(table: Mapping[str, Any], drafts: bool) -> dict[str, np.ndarray]:
    """Columns of StepRecord: equal steps without overlap, each with what was active at its start."""
    done = np.isfinite(table["finish"])
    starts, ends = np.sort(table["scheduled"][done]), np.sort(table["finish"][done])
    arrivals, tokens = np.sort(table["arrival"]), int(np.asarray(table["output_tokens"])[done].sum())
    rate = tokens / float((ends - starts).sum())
    width = TOKENS_PER_VERIFY**drafts / rate
    grid = np.arange(0.0, ends[-1] + width, width)
    made = np.round(rate * (_elapsed(starts, grid) - _elapsed(ends, grid))).astype(int)
    busy = np.flatnonzero(np.diff(made))
    edge = grid[busy]
    output = np.diff(made)[busy]
    running = np.searchsorted(starts, edge, "right") - np.searchsorted(ends, edge, "right")
    batch = np.maximum(running, 1)
    accepted = np.clip(output - batch, 0, K * batch) if drafts else np.zeros(len(busy), int)
    columns = {
        "start": edge,
        "seconds": np.full(len(busy), width),
        "batch": batch,
        "k": np.full(len(busy), K * drafts),
        "prefill_tokens": np.zeros(len(busy), int),
        "output_tokens": output,
        "offered": np.minimum(accepted + batch, K * batch) * drafts,
        "accepted": accepted,
        "running": batch,
        "waiting": np.searchsorted(arrivals, edge, "right") - np.searchsorted(starts, edge, "right"),
        "kv_blocks": batch * 8,
        "drafter_version": np.zeros(len(busy), int),
        "verifier_version": np.zeros(len(busy), int),
    }
    assert columns.keys() == {f.name for f in fields(StepRecord)}
    return columns


def _elapsed(moments: np.ndarray, grid: np.ndarray) -> np.ndarray:
    """Sum over sorted `moments` of the time since each, at every time of `grid`."""
    past = np.searchsorted(moments, grid, "right")
    return past * grid - np.concatenate([[0.0], np.cumsum(moments)])[past]
