"""A summary as flat rows, one an arm: what tables over many runs are made of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from harness.compare.metrics import HEADLINE
from harness.compare.pairs import find_pair

FIGURES = ("tokens_per_second", "goodput", "acceptance_length", "swaps", "slo_attainment")


def arm_rows(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Per arm: `speedup` with its interval and `goodput_ratio`, both over the best static arm of this run (`over`; its
    first arm where there is no static one), and means over seeds. `ok` is False where the run's own checks failed."""
    best = summary["verdict"]["best_static"]
    over = best["arm"] if best else next(iter(summary["arms"]))
    return [
        {"arm": arm, "kind": entry["kind"], "over": over, **_ratios(summary, arm, over)}
        | {name: entry["mean"][name] for name in FIGURES}
        | {"ok": summary["verdict"]["ok"]}
        for arm, entry in summary["arms"].items()
    ]


def _ratios(summary: Mapping[str, Any], arm: str, over: str) -> dict[str, float | None]:
    if arm == over:
        return {"speedup": 1.0, "low": None, "high": None, "goodput_ratio": 1.0}
    ratios = find_pair(summary, arm, over)["ratios"]
    found = ratios[HEADLINE]
    return {
        "speedup": found["estimate"],
        "low": found["low"],
        "high": found["high"],
        "goodput_ratio": ratios["goodput"]["estimate"],
    }
