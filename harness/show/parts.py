"""What all tables of the terminal are made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text


def heading(text: str) -> Text:
    return Text(text, "italic")


def new_table(columns: Sequence[str]) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for i, name in enumerate(columns):
        table.add_column(name, justify="right" if i else "left", no_wrap=True)
    return table


def number(value: float | None, digits: int, factor: float = 1.0) -> str:
    return "-" if value is None else f"{value * factor:,.{digits}f}"


def speedup(summary: Mapping[str, Any], arm: str, over: str) -> str:
    if arm == over:
        return "1"
    pair = next((p for p in summary["pairs"] if p["arm"] == arm and p["over"] == over), None)
    if pair is None:
        return "-"
    found = pair["ratios"][summary["headline_ratio"]]
    if found["low"] is None:
        return number(found["estimate"], 3)
    return f"{found['estimate']:.3f} [{found['low']:.3f}, {found['high']:.3f}]"


def mean_k(mean: Mapping[str, Any]) -> float | None:
    shares: Mapping[str, float] = mean["k_histogram"] or {}
    return sum(int(k) * share for k, share in shares.items()) if shares else None


def length(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def interval(found: Mapping[str, float | None], digits: int) -> str:
    mean, low, high = (number(found[key], digits) for key in ("mean", "low", "high"))
    return mean if found["low"] is None else f"{mean} [{low}, {high}]"
