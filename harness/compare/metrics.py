"""What is measured: unit, better direction and definition of every metric, once, for all readers."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

Better = Literal["higher", "lower", "neither"]
HEADLINE = "speedup"


@dataclass(frozen=True, slots=True)
class Metric:
    """How to read one number of a summary."""

    unit: str
    better: Better
    definition: str


METRICS: dict[str, Metric] = {
    "goodput": Metric(
        "tokens/s",
        "higher",
        "output tokens of finished requests that met their SLO, per second of `duration`, times the share of "
        "all accelerator-seconds that served: what the trainer's accelerators cost is taken off",
    ),
    "goodput_gross": Metric("tokens/s", "higher", "goodput before the trainer's cost is taken off"),
    "tokens_per_second": Metric(
        "tokens/s", "higher", "output tokens of finished requests per second of `duration`"
    ),
    "requests_per_second": Metric("requests/s", "higher", "finished requests per second of `duration`"),
    "duration": Metric("s", "lower", "first arrival to the end of the last step or request (makespan)"),
    "engine_time_per_token": Metric(
        "s",
        "lower",
        "sum over finished requests of (finish - scheduled), by the sum of their output tokens",
    ),
    "queue": Metric("s", "lower", "mean of scheduled - arrival over finished requests"),
    "ttft": Metric("s", "lower", "first token - arrival, over finished requests"),
    "tpot": Metric(
        "s",
        "lower",
        "(finish - first token) / (output tokens - 1), over finished requests of 2 tokens or more",
    ),
    "e2e": Metric("s", "lower", "finish - arrival, over finished requests"),
    "slo_attainment": Metric(
        "share", "higher", "requests that finished within their SLO, of all that arrived"
    ),
    "acceptance_length": Metric(
        "tokens",
        "neither",
        "1 + accepted / verified, over sequence-steps that verified at least one draft (K >= 1): tokens per "
        "verify step, bonus included; misleads as a target, so it ranks nothing",
    ),
    "k_histogram": Metric("share", "neither", "share of decode steps by K"),
    "swaps": Metric("count", "neither", "swaps of drafter weights that worked"),
    "failed_swaps": Metric("count", "lower", "swaps that did not"),
    "stall_seconds": Metric(
        "s", "lower", "seconds in which no step ran because of a swap, failed ones included"
    ),
    "trainer_cost": Metric(
        "accelerator-seconds",
        "lower",
        "trainer accelerators times the seconds they were busy (basis `busy`) or, where the log is silent, "
        "held (`held`: the whole duration); `none` when none are set apart",
    ),
    "preemptions": Metric("count", "lower", "times a request lost its KV blocks and was recomputed"),
}

RATIOS: dict[str, str] = {
    HEADLINE: "engine_time_per_token",
    "goodput": "goodput",
    "tokens_per_second": "tokens_per_second",
    "e2e": "e2e",
    "tpot": "tpot",
    "ttft": "ttft",
}
"""Paired ratios by name, and the metric each is made of (latencies: the mean). All read 'above 1 is
better': lower-is-better metrics are inverted."""


def ratio_note(name: str) -> dict[str, Any]:
    """What a reader needs beside the ratio `name`."""
    metric = METRICS[RATIOS[name]]
    over = "arm / other" if metric.better == "higher" else "other / arm"
    return {"of": RATIOS[name], "is": over, "unit": "1", "better": "higher"}


def notes() -> dict[str, dict[str, Any]]:
    """The table above as plain data, for summary.json."""
    return {name: asdict(metric) for name, metric in METRICS.items()}
