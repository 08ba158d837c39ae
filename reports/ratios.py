"""The speedup tables: paired ratios with their intervals, exactly as summary.json has them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from reports.arms import Arm
from reports.numbers import ABSENT, estimate, interval
from reports.tables import Cell, Column, Row, Table

Summary = Mapping[str, Any]
OUTCOMES = {
    "faster": "faster: the interval lies above 1",
    "slower": "slower: the interval lies below 1",
    "undecided": "undecided: the interval holds 1",
    "unknown": "unknown: there is no interval",
}
TITLES = {
    "speedup": "speedup",
    "goodput": "goodput",
    "tokens_per_second": "tokens/s",
    "e2e": "E2E",
    "tpot": "TPOT",
    "ttft": "TTFT",
}
REFERENCE = "reference"


def references(summary: Summary) -> list[str]:
    """The arms that others are held against: the best static one, then the one without speculation."""
    best = summary["verdict"]["best_static"]
    plain = [name for name, arm in summary["arms"].items() if arm["policy"] == "none"]
    return list(dict.fromkeys([*([best["arm"]] if best else []), *plain]))


def pair(summary: Summary, arm: str, over: str) -> Mapping[str, Any] | None:
    """Ratios of `arm` over `over` by name, or None where the summary has no such pair."""
    return next((p["ratios"] for p in summary["pairs"] if (p["arm"], p["over"]) == (arm, over)), None)


def speedup_table(arms: Sequence[Arm], summary: Summary) -> Table:
    """The headline ratio of every arm over each reference, and what the verdict found."""
    name, over = summary["headline_ratio"], references(summary)
    columns = [c for other in over for c in _ratio_columns(f"over {other}")]
    found = {f["arm"]: f for f in summary["verdict"]["findings"]}
    rows = []
    for arm in arms:
        cells = [c for other in over for c in ratio_cells(summary, arm.name, other, name)]
        rows.append(Row(arm.name, (Cell(arm.kind, mark="left"), *cells, _found(found.get(arm.name))), arm))
    return Table(
        f"{TITLES.get(name, name)} with 95% interval",
        (Column("kind", left=True), *columns, Column("verdict", left=True)),
        tuple(rows),
        note=_dashes(arms, summary, over, [name]),
    )


def other_table(arms: Sequence[Arm], summary: Summary) -> Table | None:
    """Every other ratio over the best static arm; flagged where the verdict lists it as contradicting."""
    over = references(summary)[:1]
    names = [n for n in summary["ratios"] if n != summary["headline_ratio"]]
    if not over or not names:
        return None
    against = {f["arm"]: f["against"] for f in summary["verdict"]["findings"]}
    rows = []
    for arm in arms:
        marks = against.get(arm.name, [])
        cells = [
            c
            for n in names
            for c in ratio_cells(summary, arm.name, over[0], n, "worse" if n in marks else "")
        ]
        rows.append(Row(arm.name, tuple(cells), arm))
    columns = tuple(c for n in names for c in _ratio_columns(TITLES.get(n, n)))
    return Table(
        f"Other ratios over {over[0]}, each with its 95% interval",
        columns,
        tuple(rows),
        note="Every ratio reads: above 1 is better; latencies are inverted for that."
        + _dashes(arms, summary, over, names),
    )


def matrix_table(arms: Sequence[Arm], summary: Summary) -> Table:
    """The headline ratio of every pair: row over column."""
    name = summary["headline_ratio"]
    columns = tuple(c for other in arms for c in _ratio_columns(f"over {other.name}"))
    rows = tuple(
        Row(
            arm.name,
            tuple(c for other in arms for c in ratio_cells(summary, arm.name, other.name, name)),
            arm,
        )
        for arm in arms
    )
    return Table(f"{TITLES.get(name, name)} of every pair: row over column", columns, rows)


def ratio_cells(summary: Summary, arm: str, over: str, name: str, mark: str = "") -> tuple[Cell, Cell]:
    """Estimate and interval of one ratio."""
    data = {"arm": arm, "over": over, "ratio": name}
    if arm == over:
        return Cell(REFERENCE, mark="quiet"), Cell("")
    ratios = pair(summary, arm, over)
    if ratios is None:
        return Cell(ABSENT, mark="quiet"), Cell("not in the summary", mark="quiet")
    found = ratios[name]
    shown = Cell(interval(found), data=data | {"part": "interval"})
    return Cell(estimate(found), mark=mark, data=data | {"part": "estimate"}), shown


def _dashes(arms: Sequence[Arm], summary: Summary, over: Sequence[str], names: Sequence[str]) -> str:
    """Why some of these ratios have no value or no interval, each reason once."""
    pairs = [found for arm in arms for other in over if (found := pair(summary, arm.name, other))]
    reasons = [found[name]["reason"] for found in pairs for name in names if found[name]["low"] is None]
    return "".join(f" A dash: {reason}." for reason in dict.fromkeys(reasons))


def _ratio_columns(group: str) -> tuple[Column, Column]:
    return Column("ratio", "", "higher", group), Column("95% interval", "", "higher", group)


def _found(finding: Mapping[str, Any] | None) -> Cell:
    if finding is None:
        return Cell("")
    text = str(finding["outcome"])
    if finding["beats_every_static"]:
        text += ", beats every static arm"
    if finding["against"]:
        text += f", but worse: {', '.join(TITLES.get(n, n) for n in finding['against'])}"
    return Cell(text, mark=f"left {finding['outcome']}")
