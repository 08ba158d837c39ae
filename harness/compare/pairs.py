"""Arms against arms, paired by seed: the ratios of `metrics.RATIOS` with their intervals."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import permutations
from typing import Any

from harness.compare.interval import ratio
from harness.compare.metrics import METRICS, RATIOS
from harness.errors import UnknownName

Cells = Mapping[str, Mapping[int, Mapping[str, Any]]]
"""arm -> seed -> metrics of `cell.cell_metrics`."""


def paired_ratios(cells: Cells) -> list[dict[str, Any]]:
    """Every ordered pair of arms: {'arm', 'over', 'ratios': {name: interval}}; above 1 favours `arm`."""
    return [
        {"arm": arm, "over": over, "ratios": {name: _paired(cells, arm, over, name) for name in RATIOS}}
        for arm, over in permutations(cells, 2)
    ]


def find_pair(summary: Mapping[str, Any], arm: str, over: str) -> dict[str, Any]:
    """The pair (arm, over) of a summary. UnknownName when one of them did not run."""
    for name in (arm, over):
        if name not in summary["arms"]:
            raise UnknownName("arm", name, summary["arms"])
    return next(p for p in summary["pairs"] if (p["arm"], p["over"]) == (arm, over))


def _paired(cells: Cells, arm: str, over: str, name: str) -> dict[str, Any]:
    metric = RATIOS[name]
    top, bottom = (arm, over) if METRICS[metric].better == "higher" else (over, arm)
    return ratio(
        {
            seed: (_value(cells[top][seed], metric), _value(cells[bottom][seed], metric))
            for seed in sorted(cells[arm])
        }
    )


def _value(cell: Mapping[str, Any], metric: str) -> float | None:
    value = cell[metric]
    return value["mean"] if isinstance(value, Mapping) else value
