"""How each arm looks: the same colour and line style in every figure, table and legend."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from reports.palette import ARMS, light

DASHES = {"static": (4.0, 2.0), "adaptive": (), "oracle": (1.2, 1.4), "missing": (1.0, 3.0)}
"""Kind -> on/off lengths in line widths: a static arm is dashed, an adaptive one solid, an oracle dotted."""
KIND_NOTES = {
    "static": "static: nothing learns while it serves",
    "adaptive": "adaptive: decides from what it observes",
    "oracle": "oracle: sees the simulator's truth; a bound, no competitor",
    "missing": "missing from summary.json",
}


@dataclass(frozen=True, slots=True)
class Arm:
    """One arm as drawn."""

    name: str
    kind: str
    """`static`, `adaptive`, `oracle`, or `missing` when the summary lacks it."""
    token: str
    """CSS variable of its colour."""
    focus: bool
    """Drawn heavier: what the verdict compares."""

    @property
    def colour(self) -> str:
        return light(self.token)

    @property
    def dashes(self) -> tuple[float, ...]:
        return DASHES[self.kind]

    @property
    def width(self) -> float:
        return 1.7 if self.focus else 1.0

    @property
    def short(self) -> str:
        """For axis labels."""
        return shorten(self.name, 16)


def style_arms(info: Mapping[str, Any], summary: Mapping[str, Any]) -> list[Arm]:
    """All arms of the run, in its order of display; those of the summary that the run does not name last."""
    names = list(dict.fromkeys([*info["arms"], *summary["arms"]]))
    focus = _focus(summary["verdict"])
    arms, colour = [], 0
    for name in names:
        found = summary["arms"].get(name)
        if found and found["policy"] == "none":
            token = "arm-none"
        else:
            token, colour = f"arm-{colour % len(ARMS)}", colour + 1
        arms.append(Arm(name, found["kind"] if found else "missing", token, name in focus))
    return arms


def shorten(text: str, length: int) -> str:
    """`text`, with an ellipsis in its middle when longer than `length`: what tells arms apart may stand at the end."""
    head = (length - 1) // 2
    return text if len(text) <= length else text[:head] + "…" + text[head + 1 - length :]


def _focus(verdict: Mapping[str, Any]) -> set[str]:
    """The best static arm and the adaptive arms that the verdict speaks of."""
    best = verdict["best_static"]
    return {f["arm"] for f in verdict["findings"] if f["kind"] == "adaptive"} | (
        {best["arm"]} if best else set()
    )
