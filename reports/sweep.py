"""The page of a sweep: where on the grid does which arm pay. Draws what sweep.json holds, computes nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from harness.errors import InputError
from harness.runlog import read_json
from reports.arms import Arm, shorten
from reports.numbers import ABSENT, RATIO_DIGITS, number
from reports.palette import ARMS, light
from reports.svg import NARROW, STEPS, WIDE, WIDTHS, drawing, inline_svg, quiet_grid
from reports.templating import fill
from reports.write import write_page

SWEEP_VERSION = 1
MOST_PANELS = 12
PANEL = 1.9
"""Inches of height."""
DODGE = 0.11
"""Between arms at the same name."""

Sweep = Mapping[str, Any]


def write_sweep_report(folder: Path) -> Path:
    """Draw FOLDER/sweep.html from FOLDER/sweep.json; return it. InputError for one that it cannot read."""
    sweep = read_json(folder / "sweep.json")
    if sweep.get("sweep_version") != SWEEP_VERSION:
        raise InputError(
            f"{folder} has sweep version {sweep.get('sweep_version')!r}; this specdrift draws {SWEEP_VERSION}"
        )
    shown = _panels(sweep)
    html = fill(
        "sweep.html",
        sweep=sweep,
        title=_title(sweep),
        arms=_arms(sweep),
        figures=[_figure(sweep, shown, form) for form in (WIDE, NARROW)],
        caption=_caption(sweep, len(_all_panels(sweep)) - len(shown)),
        sources=sorted({(p["latency"]["source"], p["latency"]["note"]) for p in sweep["points"]}),
        number=number,
        interval=lambda row: (
            ABSENT
            if row["low"] is None
            else f"{row['low']:.{RATIO_DIGITS}f} to {row['high']:.{RATIO_DIGITS}f}"
        ),
    )
    return write_page(folder / "sweep.html", html)


def _caption(sweep: Sweep, left_out: int) -> str:
    more = f" {left_out} more panels are in the table only." if left_out else ""
    return (
        f"Speedup (engine time per token) over the best static arm against {_axis(sweep)}, with 95% intervals over "
        f"paired seeds; above 1 is faster.{more}"
    )


def _axis(sweep: Sweep) -> str:
    """The key along x: the first one of numbers, of two at least; else the first one."""
    for key, values in sweep["grid"].items():
        if len(values) > 1 and _numeric(values):
            return str(key)
    return str(next(iter(sweep["grid"])))


def _numeric(values: Sequence[Any]) -> bool:
    return all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)


def _title(sweep: Sweep) -> str:
    scenarios = sweep["grid"].get("scenario", [sweep["options"]["scenario"]])
    return ", ".join(map(str, scenarios)) if len(scenarios) <= 3 else f"{len(scenarios)} scenarios"


def _arms(sweep: Sweep) -> list[Arm]:
    """Every arm of any point, in the order in which they first stand."""
    kinds = {row["arm"]: row["kind"] for point in sweep["points"] for row in point["arms"]}
    return [
        Arm(name, kind, f"arm-{i % len(ARMS)}", focus=False) for i, (name, kind) in enumerate(kinds.items())
    ]


def _all_panels(sweep: Sweep) -> list[tuple[str, list[Mapping[str, Any]]]]:
    """(title, points) for each combination of the keys that are not along x."""
    axis = _axis(sweep)
    panels: dict[str, list[Mapping[str, Any]]] = {}
    for point in sweep["points"]:
        others = ", ".join(f"{key} {value}" for key, value in point["settings"].items() if key != axis)
        panels.setdefault(others, []).append(point)
    return list(panels.items())


def _panels(sweep: Sweep) -> list[tuple[str, list[Mapping[str, Any]]]]:
    return _all_panels(sweep)[:MOST_PANELS]


def _figure(sweep: Sweep, panels: Sequence[tuple[str, list[Mapping[str, Any]]]], form: str) -> Markup:
    across = 1 if form == NARROW else min(3, len(panels))
    down = -(-len(panels) // across)
    with drawing(f"sweep-{form}"):
        figure = Figure(figsize=(WIDTHS[form], PANEL * down + 0.3), layout="constrained")
        axes = figure.subplots(down, across, squeeze=False, sharey=True, sharex=True).ravel()
        for panel, (title, points) in zip(axes, panels, strict=False):
            _panel(panel, sweep, title, points)
        for panel in axes[len(panels) :]:
            panel.set_visible(False)
        for panel in axes[max(0, len(panels) - across) : len(panels)]:
            panel.set_xlabel(_axis(sweep))
        return inline_svg(
            figure, "sweep", form, "Speedup over the best static arm at every point of the grid"
        )


def _panel(axes: Axes, sweep: Sweep, title: str, points: Sequence[Mapping[str, Any]]) -> None:
    axis, arms = _axis(sweep), _arms(sweep)
    values = sweep["grid"][axis]
    axes.set_title(shorten(title, 44))
    axes.axhline(1.0, color=light("ink"), linewidth=0.8)
    for i, arm in enumerate(arms):
        rows = [(p["settings"][axis], row) for p in points for row in p["arms"] if row["arm"] == arm.name]
        rows = [(value, row) for value, row in rows if row["speedup"]]
        if _numeric(values):
            x = [value for value, _ in rows]
        else:  # names have no order: side by side, and no line between them
            x = [values.index(value) + DODGE * (i - (len(arms) - 1) / 2) for value, _ in rows]
        _arm(axes, arm, x, [row for _, row in rows], lines=_numeric(values))
    if not _numeric(values):
        turned: dict[str, Any] = {"rotation": 25, "ha": "right"} if len(values) > 4 else {}
        axes.set_xticks(range(len(values)), [shorten(str(v), 18) for v in values], **turned)
    axes.yaxis.set_major_locator(MaxNLocator(5, min_n_ticks=3, steps=STEPS))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
    quiet_grid(axes)


def _arm(axes: Axes, arm: Arm, x: Sequence[float], rows: Sequence[Mapping[str, Any]], lines: bool) -> None:
    style: Any = "none" if not lines else (0, arm.dashes) if arm.dashes else "-"
    y = [row["speedup"] for row in rows]
    axes.plot(x, y, linestyle=style, marker="o", markersize=2.5, color=arm.colour, linewidth=1.2)
    for place, row in zip(x, rows, strict=True):
        if row["low"] is not None:
            axes.plot([place] * 2, [row["low"], row["high"]], color=arm.colour, linewidth=1.0, alpha=0.6)
