"""The central figure: acceptance length, K, goodput, batch and queue of every arm on one time axis."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FuncFormatter, MaxNLocator

from reports.arms import Arm
from reports.lanes import draw_domains, draw_lanes, lane_names, shown_domains
from reports.marks import Mark, split_marks
from reports.palette import light
from reports.svg import NARROW, STEPS, WIDTHS, drawing, inline_svg, quiet_grid

Series = Mapping[str, Any]
PANEL = 1.12
"""Inches per metric."""


@dataclass(frozen=True, slots=True)
class Panel:
    """One metric over time."""

    curve: str
    """Its name in the series."""
    title: str
    from_zero: bool = True
    stands_for: str = ""
    """The curve that it is drawn in place of, where that has nothing."""


PANELS = (
    Panel("acceptance_length", "acceptance length (tokens per verify step, bonus included)", False),
    Panel(
        "acceptance_of_finished",
        "acceptance length (tokens per verify step, bonus included, by finish time)",
        False,
        stands_for="acceptance_length",
    ),
    Panel("k", "K (mean over decode steps)"),
    Panel("goodput", "goodput (tokens/s, gross, by finish time)"),
    Panel("tokens_per_second", "output tokens/s", stands_for="goodput"),
    Panel("batch", "batch (decoding sequences)"),
    Panel("waiting", "waiting requests"),
)


def shown_panels(series: Series) -> tuple[list[Panel], list[Panel]]:
    """(panels that some arm has numbers for, panels without any); one of a curve and what stands for it."""
    arms = series["arms"].values()
    known = {p.curve for p in PANELS if any(_known(curves.get(p.curve)) for curves in arms)}
    telling = {p.curve for p in PANELS if any(any(curves.get(p.curve) or ()) for curves in arms)}
    spare = set()
    for panel in (p for p in PANELS if p.stands_for):
        stands_in = panel.curve in known and panel.stands_for not in telling
        spare.add(panel.stands_for if stands_in else panel.curve)
    rest = [p for p in PANELS if p.curve not in spare]
    return [p for p in rest if p.curve in known], [p for p in rest if p.curve not in known]


def timeline_figure(arms: Sequence[Arm], series: Series, form: str) -> Markup | None:
    """Small multiples under a strip of the traffic's domains, over a lane of events per arm."""
    panels, _ = shown_panels(series)
    if not panels:
        return None
    arms = [arm for arm in arms if arm.name in series["arms"]]
    shared, own = split_marks(series["marks"])
    lanes, strip = lane_names(arms, shared, own), shown_domains(series)
    heights = [0.2] * bool(strip) + [PANEL] * len(panels) + [0.16 * len(lanes) + 0.04] * bool(lanes)
    with drawing(f"timeline-{form}"):
        size = (WIDTHS[form], sum(heights) + 0.22 * len(heights) + 0.4)
        figure = Figure(figsize=size, layout=ConstrainedLayoutEngine(h_pad=0.02, hspace=0.0))
        axes = list(figure.subplots(len(heights), 1, sharex=True, height_ratios=heights, squeeze=False)[:, 0])
        axes[0].set_xlim(series["edges"][0], series["edges"][-1])
        if strip:
            draw_domains(axes[0], series, strip, WIDTHS[form])
        for place, panel in zip(axes[bool(strip) :], panels, strict=False):
            _panel(place, panel, arms, series)
        if lanes:
            draw_lanes(axes[-1], arms, lanes, shared, own)
        _finish(axes, series, shared, bool(strip), form)
        return inline_svg(figure, "timeline", form, _alt(arms, panels, shared))


def _panel(axes: Axes, panel: Panel, arms: Sequence[Arm], series: Series) -> None:
    edges = np.asarray(series["edges"], float)
    middle = (edges[1:] + edges[:-1]) / 2
    axes.set_title(panel.title)
    for arm in arms:
        mean, low, high = (_curve(series[part], arm.name, panel.curve) for part in ("arms", "low", "high"))
        if not np.isfinite(mean).any():
            continue
        if arm.focus and (high > low).any():
            axes.fill_between(middle, low, high, color=arm.colour, alpha=0.1, linewidth=0)
        style = (0, arm.dashes) if arm.dashes else "-"
        # Thin broken lines over heavy solid ones: where arms coincide, both stay visible.
        order = 2 if arm.focus and not arm.dashes else 3
        axes.plot(middle, mean, color=arm.colour, linewidth=arm.width, linestyle=style, zorder=order)
    axes.yaxis.set_major_locator(MaxNLocator(4, min_n_ticks=2, steps=STEPS))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:,g}"))
    if panel.from_zero:
        axes.set_ylim(bottom=0, top=max(axes.get_ylim()[1], 1.0))
    quiet_grid(axes)


def _finish(axes: Sequence[Axes], series: Series, shared: Sequence[Mark], strip: bool, form: str) -> None:
    """The shared marks through every panel, and the time axis under the last."""
    for place in axes[strip:]:
        for mark in shared:
            shift = mark.glyph == "shift"
            place.axvline(
                mark.time,
                color=light("muted" if shift else "bad" if mark.glyph == "fault" else "ink"),
                linewidth=0.7,
                linestyle=(0, (3, 3)) if shift else "-",
                alpha=0.8,
                zorder=1,
            )
    if not strip:
        for mark in (m for m in shared if m.glyph == "shift"):
            axes[0].annotate(
                f" {mark.label}",
                (mark.time, 1.0),
                xycoords=("data", "axes fraction"),
                va="top",
                fontsize=6.5,
                color=light("muted"),
            )
    axes[-1].set_xlabel("time since the run began, s")
    axes[-1].xaxis.set_major_locator(MaxNLocator(5 if form == NARROW else 10, steps=STEPS))
    axes[-1].xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,g}"))


def _curve(part: Mapping[str, Any], arm: str, name: str) -> np.ndarray:
    return np.array([np.nan if v is None else v for v in part[arm][name]], float)


def _known(curve: Sequence[float | None] | None) -> bool:
    return curve is not None and any(v is not None for v in curve)


def _alt(arms: Sequence[Arm], panels: Sequence[Panel], shared: Sequence[Mark]) -> str:
    told = [f"{m.glyph.replace('_', ' ')} {m.label} at {m.time:.0f} s" for m in shared]
    return (
        f"Over time, for the arms {', '.join(a.name for a in arms)}: {'; '.join(p.title for p in panels)}. "
        + (f"Marked: {', '.join(told)}. " if told else "")
        + "The numbers behind it are in summary.json under series."
    )
