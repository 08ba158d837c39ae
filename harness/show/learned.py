"""A learned policy in short."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Group
from rich.text import Text

from harness.show.parts import heading, new_table, number


def learned_table(learned: Mapping[str, Any], out: Path) -> Group:
    """How it went, in ten lines at most, and how to run it."""
    table = new_table(("ticks", "episodes", "speedup over its first episodes"))
    curve = learned["curve"]
    for point in curve[:: max(1, -(-len(curve) // 10))]:
        table.add_row(f"{point['ticks']:,}", str(point["episodes"]), number(point["speedup"], 3))
    scenarios = ", ".join(learned["scenarios"])
    return Group(
        heading(f"learned on {scenarios}; episodes differ by seed, so compare arms over the same requests:"),
        table,
        Text(f"specdrift simulate --policy static:3 --policy bandit --policy ppo:{out} --seed 1000"),
    )
