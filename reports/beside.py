"""Live beside simulated: what side-by-side.json says, as tables and a figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from reports.arms import Arm
from reports.numbers import ABSENT, common_digits, number
from reports.palette import light
from reports.svg import NARROW, STEPS, WIDTHS, drawing, inline_svg, quiet_grid
from reports.tables import Cell, Column, Row, Table

Beside = Mapping[str, Any]
METRICS = (
    ("tokens_per_second", "output tokens", "tokens/s", 1.0),
    ("tpot", "TPOT, mean", "ms", 1e3),
    ("ttft_p50", "TTFT, p50", "ms", 1e3),
    ("acceptance_length", "acceptance length", "tokens", 1.0),
    ("speedup", "speedup", "", 1.0),
)
"""Name in the file, heading, unit, factor to that unit."""
OUTSIDE = "*"
PANEL = 0.8
"""Inches per arm."""


def beside_tables(arms: Sequence[Arm], found: Beside) -> list[Table]:
    """Measured, simulated and the error of each metric by arm; then how the replay knew its verify steps."""
    rows: list[list[Cell]] = [[] for _ in arms]
    for name, _, _, factor in METRICS:
        for row, cells in zip(rows, _columns(arms, found, name, factor), strict=True):
            row.extend(cells)
    columns = tuple(
        Column(title, unit, group=heading) for _, heading, unit, _ in METRICS for title, unit in _titles(unit)
    )
    table = Table("Live and simulated", columns, _rows(arms, rows), note=_note(found))
    replays = [_entry(found, arm).get("replay") for arm in arms]
    return [table, _known(arms, found, replays)] if any(replays) else [table]


def beside_figure(arms: Sequence[Arm], found: Beside, form: str) -> Markup | None:
    """Acceptance length over time, one panel an arm: live in its colour, simulated dotted. None without curves."""
    shown = [
        arm for arm in arms if all(_curve(found, side, arm) is not None for side in ("live", "simulated"))
    ]
    if not shown:
        return None
    with drawing(f"beside-{form}"):
        figure = Figure(figsize=(WIDTHS[form], (PANEL + 0.2) * len(shown) + 0.4), layout="constrained")
        axes = figure.subplots(len(shown), 1, sharex=True, squeeze=False)[:, 0]
        for place, arm in zip(axes, shown, strict=True):
            _panel(place, arm, found)
        axes[-1].set_xlabel("time since the run began, s")
        axes[-1].xaxis.set_major_locator(MaxNLocator(5 if form == NARROW else 10, steps=STEPS))
        axes[-1].xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,g}"))
        names = ", ".join(arm.name for arm in shown)
        alt = f"Acceptance length over time, live and simulated, one panel per arm: {names}."
        return inline_svg(figure, "beside", form, alt)


def _panel(axes: Axes, arm: Arm, found: Beside) -> None:
    axes.set_title(f"{arm.name}: acceptance length")
    for side, colour, style, width in (
        ("live", arm.colour, "-", 1.4),
        ("simulated", light("ink"), (0, (1.2, 1.4)), 1.2),
    ):
        edges = np.asarray(found["series"][side]["edges"], float)
        values = np.array([np.nan if v is None else v for v in _curve(found, side, arm) or ()], float)
        axes.plot((edges[1:] + edges[:-1]) / 2, values, color=colour, linestyle=style, linewidth=width)
    axes.yaxis.set_major_locator(MaxNLocator(3, min_n_ticks=2, steps=STEPS))
    quiet_grid(axes)


def _curve(found: Beside, side: str, arm: Arm) -> Sequence[float | None] | None:
    """None where the arm has no curve on that side, or never verified a draft."""
    series = found["series"][side] or {"acceptance_length": {}}
    values: Sequence[float | None] = series["acceptance_length"].get(arm.name) or ()
    return values if any(v is not None for v in values) else None


def _titles(unit: str) -> list[tuple[str, str]]:
    return [("live", unit), ("simulated", unit), ("error, %", unit)]


def _columns(arms: Sequence[Arm], found: Beside, name: str, factor: float) -> list[list[Cell]]:
    """Three cells an arm: live, simulated, error in percent with a sign outside its bar."""
    entries = [_entry(found, arm).get("metrics", {}).get(name) for arm in arms]
    values = [entry[side] for entry in entries if entry for side in ("live", "simulated")]
    digits = common_digits(values, factor)
    return [
        [Cell(ABSENT)] * 3
        if entry is None
        else [*(Cell(number(entry[s], digits, factor)) for s in ("live", "simulated")), _error(entry)]
        for entry in entries
    ]


def _error(entry: Mapping[str, Any]) -> Cell:
    text = ABSENT if entry["error"] is None else f"{entry['error'] * 100:+.1f}"
    outside = entry["within"] is False
    return Cell(f"{text} {OUTSIDE}" if outside else text, mark="slower" if outside else "")


def _known(arms: Sequence[Arm], found: Beside, replays: Sequence[Mapping[str, int] | None]) -> Table:
    """What of the replay was known; `k_distance` beside it, for a policy whose K moved needs more draws."""
    columns = (
        Column("K differs", "% of decode steps"),
        Column("known"),
        Column("drawn: more drafts than recorded"),
        Column("drawn: no step recorded there"),
    )
    rows = [
        [Cell(number(_entry(found, arm).get("k_distance"), 1, 100.0))]
        + [Cell(number(told[name] if told else None, 0)) for name in ("exact", "censored", "absent")]
        for arm, told in zip(arms, replays, strict=True)
    ]
    return Table("Verify steps of the simulation", columns, _rows(arms, rows))


def _entry(found: Beside, arm: Arm) -> Mapping[str, Any]:
    entry: Mapping[str, Any] = found["arms"].get(arm.name, {})
    return entry


def _rows(arms: Sequence[Arm], cells: Sequence[Sequence[Cell]]) -> tuple[Row, ...]:
    return tuple(Row(arm.name, tuple(row), arm) for arm, row in zip(arms, cells, strict=True))


def _note(found: Beside) -> str:
    bars = ", ".join(f"{name.replace('_', ' ')} {bar:.0%}" for name, bar in found["bars"].items())
    over = f" Speedup is over {found['reference']}." if found["reference"] else ""
    return f"Error: simulated / live - 1; {OUTSIDE} outside its bar (bars: {bars}).{over}"
