"""A sweep in short: the speedup of every arm at every point."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.table import Table
from rich.text import Text

from harness.show.parts import heading, number


def sweep_table(result: Mapping[str, Any], out: Path) -> Group:
    """One row a point, one column an arm; a * where a run's own checks failed."""
    arms = list(dict.fromkeys(row["arm"] for point in result["points"] for row in point["arms"]))
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("point", no_wrap=True)
    table.add_column(", ".join(result["grid"]), overflow="fold")
    for arm in arms:
        table.add_column(arm, justify="right", overflow="fold", min_width=5)
    for point in result["points"]:
        by_arm = {row["arm"]: row for row in point["arms"]}
        settings = ", ".join(str(value) for value in point["settings"].values())
        table.add_row(point["run"], settings, *(_speedup(by_arm.get(arm)) for arm in arms))
    seeds = result["options"]["seeds"]
    return Group(
        heading(f"speedup over the best static arm of each point, {seeds} paired seeds"),
        table,
        Text(f"{out / 'sweep.html'}, {out / 'sweep.csv'}, and a run for each point"),
    )


def _speedup(row: Mapping[str, Any] | None) -> str:
    return "-" if row is None else number(row["speedup"], 3) + ("" if row["ok"] else " *")
