"""Above and below the timeline: the strip of domains, and a lane of events per arm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from reports.arms import Arm
from reports.marks import GLYPHS, Mark
from reports.palette import domain_token, light

Series = Mapping[str, Any]
WORLD = "server"
"""The lane of what happens to all arms alike: verifier updates and faults."""
RESOLUTION = 2000
"""Places on the time axis: marks closer than that are drawn as one."""
LETTER = 0.056
"""Inches that a letter of a domain's label takes, about."""


def shown_domains(series: Series) -> list[str]:
    """Domains of the traffic, by first appearance; empty when there is only one: nothing to tell apart."""
    firsts = {
        name: next((i for i, v in enumerate(shares) if v), None) for name, shares in series["domains"].items()
    }
    found = sorted((first, name) for name, first in firsts.items() if first is not None)
    return [name for _, name in found] if len(found) > 1 else []


def draw_domains(axes: Axes, series: Series, names: Sequence[str], inches: float) -> None:
    """Stacked share of arrivals by domain; named where the name fits."""
    edges = np.asarray(series["edges"], float)
    shares = np.array([[v or 0.0 for v in series["domains"][name]] for name in names])
    colours = [light(domain_token(i)) for i in range(len(names))]
    steps = np.hstack([shares, shares[:, -1:]])
    axes.stackplot(edges, steps, colors=colours, step="post", linewidth=0)
    axes.set_title("domain (share of arrivals)")
    axes.set_ylim(0, 1)
    axes.set_yticks([])
    axes.tick_params(axis="x", length=0)
    for side in axes.spines.values():
        side.set_visible(False)
    for name, own in zip(names, shares, strict=True):
        for start, stop in _runs(own > 0.6):
            width = (edges[stop] - edges[start]) / (edges[-1] or 1.0) * inches * 0.9
            if width > LETTER * len(name):
                axes.text(
                    (edges[start] + edges[stop]) / 2, 0.46, name, ha="center", va="center", fontsize=6.5
                )


def lane_names(arms: Sequence[Arm], shared: Sequence[Mark], own: Mapping[str, Sequence[Mark]]) -> list[str]:
    """Lanes from top to bottom: the server's if it has marks, then the arms with marks of their own."""
    world = [WORLD] if any(m.glyph != "shift" for m in shared) else []
    return world + [arm.name for arm in arms if own.get(arm.name)]


def draw_lanes(
    axes: Axes,
    arms: Sequence[Arm],
    lanes: Sequence[str],
    shared: Sequence[Mark],
    own: Mapping[str, Sequence[Mark]],
) -> None:
    """A row per lane with a sign per event."""
    by_name = {arm.name: arm for arm in arms}
    labels = []
    for row, name in enumerate(lanes):
        arm = by_name.get(name) if own.get(name) else None
        if arm is None:
            _world(axes, -row, [m for m in shared if m.glyph != "shift"])
        else:
            _signs(axes, -row, own[name], arm.colour)
        labels.append(arm.short if arm else WORLD)
    axes.set_title("events")
    axes.set_ylim(0.6 - len(lanes), 0.6)
    axes.set_yticks([-row for row in range(len(lanes))], labels)
    axes.tick_params(axis="y", length=0, labelcolor=light("ink"))
    axes.spines["left"].set_visible(False)


def _signs(axes: Axes, row: int, marks: Sequence[Mark], own: str) -> None:
    right = axes.get_xlim()[1] or 1.0
    for key, glyph in GLYPHS.items():
        times = sorted(
            {round(m.time / right * RESOLUTION) * right / RESOLUTION for m in marks if m.glyph == key}
        )
        if times:
            colour = glyph.colour(own)
            face = colour if glyph.filled else "none"
            heights = [row + glyph.offset] * len(times)
            axes.plot(
                times, heights, linestyle="none", marker=glyph.marker, markersize=glyph.size, color=colour,
                markerfacecolor=face, markeredgewidth=0.9,
            )  # fmt: skip


def _world(axes: Axes, row: int, marks: Sequence[Mark]) -> None:
    """Signs with their labels, to the left of the sign in the last quarter of the axis."""
    _signs(axes, row, marks, light("ink"))
    right = axes.get_xlim()[1] or 1.0
    for mark in marks:
        late = mark.time > 0.75 * right
        axes.annotate(
            mark.label, (mark.time, row), xytext=(-4 if late else 4, 0), textcoords="offset points",
            ha="right" if late else "left", va="center", fontsize=6.5,
        )  # fmt: skip


def _runs(flags: np.ndarray) -> list[tuple[int, int]]:
    """[start, stop) of each run of true values."""
    padded = np.concatenate([[False], flags, [False]]).astype(int)
    change = np.diff(padded)
    return list(zip(np.flatnonzero(change == 1).tolist(), np.flatnonzero(change == -1).tolist(), strict=True))
