"""A live run beside its own simulation: how wrong was the simulator about this very run?"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.compare.metrics import HEADLINE
from harness.compare.pairs import find_pair
from harness.errors import InputError
from harness.runlog import Run, read_run, write_json

VERSION = 1
BARS = {"tokens_per_second": 0.05, "tpot": 0.05, "ttft_p50": 0.15, "speedup": 0.05}
"""Largest relative error that passes; metrics without a bar are shown, not judged."""

Summary = Mapping[str, Any]


def side_by_side(live: Path, sim: Path) -> dict[str, Any]:
    """Compare the run at `live` with the one at `sim` that simulated it; write it to side-by-side.json of `live`.

    Per arm and metric: `live`, `simulated` (means over seeds), `error` (simulated / live - 1), `bar`, `within`;
    `k_distance`, the share of decode steps whose K differs (total variation distance of the K histograms);
    `replay`, how many verify steps were known and drawn. Speedups are over `reference`, the first static arm.
    A client's TTFT holds what lies between it and the engine (HTTP, tokens to text), which no engine simulates: the
    live run measured it (`front_end`, seconds), and the simulated TTFT has it added.
    An arm or a number that is missing on either side is not within a bar.
    Raises InputError when one of them is no run, has no summary, or their seeds differ.
    """
    runs = {"live": read_run(live), "simulated": read_run(sim)}
    summaries = {side: _summary(run) for side, run in runs.items()}
    if runs["live"].seeds != runs["simulated"].seeds:
        raise InputError(
            f"{live} has seeds {runs['live'].seeds} and {sim} {runs['simulated'].seeds}; simulate the same ones"
        )
    reference = next((a for a, e in summaries["live"]["arms"].items() if e["kind"] == "static"), None)
    arms = {arm: _arm(arm, summaries, reference, runs) for arm in runs["live"].arms}
    found = {
        "side_by_side_version": VERSION,
        "ok": all(entry["within"] for entry in arms.values()),
        "scenario": runs["live"].info["scenario"],
        "mode": runs["live"].info["mode"],
        "seeds": list(runs["live"].seeds),
        "latency": runs["simulated"].info.get("latency"),
        "acceptance": runs["simulated"].info.get("acceptance"),
        "reference": reference,
        "bars": BARS,
        "arms": arms,
        "series": {side: _series(summary) for side, summary in summaries.items()},
    }
    write_json(Path(live) / "side-by-side.json", found)
    return found


def _summary(run: Run) -> Summary:
    if run.summary is None:
        raise InputError(f"{run.path} has no summary.json, so there is nothing to compare")
    return run.summary


def _arm(
    arm: str, summaries: Mapping[str, Summary], reference: str | None, runs: Mapping[str, Run]
) -> dict[str, Any]:
    sides = {side: _figures(summary, arm, reference) for side, summary in summaries.items()}
    front_end = _front_end(runs["live"], arm)
    if (simulated := sides["simulated"]["ttft_p50"]) is not None:
        sides["simulated"]["ttft_p50"] = simulated + front_end
    metrics = {name: _compared(name, sides["live"][name], sides["simulated"][name]) for name in sides["live"]}
    shares = [_shares(summary, arm) for summary in summaries.values()]
    return {
        "within": all(m["within"] is not False for m in metrics.values()),
        "metrics": metrics,
        "k_distance": _distance(*shares),
        "front_end": front_end,
        "replay": replay_counts(runs["simulated"], arm),
    }


def _figures(summary: Summary, arm: str, reference: str | None) -> dict[str, float | None]:
    """The compared numbers of one arm; all None where the summary lacks it."""
    known = arm in summary["arms"]
    mean: Mapping[str, Any] = summary["arms"][arm]["mean"] if known else {}
    figures = {
        "tokens_per_second": mean.get("tokens_per_second"),
        "tpot": mean.get("tpot", {}).get("mean"),
        "ttft_p50": mean.get("ttft", {}).get("p50"),
        "acceptance_length": mean.get("acceptance_length"),
    }
    if reference is not None and arm != reference:
        both = known and reference in summary["arms"]
        pair = find_pair(summary, arm, reference) if both else None
        figures["speedup"] = pair["ratios"][HEADLINE]["estimate"] if pair else None
    return figures


def _compared(name: str, live: float | None, simulated: float | None) -> dict[str, Any]:
    """`within` is None for a metric that has no bar."""
    bar = BARS.get(name)
    error = simulated / live - 1.0 if live and simulated is not None else None
    within = None if bar is None else error is not None and abs(error) <= bar
    return {"live": live, "simulated": simulated, "error": error, "bar": bar, "within": within}


def _shares(summary: Summary, arm: str) -> Mapping[str, float] | None:
    shares: Mapping[str, float] | None = summary["arms"].get(arm, {"mean": {}})["mean"].get("k_histogram")
    return shares


def _distance(one: Mapping[str, float] | None, two: Mapping[str, float] | None) -> float | None:
    if one is None or two is None:
        return None
    return sum(abs(one.get(k, 0.0) - two.get(k, 0.0)) for k in {*one, *two}) / 2


def _front_end(live: Run, arm: str) -> float:
    """Seconds between client and engine, there and back: the mean of the seeds' medians; 0 where not measured."""
    told = [float(d["seconds"]) for d in live.events(arm, kinds=("front_end",))["detail"]]
    return sum(told) / len(told) if told else 0.0


def replay_counts(sim: Run, arm: str) -> dict[str, int] | None:
    """Verify steps by how the replay knew them, over all seeds; None where nothing was replayed."""
    if arm not in sim.arms:
        return None
    told = list(sim.events(arm, kinds=("replay",))["detail"])
    return (
        {name: sum(int(d[name]) for d in told) for name in ("exact", "censored", "absent")} if told else None
    )


def _series(summary: Summary) -> dict[str, Any] | None:
    """Acceptance length over time by arm, on its own time axis."""
    series = summary["series"]
    if series is None:
        return None
    arms = {arm: curves["acceptance_length"] for arm, curves in series["arms"].items()}
    return {"edges": series["edges"], "acceptance_length": arms}
