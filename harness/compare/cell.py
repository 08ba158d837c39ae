"""One cell (arm x seed) condensed to metrics. Definitions stand in `metrics.py`."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from harness.compare.trainer import trainer_cost
from harness.runlog import Run

PERCENTILES = (50, 90, 99)
STATUSES = ("finished", "unfinished", "rejected", "failed")


def cell_metrics(run: Run, arm: str, seed: int) -> dict[str, Any]:
    """All metrics of one cell; None where nothing was there to measure. Times in seconds."""
    requests = run.requests(arm, seed)
    steps = step_totals(run, arm, seed)
    done = requests[requests["status"] == "finished"]
    span = _span(requests, steps["end"])
    duration = span[1] - span[0] if span else None
    events = run.events(arm, seed, kinds=("swap", "trainer"))
    cost = trainer_cost(run.info["arms"][arm], events, duration)
    return {
        **throughput(done, duration, cost["served_share"]),
        "duration": duration,
        "span": span,
        **latencies(done),
        "slo_attainment": _share(int((done["slo_met"]).sum()), len(requests)),
        "acceptance_length": acceptance_length(requests),
        "k_histogram": steps["k_histogram"],
        **_swaps(events),
        "trainer_cost": cost["trainer_cost"],
        "trainer_cost_basis": cost["basis"],
        "preemptions": int(requests["preemptions"].sum()),
        "requests": {status: int((requests["status"] == status).sum()) for status in STATUSES},
        "by_domain": by_label(requests, "domain"),
        "by_tenant": by_label(requests, "tenant"),
        "fingerprint": fingerprint(requests, run.info["mode"]),
    }


def throughput(done: pd.DataFrame, duration: float | None, served_share: float) -> dict[str, Any]:
    """Rates over `duration`; goodput is scaled by `served_share` of the accelerator-seconds."""
    if not duration:
        return dict.fromkeys(("goodput", "goodput_gross", "tokens_per_second", "requests_per_second"))
    gross = int(done.loc[done["slo_met"], "output_tokens"].sum()) / duration
    return {
        "goodput": gross * served_share,
        "goodput_gross": gross,
        "tokens_per_second": int(done["output_tokens"].sum()) / duration,
        "requests_per_second": len(done) / duration,
    }


def latencies(done: pd.DataFrame) -> dict[str, Any]:
    """Queue, TTFT, TPOT and E2E of finished requests, and engine time per output token."""
    many = done[done["output_tokens"] >= 2]
    tokens = int(done["output_tokens"].sum())
    inside = float((done["finish"] - done["scheduled"]).sum(skipna=False)) if tokens else None
    return {
        "engine_time_per_token": _number(inside / tokens) if inside is not None else None,
        "queue": _spread(done["scheduled"] - done["arrival"])["mean"],
        "ttft": _spread(done["first_token"] - done["arrival"]),
        "tpot": _spread((many["finish"] - many["first_token"]) / (many["output_tokens"] - 1)),
        "e2e": _spread(done["finish"] - done["arrival"]),
    }


def acceptance_length(requests: pd.DataFrame) -> float | None:
    """Tokens per verify step, bonus included; None when no draft was ever verified."""
    verified = int(requests["verify_steps"].sum())
    return 1.0 + int(requests["accepted_tokens"].sum()) / verified if verified else None


def by_label(requests: pd.DataFrame, label: str) -> dict[str, dict[str, Any]]:
    """Per domain or tenant: requests, SLO attainment, acceptance length, mean TPOT and E2E."""
    found = {}
    for name, group in requests.groupby(label, observed=True, sort=True):
        done = group[group["status"] == "finished"]
        times = latencies(done)
        found[str(name)] = {
            "requests": len(group),
            "slo_attainment": _share(int(done["slo_met"].sum()), len(group)),
            "acceptance_length": acceptance_length(group),
            "engine_time_per_token": times["engine_time_per_token"],
            "tpot": times["tpot"]["mean"],
            "e2e": times["e2e"]["mean"],
        }
    return found


def step_totals(run: Run, arm: str, seed: int) -> dict[str, Any]:
    """Streamed over the cell's steps: end of the last one, and the share of decode steps by K."""
    end, counts = -np.inf, np.zeros(0, np.int64)
    for batch in run.batches("steps", arm, seed, ("start", "seconds", "batch", "k")):
        start, seconds, size, k = (column.to_numpy() for column in batch.columns)
        end = max(end, float(np.max(start + seconds)))
        found = np.bincount(k[size > 0])
        counts = np.pad(counts, (0, max(0, len(found) - len(counts))))
        counts[: len(found)] += found
    total = int(counts.sum())
    histogram = {str(k): int(c) / total for k, c in enumerate(counts) if c} if total else None
    return {"end": end if np.isfinite(end) else None, "k_histogram": histogram}


def fingerprint(requests: pd.DataFrame, mode: str) -> dict[str, str]:
    """Digests that are equal for two arms exactly when they saw the same requests, and made the same lengths.

    Arrivals count in the simulator only: a live client's sends jitter by microseconds.
    """
    ordered = requests.sort_values("request_id", kind="stable")
    seen = ["request_id", "prompt_tokens", *(["arrival"] if mode == "sim" else [])]
    return {
        "requests": _digest(ordered, [*seen, "domain", "tenant"]),
        "outputs": _digest(ordered, ["request_id", "output_tokens"]),
    }


def _digest(frame: pd.DataFrame, columns: list[str]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for name in columns:
        column = frame[name]
        if isinstance(column.dtype, pd.CategoricalDtype):
            digest.update("\0".join(column.astype(str)).encode())
        else:
            digest.update(np.ascontiguousarray(column.to_numpy()).tobytes())
    return digest.hexdigest()


def _span(requests: pd.DataFrame, step_end: float | None) -> tuple[float, float] | None:
    """First arrival, and the end of the last step or request; None when nothing ended."""
    ends = [e for e in (float(requests["finish"].max()), step_end) if e is not None and np.isfinite(e)]
    return (float(requests["arrival"].min()), max(ends)) if ends and len(requests) else None


def _swaps(events: pd.DataFrame) -> dict[str, Any]:
    swaps: list[Mapping[str, Any]] = list(events.loc[events["kind"] == "swap", "detail"])
    worked = [bool(s.get("ok", True)) for s in swaps]
    return {
        "swaps": sum(worked),
        "failed_swaps": len(worked) - sum(worked),
        "stall_seconds": float(sum(s.get("stall") or 0.0 for s in swaps)),
    }


def _spread(values: pd.Series) -> dict[str, float | None]:
    """Mean and percentiles (linear between ranks); all None when empty or when a time is missing."""
    array = values.to_numpy(dtype=np.float64)
    if not len(array) or np.isnan(array).any():
        return dict.fromkeys(("mean", *(f"p{p}" for p in PERCENTILES)))
    points = np.percentile(array, PERCENTILES)
    named = {f"p{p}": float(v) for p, v in zip(PERCENTILES, points, strict=True)}
    return {"mean": float(array.mean()), **named}


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _number(value: float) -> float | None:
    return value if np.isfinite(value) else None
