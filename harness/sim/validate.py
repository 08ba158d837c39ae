"""`specdrift validate`: simulate a measured serving run and say how far off the simulation is.

Nothing is fitted on the run. Its engine arguments and KV-cache size are taken as given, its arrivals
and lengths are replayed, and the latency model comes from kernel tables measured apart from it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from harness.errors import InputError
from harness.latency import load as load_latency
from harness.latency.model import LatencyModel
from harness.sim.engine import Engine, EngineConfig, Labels
from harness.sim.measured import MeasuredRun, read_measured
from harness.sim.published import published_checks
from harness.sim.ranks import serve_ranks

STATISTICS = ("mean", "median", "p90", "p99")
BARS = {"ttft": 0.10, "tpot": 0.02, "e2e": 0.03}
"""Largest relative error of the mean that passes."""

PEER = "LLMServingSim"
PEER_MEAN_ERRORS = {
    "RTX4090_Llama-3.1-8B": {"ttft": 0.006, "tpot": 0.002, "e2e": 0.005},
    "RTXPRO6000_Llama-3.1-8B": {"ttft": -0.040, "tpot": -0.010, "e2e": -0.018},
    "RTXPRO6000_Qwen3-30B-A3B-Instruct-2507": {"ttft": -0.136, "tpot": -0.017, "e2e": -0.022},
}
"""Published by that project for the same runs (its validation summaries)."""


def validate(*, measured: Path | None, latency: str | None, published: bool) -> dict[str, Any]:
    """Errors of the simulation; `ok` when all stay within the bars. Plain data, ready for JSON."""
    if published == (measured is not None):
        raise InputError("give --measured RUN with --latency TABLES, --live RUN, or --published")
    if published:
        return published_checks()
    if measured is None or latency is None:
        raise InputError("--measured needs --latency: the kernel tables of the card that the run was made on")
    run = read_measured(measured)
    simulated, model = simulate_measured(run, latency)
    return _compare(run, simulated, model)


def simulate_measured(run: MeasuredRun, latency: str) -> tuple[dict[str, np.ndarray], LatencyModel]:
    """Serve the run's requests on the simulated engine; times per request, seconds."""
    if (shards := int(run.engine.get("tensor_parallel_size") or 1)) > 1:
        raise InputError(
            f"run {run.name} split its model over {shards} cards (tensor_parallel_size), but the tables are of one"
        )
    ranks = int(run.engine.get("data_parallel_size") or 1)
    experts = ranks if run.engine.get("enable_expert_parallel") else 1
    model = load_latency(latency, ep=experts) if experts > 1 else load_latency(latency)
    config = EngineConfig(
        max_num_seqs=int(run.engine.get("max_num_seqs") or 256),
        max_num_batched_tokens=int(run.engine.get("max_num_batched_tokens") or 2048),
        kv_tokens=run.kv_tokens or model.kv_capacity_tokens or _unknown_kv(run),
        prefix_caching=run.prefix_caching,
        async_scheduling=run.async_scheduling,
        max_k=0,
        drafter_loaded=False,
    )
    labels = Labels(domains=("unknown",), tenants=("unknown",))
    done, steps = serve_ranks([Engine(config, labels, model, seed=0) for _ in range(ranks)], run.requests)
    done = np.sort(done, order="request_id")
    queued = _taken_off_queue(done["arrival"], steps)
    return {
        "ttft": done["first_token"] - queued,
        "ttft_client": done["first_token"] - done["arrival"],
        "tpot": (done["finish"] - done["first_token"]) / np.maximum(done["generated"] - 1, 1),
        "e2e": done["finish"] - queued,
    }, model


def _unknown_kv(run: MeasuredRun) -> int:
    raise InputError(
        f"neither run {run.name} nor the latency model says what the KV cache held; "
        "add kv_cache.num_kv_tokens to its meta.json"
    )


def _taken_off_queue(arrival: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """When the engine's loop saw each request: at the end of the step under way, at once when idle.

    This is what vLLM stamps as `queued_ts`, so measured and simulated TTFT mean the same.
    """
    start, first = np.unique(steps["start"], return_index=True)
    end = start + steps["seconds"][first]
    under_way = np.searchsorted(start, arrival, side="left") - 1  # a step that starts with it was idle before
    inside = (under_way >= 0) & (arrival < end[np.maximum(under_way, 0)])
    return np.where(inside, end[np.maximum(under_way, 0)], arrival)


def _compare(run: MeasuredRun, simulated: Mapping[str, np.ndarray], model: LatencyModel) -> dict[str, Any]:
    real = {"ttft": run.ttft, "ttft_client": run.ttft_client, "tpot": run.tpot, "e2e": run.e2e}
    peer = PEER_MEAN_ERRORS.get(run.name, {})
    rows, errors = [], {}
    for metric, values in real.items():
        for statistic in STATISTICS:
            measured, ours = _statistic(values, statistic), _statistic(simulated[metric], statistic)
            error = ours / measured - 1.0
            errors[f"{metric}.{statistic}"] = {"measured": measured, "simulated": ours, "error": error}
            theirs = f"{peer[metric]:+.1%}" if statistic == "mean" and metric in peer else ""
            bar = f"{BARS[metric]:.0%}" if statistic == "mean" and metric in BARS else ""
            rows.append(
                [f"{metric} {statistic}", f"{measured:,.4f}", f"{ours:,.4f}", f"{error:+.1%}", bar, theirs]
            )
    ok = all(abs(errors[f"{metric}.mean"]["error"]) <= bar for metric, bar in BARS.items())
    check = {
        "title": f"{run.name}: {len(run.requests)} requests, seconds measured and simulated; bars hold the means",
        "columns": ["metric", "measured", "simulated", "error", "bar", PEER],
        "rows": rows,
        "notes": [
            f"latency: {model.note}",
            "ttft and e2e count from the moment the engine took the request off its queue; "
            "ttft_client counts from the client's arrival",
        ],
    }
    return {"ok": ok, "run": run.name, "latency": model.name, "errors": errors, "checks": [check]}


def _statistic(values: np.ndarray, name: str) -> float:
    if name == "mean":
        return float(np.mean(values))
    return float(np.percentile(values, {"median": 50, "p90": 90, "p99": 99}[name]))
