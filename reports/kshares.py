"""K over time as shares of decode steps: one strip per arm that used more than one K."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from reports.arms import Arm
from reports.palette import k_token, light
from reports.svg import NARROW, STEPS, WIDTHS, drawing, inline_svg

Series = Mapping[str, Any]
STRIP = 0.5
"""Inches per arm."""


def varying_arms(arms: Sequence[Arm], series: Series) -> list[Arm]:
    return [arm for arm in arms if len(series["k_share"].get(arm.name, ())) > 1]


def used_k(arms: Sequence[Arm], series: Series) -> list[int]:
    """Every K of those arms, ascending."""
    return sorted({int(k) for arm in varying_arms(arms, series) for k in series["k_share"][arm.name]})


def kshares_figure(arms: Sequence[Arm], series: Series, form: str) -> Markup | None:
    """None when no arm ever changed K."""
    varying = varying_arms(arms, series)
    if not varying:
        return None
    with drawing(f"kshares-{form}"):
        height = (STRIP + 0.2) * len(varying) + 0.4
        figure = Figure(figsize=(WIDTHS[form], height), layout="constrained")
        axes = figure.subplots(len(varying), 1, sharex=True, squeeze=False)[:, 0]
        for place, arm in zip(axes, varying, strict=True):
            _strip(place, arm, series)
        axes[-1].set_xlim(series["edges"][0], series["edges"][-1])
        axes[-1].set_xlabel("time since the run began, s")
        axes[-1].xaxis.set_major_locator(MaxNLocator(5 if form == NARROW else 10, steps=STEPS))
        axes[-1].xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,g}"))
        alt = (
            f"Share of decode steps by K over time, one strip per arm: {', '.join(a.name for a in varying)}."
        )
        return inline_svg(figure, "kshares", form, alt)


def _strip(axes: Axes, arm: Arm, series: Series) -> None:
    shares = series["k_share"][arm.name]
    ks = sorted(shares, key=int)
    # A bin without a decode step stays blank: its shares are None and stack to nothing.
    heights = np.array([[v or 0.0 for v in shares[k]] for k in ks])
    steps = np.hstack([heights, heights[:, -1:]])
    axes.stackplot(
        series["edges"], steps, colors=[light(k_token(int(k))) for k in ks], step="post", linewidth=0
    )
    axes.set_title(arm.short)
    axes.set_ylim(0, 1)
    axes.set_yticks([0, 1], ["0", "1"])
    axes.tick_params(axis="y", length=0)
