"""A recorded run beside what the simulator makes of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Group
from rich.text import Text

from harness.show.parts import heading, length, mean_k, new_table, number, speedup


def side_by_side_table(result: Mapping[str, Any]) -> Group:
    """Live beside simulated: error by arm and metric, a * at each that is not within its bar."""
    bars = result["bars"]
    columns = ("arm", "tokens/s", "TPOT", "TTFT p50", "length", "speedup", "K differs")
    table = new_table(columns)
    for arm, entry in result["arms"].items():
        found = entry["metrics"]
        names = ("tokens_per_second", "tpot", "ttft_p50", "acceptance_length", "speedup")
        errors = (_error(found.get(name)) for name in names)
        differs = entry["k_distance"]
        table.add_row(arm, *errors, "-" if differs is None else f"{differs:.1%}")
    told = ", ".join(f"{name.replace('_', ' ')} {bar:.0%}" for name, bar in bars.items())
    return Group(
        heading(f"{result['scenario']}: simulated against {result['mode']}, relative errors; bars: {told}"),
        table,
        Text(f"latency: {(result['latency'] or {}).get('note', 'not said')}"),
        Text("within the bars" if result["ok"] else "NOT within the bars (*)", "bold"),
    )


def _error(found: Mapping[str, Any] | None) -> str:
    if found is None or found["error"] is None:
        return "-" if found is None or found["within"] is None else "- *"
    return f"{found['error']:+.1%}{' *' if found['within'] is False else ''}"


def offline_table(result: Mapping[str, Any], out: Path) -> Group:
    """Replayed speedups; what was measured of the arms that ran: how far the replay is off; what the record knew."""
    found = result["offline"]
    over, arms = found["reference"], found["arms"]
    table = new_table(("arm", f"over {over}", "measured", "error", "mean K", "known"))
    for arm, entry in arms.items():
        measured, replayed = entry["measured"], entry["replayed"]
        table.add_row(
            arm,
            speedup(result, arm, over),
            number(measured, 3),
            f"{replayed / measured - 1:+.1%}" if measured and replayed else "-",
            number(mean_k(result["arms"][arm]["mean"]), 2),
            "-" if entry["known"] is None else f"{entry['known']:.0%}",
        )
    lent = [f"{arm} meets the drafter of {e['lender']}" for arm, e in arms.items() if e["lender"]]
    return Group(
        heading(f"{result['scenario']}, replayed: speedup with 95% interval over paired seeds"),
        table,
        *map(Text, lent),
        Text("known: share of verify steps that the record answers; the others are drawn from steps near by"),
        Text(f"latency: {(found['latency'] or {}).get('note', 'not said')}"),
        Text(f"report: {out / 'report.html'}"),
    )


def curves_table(result: Mapping[str, Any]) -> Group:
    """Acceptance length along the requests, live / learnt anew by the simulator; then how far apart they are."""
    arms, block = result["arms"], result["block"]
    table = new_table(("requests from", *arms))
    for i in range(max(len(entry["live"]) for entry in arms.values())):
        table.add_row(f"{i * block:,}", *(_point(entry, i) for entry in arms.values()))
    table.add_section()
    table.add_row("mean difference", *(length(entry["mean"]) for entry in arms.values()))
    largest = (length(e["largest"]) + ("" if e["within"] else " *") for e in arms.values())
    table.add_row("largest difference", *largest)
    pace = result["samples_per_second"]
    trained = "nothing was trained" if pace is None else f"the trainer's pace was {pace:.1f} traces a second"
    return Group(
        heading(f"{result['scenario']}: acceptance length, live / simulated with its own learner"),
        table,
        Text(f"means over seeds; {trained}; bar: {result['bar']} at every point"),
        Text("within the bar" if result["ok"] else "NOT within the bar (*)", "bold"),
    )


def _point(entry: Mapping[str, Any], i: int) -> str:
    return f"{length(entry['live'][i])} / {length(entry['simulated'][i])}"
