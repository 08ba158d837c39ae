"""Forest plot: the headline ratio of each arm over each reference, with 95% intervals and every seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from reports.arms import Arm, shorten
from reports.numbers import ratio_text
from reports.palette import light
from reports.ratios import TITLES, pair, references
from reports.svg import NARROW, STEPS, WIDTHS, drawing, inline_svg, quiet_grid

Summary = Mapping[str, Any]
ROW = 0.23
"""Inches per arm."""


def forest_figure(arms: Sequence[Arm], summary: Summary, form: str) -> Markup | None:
    """One panel per reference; None when there is nothing to hold an arm against."""
    over = [o for o in references(summary) if any(_found(summary, a.name, o) for a in arms)]
    if not over:
        return None
    stacked = form == NARROW
    height = (ROW * len(arms) + 0.55) * (len(over) if stacked else 1) + 0.15
    with drawing(f"forest-{form}"):
        figure = Figure(figsize=(WIDTHS[form], height), layout="constrained")
        shape = (len(over), 1) if stacked else (1, len(over))
        panels = figure.subplots(*shape, squeeze=False, sharey=not stacked).ravel()
        for panel, other in zip(panels, over, strict=True):
            _panel(panel, arms, summary, other)
        return inline_svg(figure, "forest", form, _alt(arms, summary, over))


def _panel(axes: Axes, arms: Sequence[Arm], summary: Summary, over: str) -> None:
    title = TITLES.get(summary["headline_ratio"], summary["headline_ratio"])
    axes.set_title(f"{title} over {shorten(over, 24)}")
    axes.axvline(1.0, color=light("ink"), linewidth=0.8)
    backdrop = []
    for place, arm in enumerate(arms):
        found = _found(summary, arm.name, over)
        if found is None or found["estimate"] is None:
            _say(axes, (1.0, place), "reference" if arm.name == over else "not measured")
        elif arm.token == "arm-none":
            backdrop.append((place, arm, found))
        else:
            _arm(axes, place, arm, found)
    _backdrop(axes, backdrop)
    axes.set_yticks(range(len(arms)), [arm.short for arm in arms])
    axes.set_ylim(len(arms) - 0.4, -0.6)
    axes.xaxis.set_major_locator(MaxNLocator(6, min_n_ticks=3, steps=STEPS))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    axes.margins(x=0.08)
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", labelcolor=light("ink"))
    quiet_grid(axes, "x")


def _arm(axes: Axes, place: int, arm: Arm, found: Mapping[str, Any]) -> None:
    """The estimate (hollow without an interval), its interval, and a faint dot per seed."""
    seeds = list((found["by_seed"] or {}).values())
    axes.plot(seeds, [place + 0.26] * len(seeds), ".", color=arm.colour, alpha=0.45, markersize=2.5)
    if found["low"] is not None:
        axes.plot([found["low"], found["high"]], [place, place], color=arm.colour, linewidth=1.6)
    face = arm.colour if found["low"] is not None else "none"
    axes.plot([found["estimate"]], [place], "o", color=arm.colour, markerfacecolor=face, markersize=4)


def _backdrop(axes: Axes, rows: Sequence[tuple[int, Arm, Mapping[str, Any]]]) -> None:
    """The arm without speculation: far out, it is told in words, so that the rest keeps its scale."""
    low, high = axes.get_xlim()
    for place, arm, found in rows:
        if low - (high - low) < found["estimate"] < high + (high - low):
            _arm(axes, place, arm, found)
            continue
        left = found["estimate"] < low
        edge, sign = (low, f"◂ {ratio_text(found)}") if left else (high, f"{ratio_text(found)} ▸")
        _say(axes, (edge, place), sign, "left" if left else "right")


def _say(axes: Axes, where: tuple[float, float], text: str, side: str = "left") -> None:
    axes.annotate(
        text,
        where,
        xytext=(4 if side == "left" else -4, 0),
        textcoords="offset points",
        va="center",
        ha=side,
        color=light("muted"),
        bbox={"facecolor": light("paper"), "edgecolor": "none", "pad": 1.0},
    )


def _found(summary: Summary, arm: str, over: str) -> Mapping[str, Any] | None:
    ratios = pair(summary, arm, over)
    return ratios[summary["headline_ratio"]] if ratios else None


def _alt(arms: Sequence[Arm], summary: Summary, over: Sequence[str]) -> str:
    parts = []
    for other in over:
        told = [(a.name, _found(summary, a.name, other)) for a in arms]
        parts.append(
            f"over {other}: " + ", ".join(f"{name} {ratio_text(found)}" for name, found in told if found)
        )
    return f"Forest plot of {summary['headline_ratio']} with 95% intervals; " + "; ".join(parts)
