"""A run directory condensed to summary.json: arms, pairs, series, verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from harness.compare.cell import STATUSES, cell_metrics
from harness.compare.drift import step_drift
from harness.compare.metrics import HEADLINE, RATIOS, notes, ratio_note
from harness.compare.pairs import paired_ratios
from harness.compare.series import time_series
from harness.compare.verdict import verdict
from harness.errors import UnknownName
from harness.runlog import Run, read_run, write_json

SUMMARY_VERSION = 1
KINDS = ("static", "adaptive", "oracle")
_ONLY_MEAN = ("by_domain", "by_tenant")
_ONLY_SEED = ("fingerprint", "requests", "span")


def summarise(run_dir: Path) -> dict[str, Any]:
    """Read the run log at `run_dir`, compute its summary, write it to summary.json and return it.

    One cell is held in memory at a time. Raises InputError when the directory is not a valid run.
    """
    run = read_run(run_dir)
    cells = {arm: {seed: cell_metrics(run, arm, seed) for seed in run.seeds} for arm in run.arms}
    ends = [c["span"][1] for arm in cells.values() for c in arm.values() if c["span"]]
    summary: dict[str, Any] = {
        "summary_version": SUMMARY_VERSION,
        "mode": run.info["mode"],
        "scenario": run.info["scenario"],
        "seeds": list(run.seeds),
        "metrics": notes(),
        "ratios": {name: ratio_note(name) for name in RATIOS},
        "headline_ratio": HEADLINE,
        "arms": {arm: _arm(run, arm, by_seed) for arm, by_seed in cells.items()},
        "pairs": paired_ratios(cells),
    }
    summary["verdict"] = verdict(summary)
    summary["series"] = time_series(run, max(ends)) if ends else None
    if run.info["mode"] == "live":
        still = [arm for arm, entry in summary["arms"].items() if entry["kind"] == "static"]
        summary["step_drift"] = step_drift(run, still)
    write_json(run.path / "summary.json", summary)
    return summary


def arm_kind(settings: Mapping[str, Any], name: str) -> str:
    """`static`, `adaptive` or `oracle`: as the run says, else by the name of the arm's policy."""
    if "kind" in settings:
        if settings["kind"] not in KINDS:
            raise UnknownName("kind of arm", str(settings["kind"]), KINDS)
        return str(settings["kind"])
    policy = str(settings.get("policy", name)).partition(":")[0]
    if policy in ("none", "static", "schedule"):
        return "static"
    return "oracle" if policy.startswith("oracle") else "adaptive"


def mean_of(values: Sequence[Any]) -> Any:
    """Mean over seeds of equally shaped metrics; None stays out unless all are None.

    A key that some mappings lack counts as 0 where values are numbers (shares of a K never used).
    Texts must agree, else they join with '/'.
    """
    known = [v for v in values if v is not None]
    if not known:
        return None
    if isinstance(known[0], Mapping):
        keys = (
            sorted({k for v in known for k in v}, key=lambda k: (len(k), k)) if _ragged(known) else known[0]
        )
        return {k: mean_of([v.get(k, _absent(known, k)) for v in known]) for k in keys}
    if isinstance(known[0], str):
        return "/".join(dict.fromkeys(known))
    return float(np.mean(known))


def _ragged(mappings: Sequence[Mapping[str, Any]]) -> bool:
    return any(m.keys() != mappings[0].keys() for m in mappings)


def _absent(mappings: Sequence[Mapping[str, Any]], key: str) -> Any:
    example = next(m[key] for m in mappings if key in m)
    return 0.0 if isinstance(example, float) else None


def _arm(run: Run, arm: str, by_seed: Mapping[int, Mapping[str, Any]]) -> dict[str, Any]:
    settings = run.info["arms"][arm]
    cells = list(by_seed.values())
    mean = {k: mean_of([c[k] for c in cells]) for k in cells[0] if k not in _ONLY_SEED}
    return {
        "kind": arm_kind(settings, arm),
        "policy": settings.get("policy", arm),
        "requests": {s: sum(c["requests"][s] for c in cells) for s in STATUSES},
        "mean": mean,
        "by_seed": {str(seed): _without(cell, _ONLY_MEAN) for seed, cell in by_seed.items()},
    }


def _without(cell: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    return {k: v for k, v in cell.items() if k not in names}
