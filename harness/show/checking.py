"""Errors against what was measured, and the gate."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Group
from rich.text import Text

from harness.show.parts import heading, new_table, number


def validation_table(result: Mapping[str, Any]) -> Group:
    """Measured against simulated, metric by metric, beside the best public simulator's error."""
    tables: list[Any] = []
    for check in result["checks"]:
        tables.append(heading(check["title"]))
        table = new_table(check["columns"])
        for row in check["rows"]:
            table.add_row(*(_cell(v) for v in row))
        tables.append(table)
        tables += [Text(note) for note in check["notes"]]
    tables.append(Text("within the bars" if result["ok"] else "NOT within the bars", "bold"))
    return Group(*tables)


def _cell(value: Any) -> str:
    return number(value, 3) if isinstance(value, float) else str(value)


def calibration_table(result: Mapping[str, Any]) -> Group:
    """Held-out errors by operation and of whole steps, fitted gaps, cross-checks."""
    lines: list[Any] = _engine(result["engine"]) if result["engine"] else []
    for source in result["sources"]:
        lines += [*_errors(source), *(Text(note) for note in source["notes"])]
        for reason, count in source["left_out"].items():
            lines.append(Text(f"{count} rows not fitted: {reason}"))
        for fitted in source["models"]:
            lines += _errors(fitted) if fitted["whole"] else []
            lines += [Text(fitted["note"]), Text(_price(fitted))]
    for check in result["cross"]:
        lines += _ratios(check)
    if result["out"]:
        lines.append(Text(f"fitted model: {result['out']}"))
    if result["sources"] or result["engine"]:
        lines.append(Text("within the bar" if result["ok"] else "NOT within the bar", "bold"))
    return Group(*lines)


def _engine(found: Mapping[str, Any]) -> list[Any]:
    table = new_table(("arm", "K", "typical", "mean", "bias", "shapes", "steps"))
    for e in found["errors"]:
        k = "all" if e["k"] is None else str(e["k"])
        shares = (f"{e['typical']:.1%}", f"{e['mean']:.1%}", f"{e['bias']:+.1%}")
        table.add_row(e["arm"], k, *shares, str(e["shapes"]), f"{e['steps']:,}")
    told = [Text(f"{name}: {said}") for name, said in found["provenance"].items()]
    title = f"{found['name']}: held-out error of the typical step, of mean steps, and bias of their sum"
    return [heading(title), table, Text(found["note"]), *told]


def _errors(found: Mapping[str, Any]) -> list[Any]:
    whole = "whole" in found
    title = f"{found['model']}: whole passes" if whole else f"{found['name']} ({found['device']}): kernels"
    columns = ("operation", "mean", "median", "90%", "bias", "held-out shapes")
    table = new_table(columns)
    for error in found["whole" if whole else "kernels"]:
        shares = (error.get(name) for name in ("mean", "median", "p90", "bias"))
        cells = ("-" if share is None else f"{share:.1%}" for share in shares)
        table.add_row(error["op"], *cells, number(error.get("shapes"), 0))
    return [Text(f"{title}, held-out absolute relative error", "bold"), table]


def _price(fitted: Mapping[str, Any]) -> str:
    price = fitted["price"]
    told = [f"{name.replace('_', ' ')} {value:.2f}x" for name, value in price.items() if value is not None]
    gap = f"fitted gap {fitted['gap_us']:.0f} us; " if fitted["whole"] else ""
    at = "K = 4 over K = 0 at batch 64 and 4096 tokens of context"
    return f"{fitted['model']}: {gap}{at}: {', '.join(told)}"


def _ratios(check: Mapping[str, Any]) -> list[Any]:
    table = new_table(("operation", "10%", "median", "90%", "shapes", "median > 20 us", "shapes > 20 us"))
    for row in check["ratios"]:
        cells = [number(row[name], 2) for name in ("q10", "median", "q90")]
        large = [number(row["large_median"], 2), number(row["large_shapes"], 0)]
        table.add_row(row["op"], *cells, number(row["shapes"], 0), *large)
    return [Text(f"time of {check['first']} over time of {check['second']}", "bold"), table]


def gate_table(result: Any) -> Group:
    """The gate's own table, and its decision."""
    return Group(result.table(), Text(result.decision, "bold"))
