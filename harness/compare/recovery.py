"""How fast each arm's drafter recovers from a shift, from a run log: acceptance in order of arrival.

Segments begin at the run's start and at each `shift` or `verifier_update` of the log. Per segment,

- *static*: mean acceptance length of the reference arm (a static one), seed by seed; where the reference adapts
  too, over the segment's first `WINDOW` requests, before much is learnt;
- *reach*: the best arm's mean over the segment's last fifth (mean over seeds): what learning had to give there;
- *loss*: reach - static; segments in which it is below `LEAST_LOSS` of the accepted tokens are left out;
- *recovery*: requests until the moving mean over `WINDOW` requests first stands at static + 80% of the loss;
  an arm that never does counts the whole segment (so means are lower bounds; `censored` counts them);
- *area*: mean over the segment's requests of what is missing to reach, in tokens per verify step;
- *made good*: (the arm's mean over the last fifth - static) / (before - static), where before is the level over the
  last fifth of the segment before: the arm's own, and, as a shift costs a static drafter, the reference's. None where
  less than `LEAST_LOSS` was lost.

Requests under way while the verifier changed are answered by two of them and count in no segment.

Acceptance is that of the serving drafter at the largest K where the log has it (`drafter` events: every text
is walked with it, whatever K was used), else that of the verify steps, which a small K makes look worse.

Over the whole run, in seconds that requests spend in the engine (finish less scheduled, as the headline speedup
counts): *dip*, the lowest ratio of an arm to the reference in tokens per such second over any 500 requests in order
of arrival; *saved*, the share of them that the arm needs less than the reference; *trained*, seconds of training.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from harness.compare.interval import t_interval
from harness.errors import InputError, UnknownName
from harness.runlog import Run

WINDOW = 50
SHARE = 0.8
LEAST_LOSS = 0.05
DIP_REQUESTS = 500


@dataclass(frozen=True, slots=True)
class _Curve:
    """One cell, requests in order of arrival."""

    tokens: np.ndarray
    """Tokens of its verify steps: accepted + steps."""
    steps: np.ndarray
    arrivals: np.ndarray
    output: np.ndarray
    """Output tokens."""
    served: np.ndarray
    """Seconds in the engine."""

    def length(self, begin: int, end: int) -> float:
        return float(self.tokens[begin:end].sum() / max(self.steps[begin:end].sum(), 1))

    def moving(self, begin: int, end: int, window: int) -> np.ndarray:
        """Acceptance length over the `window` requests up to each request of [begin, end), none before it."""
        tokens, steps = (np.cumsum(x[begin:end], dtype=float) for x in (self.tokens, self.steps))
        lag = np.arange(end - begin) - window
        before = [np.where(lag >= 0, x[np.maximum(lag, 0)], 0.0) for x in (tokens, steps)]
        return (tokens - before[0]) / np.maximum(steps - before[1], 1.0)


def recovery(run: Run, over: str | None = None, level: float | None = None) -> dict[str, Any]:
    """Plain data: segments, and per arm the figures of the module's docstring with 95% intervals over seeds.

    `over` is the reference arm; default: the first arm that never swaps, else the first that drafts (`adapts`).
    InputError when none drafts.
    With `level`, an acceptance length, also `to_level`: requests from the run's start until the moving mean first
    stands there, the whole run where it never does (`never`: share of seeds).
    """
    if level is not None and not level > 1.0:
        raise InputError(f"level is {level}; an acceptance length is above 1, the bonus token included")
    curves = {(arm, seed): _curve(run, arm, seed) for arm in run.arms for seed in run.seeds}
    drafting = [a for a in run.arms if all(curves[a, s].steps.sum() > 0 for s in run.seeds)]
    reference = _reference(run, drafting, over)
    adapts = _swaps(run, reference)
    bounds = _segments(run, reference, min(len(c.steps) for c in curves.values()))
    judged = _judged(bounds, curves, drafting, run.seeds, reference, adapts)
    arms = {}
    for arm in drafting:
        found = {seed: _of_arm(judged, curves[arm, seed], curves[reference, seed]) for seed in run.seeds}
        dips = {seed: _dip(curves[arm, seed], curves[reference, seed]) for seed in run.seeds}
        arms[arm] = _over_seeds(found, dips, judged)
        arms[arm] |= {
            "saved": _summary([_saved(curves[arm, seed], curves[reference, seed]) for seed in run.seeds]),
            "trained": _summary([_trained(run, arm, seed) for seed in run.seeds]),
        }
        if level is not None:
            arms[arm]["to_level"] = _to_level([curves[arm, seed] for seed in run.seeds], level)
    told = {} if level is None else {"level": level}
    about = {"reference": reference, "adapts": adapts, "window": WINDOW, "seeds": list(run.seeds), **told}
    return about | {"segments": judged, "arms": arms}


def _curve(run: Run, arm: str, seed: int) -> _Curve:
    rows = run.requests(arm, seed)
    rows = rows[rows["status"] == "finished"].sort_values("arrival", kind="stable").set_index("request_id")
    found = pd.DataFrame(
        {"tokens": rows["accepted_tokens"] + rows["verify_steps"], "steps": rows["verify_steps"]}
    )
    walks = run.events(arm, seed, ["drafter"])["detail"]
    if len(walks):
        columns = {key: [x for d in walks for x in d[key]] for key in ("requests", "tokens", "steps")}
        found = pd.DataFrame(columns).set_index("requests").reindex(rows.index)
    for changed in run.events(arm, seed, ["verifier_update"])["time"]:
        found[(rows["arrival"] < changed) & (rows["finish"] > changed)] = 0
    return _Curve(
        found["tokens"].to_numpy(),
        found["steps"].to_numpy(),
        rows["arrival"].to_numpy(),
        rows["output_tokens"].to_numpy(dtype=float),
        (rows["finish"] - rows["scheduled"]).to_numpy(),
    )


def _reference(run: Run, drafting: Sequence[str], over: str | None) -> str:
    if over is not None:
        if over not in drafting:
            raise UnknownName("arm that drafts", over, drafting)
        return over
    if not drafting:
        raise InputError("no arm of this run drafts under every seed, so that there is nothing to recover")
    return next((arm for arm in drafting if not _swaps(run, arm)), drafting[0])


def _swaps(run: Run, arm: str) -> bool:
    return any((run.events(arm, seed)["kind"] == "swap").any() for seed in run.seeds)


def _segments(run: Run, arm: str, total: int) -> list[tuple[int, int]]:
    """[begin, end) by number of requests arrived at each shift or verifier update."""
    seed = run.seeds[0]
    events = run.events(arm, seed)
    times = events[events["kind"].isin(["shift", "verifier_update"])]["time"].to_numpy()
    arrivals = _curve(run, arm, seed).arrivals
    places = sorted({0, *(int(np.searchsorted(arrivals, t)) for t in times), total})
    return [(b, e) for b, e in itertools.pairwise(places) if e - b >= 2 * WINDOW]


def _judged(
    bounds: Sequence[tuple[int, int]],
    curves: Mapping[tuple[str, int], _Curve],
    arms: Sequence[str],
    seeds: Sequence[int],
    reference: str,
    adapts: bool,
) -> list[dict[str, Any]]:
    """The levels of each segment that has something to recover; `before` is the tail of the one before it."""
    judged = []
    for previous, (begin, end) in zip([None, *bounds], bounds, strict=False):
        until = begin + WINDOW if adapts else end
        static = float(np.mean([curves[reference, s].length(begin, until) for s in seeds]))
        tail = _tail(begin, end)
        reached = {a: float(np.mean([curves[a, s].length(*tail) for s in seeds])) for a in arms}
        best = max(reached, key=lambda a: reached[a])
        if reached[best] - static >= LEAST_LOSS * (static - 1.0):
            levels = {"begin": begin, "end": end, "static": static, "reach": reached[best], "best": best}
            adjacent = (
                previous is not None and previous[1] == begin
            )  # a short segment between them is left out
            judged.append(levels | {"before": _tail(*previous) if previous and adjacent else None})
    return judged


def _tail(begin: int, end: int) -> tuple[int, int]:
    """The last fifth of a segment, a window at least."""
    return end - max(WINDOW, (end - begin) // 5), end


def _of_arm(
    segments: Sequence[Mapping[str, Any]], curve: _Curve, reference: _Curve
) -> list[dict[str, float | None]]:
    found: list[dict[str, float | None]] = []
    for s in segments:
        begin, end = s["begin"], s["end"]
        moving = curve.moving(begin, end, WINDOW)
        requests, there = _until(curve, begin, end, s["static"] + SHARE * (s["reach"] - s["static"]))
        tail = curve.length(*_tail(begin, end))
        found.append(
            {
                "recovery": requests,
                "censored": float(not there),
                "area": float(np.maximum(s["reach"] - moving, 0.0).mean()),
                "first": curve.length(begin, begin + WINDOW),
                "last": curve.length(end - WINDOW, end),
                "made_good": _made_good(tail, curve, s),
                "made_good_static": _made_good(tail, reference, s),
            }
        )
    return found


def _made_good(tail: float, curve: _Curve, segment: Mapping[str, Any]) -> float | None:
    """Share of what `curve`'s arm had before the segment over the static level in it."""
    if segment["before"] is None:
        return None
    lost = curve.length(*segment["before"]) - segment["static"]
    return (tail - segment["static"]) / lost if lost >= LEAST_LOSS else None


def _until(curve: _Curve, begin: int, end: int, level: float) -> tuple[float, bool]:
    """(Requests from `begin` until the moving mean first stands at `level`, whether it does before `end`)."""
    there = np.flatnonzero(curve.moving(begin, end, WINDOW)[WINDOW - 1 :] >= level)
    return (float(there[0] + WINDOW), True) if len(there) else (float(end - begin), False)


def _to_level(curves: Sequence[_Curve], level: float) -> dict[str, float | None]:
    until = [_until(curve, 0, len(curve.steps), level) for curve in curves]
    return _summary([n for n, _ in until]) | {"never": float(np.mean([not there for _, there in until]))}


def _over_seeds(
    found: Mapping[int, list[dict[str, float | None]]],
    dips: Mapping[int, float],
    segments: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """Means over segments by seed, then mean and interval over seeds."""
    out: dict[str, Any] = {"dip": _summary(list(dips.values()))}
    for name in ("recovery", "area"):
        out[name] = _summary([float(np.mean([s[name] for s in rows])) for rows in found.values() if rows])
    out["censored"] = float(np.mean([s["censored"] for rows in found.values() for s in rows] or [0.0]))
    told = ("recovery", "first", "last", "made_good", "made_good_static")
    out["segments"] = [
        {name: _summary([rows[i][name] for rows in found.values()]) for name in told}
        for i in range(len(segments))
    ]
    return out


def _summary(figures: Sequence[float | None]) -> dict[str, float | None]:
    """Mean and interval; None where there is no figure of every seed."""
    values = [value for value in figures if value is not None]
    if not values or len(values) < len(figures):
        return {"mean": None, "low": None, "high": None}
    interval = t_interval(values)
    low, high = interval if interval is not None else (None, None)
    return {"mean": float(np.mean(values)), "low": low, "high": high}


def _dip(curve: _Curve, reference: _Curve) -> float:
    """Over sliding windows of `DIP_REQUESTS` requests; over all of them where there are fewer."""
    return float(np.min(_rate(curve) / _rate(reference)))


def _rate(curve: _Curve) -> np.ndarray:
    """Tokens per second in the engine of each window."""
    width = np.ones(min(DIP_REQUESTS, len(curve.served)))
    return np.asarray(np.convolve(curve.output, width, "valid") / np.convolve(curve.served, width, "valid"))


def _saved(curve: _Curve, reference: _Curve) -> float:
    return 1.0 - float(curve.served.sum() / reference.served.sum())


def _trained(run: Run, arm: str, seed: int) -> float:
    return float(sum(d["busy_seconds"] for d in run.events(arm, seed, ["trainer"])["detail"]))
