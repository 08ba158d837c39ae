"""A run in short: speedups with intervals, what each arm did, the verdict."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from harness.show.parts import heading, mean_k, new_table, number, speedup


def summary_table(summary: Mapping[str, Any], out: Path) -> Group:
    """Speedups with intervals, what each arm did, the verdict, and where the report is."""
    from harness.compare.drift import unsteady

    best = (summary["verdict"]["best_static"] or {}).get("arm")
    verdict = summary["verdict"]
    seeds = len(summary["seeds"])
    lines: list[Any] = [
        heading(f"{summary['scenario']}: speedup over the same requests, 95% interval, {seeds} paired seeds"),
        _speedups(summary, best),
        heading("Means over seeds of: median TTFT, mean TPOT, E2E at 90%, acceptance length (with bonus), K"),
        _arms(summary),
    ]
    lines += [
        Text(f"check failed: {c['name']}: {c['detail']}", "red") for c in verdict["checks"] if not c["ok"]
    ]
    if told := unsteady(summary.get("step_drift")):
        lines.append(Text(told, "yellow"))
    lines += [_headline(sentence, summary["arms"]) for sentence in verdict["headline"].split("; ")]
    return Group(*lines, Text(f"report: {out / 'report.html'}"))


def _headline(sentence: str, arms: Iterable[str]) -> Text:
    """The sentence with the names of arms set apart: an arm may be called `goodput`, like a metric."""
    words = sentence.split(" ")
    named = [f"`{w}`" if i == 0 and w in arms else w for i, w in enumerate(words)]
    return Text(" ".join(f"`{w[:-1]}`:" if w.endswith(":") and w[:-1] in arms else w for w in named), "bold")


def _speedups(summary: Mapping[str, Any], best: str | None) -> Table:
    over = [arm for arm in dict.fromkeys((best, "none")) if arm and arm in summary["arms"]]
    table = new_table(("arm", *(f"over {arm}" for arm in over), "tokens/s", "goodput"))
    for arm, entry in summary["arms"].items():
        mean = entry["mean"]
        table.add_row(
            arm,
            *(speedup(summary, arm, other) for other in over),
            number(mean["tokens_per_second"], 0),
            number(mean["goodput"], 0),
        )
    return table


def _arms(summary: Mapping[str, Any]) -> Table:
    columns = ("arm", "TTFT ms", "TPOT ms", "E2E s", "length", "K", "swaps", "SLO")
    table = new_table(columns)
    for arm, entry in summary["arms"].items():
        mean = entry["mean"]
        table.add_row(
            arm,
            number(mean["ttft"]["p50"], 0, 1e3),
            number(mean["tpot"]["mean"], 2, 1e3),
            number(mean["e2e"]["p90"], 2),
            number(mean["acceptance_length"], 2),
            number(mean_k(mean), 2),
            number(mean["swaps"], 1),
            number(mean["slo_attainment"], 3),
        )
    return table
