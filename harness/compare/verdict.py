"""The verdict: can this comparison be trusted, and what does it say. Computed once, read by all."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from harness.compare.interval import outcome
from harness.compare.metrics import HEADLINE, RATIOS
from harness.compare.pairs import find_pair

Summary = Mapping[str, Any]

SELECTION_NOTE = (
    "chosen in hindsight as the fastest static arm of this very run: no deployment could have known it, and "
    "its own luck is in it, so a gain over it is understated rather than overstated"
)


def verdict(summary: Summary) -> dict[str, Any]:
    """`ok` (every check holds), `checks`, `best_static`, `findings` (adaptive arms over it), `headline`.

    A check that fails makes every number of the summary untrusted; what the numbers then say is not
    a finding. A slower adaptive arm is a finding, not a failed check.
    """
    checks = [_enough_seeds(summary), _all_finished(summary), _same_requests(summary), _measured(summary)]
    if summary["mode"] == "sim":
        checks.append(_same_outputs(summary))
    ok = all(c["ok"] for c in checks)
    best = best_static(summary)
    findings = (
        [_finding(summary, arm, best["arm"]) for arm in _arms(summary, "adaptive", "oracle")] if best else []
    )
    return {
        "ok": ok,
        "checks": checks,
        "best_static": best,
        "findings": findings,
        "headline": _headline(ok, checks, findings),
    }


def best_static(summary: Summary) -> dict[str, Any] | None:
    """The static arm (`none`, `static:K`, `schedule`) of least engine time per token; None without one.

    Engine times are averaged over seeds geometrically, so the choice is the arm with the best paired
    speedup over any fixed other arm. `candidates` maps each static arm to that mean in seconds.
    """
    times = {arm: _geometric(summary["arms"][arm]["by_seed"]) for arm in _arms(summary, "static")}
    known = {arm: t for arm, t in times.items() if t is not None}
    if not known:
        return None
    best = min(known, key=lambda arm: known[arm])
    return {"arm": best, "metric": HEADLINE, "candidates": times, "note": SELECTION_NOTE}


def _finding(summary: Summary, arm: str, over: str) -> dict[str, Any]:
    """`arm` over the best static arm. It beats them all when each single interval lies above 1
    (intersection-union test: no correction for their number is needed)."""
    ratios = find_pair(summary, arm, over)["ratios"]
    found = ratios[HEADLINE]
    said = outcome(found)
    others = {name: outcome(ratios[name]) for name in RATIOS if name != HEADLINE}
    against = {"faster": "slower", "slower": "faster"}.get(said)
    every = [outcome(find_pair(summary, arm, s)["ratios"][HEADLINE]) for s in _arms(summary, "static")]
    return {
        "arm": arm,
        "kind": summary["arms"][arm]["kind"],
        "over": over,
        "metric": HEADLINE,
        **{key: found[key] for key in ("estimate", "low", "high", "n")},
        "outcome": said,
        "beats_every_static": all(o == "faster" for o in every),
        "against": sorted(name for name, o in others.items() if against and o == against),
    }


def _headline(ok: bool, checks: list[dict[str, Any]], findings: list[dict[str, Any]]) -> str:
    if not ok:
        return "no verdict: " + "; ".join(c["detail"] for c in checks if not c["ok"])
    real = [f for f in findings if f["kind"] == "adaptive" and f["estimate"] is not None]
    if not real:
        return "the comparison is sound; it has no adaptive arm to hold against a static one"
    return "; ".join(_sentence(f) for f in sorted(real, key=lambda f: -f["estimate"]))


def _sentence(f: Mapping[str, Any]) -> str:
    how = {"faster": "faster than", "slower": "slower than", "undecided": "not shown to differ from"}[
        f["outcome"]
    ]
    text = f"{f['arm']} is {how} {f['over']}: speedup {f['estimate']:.3f} ({f['low']:.3f} to {f['high']:.3f})"
    return text + (
        f", but worse by {', '.join(f['against'])}" if f["outcome"] == "faster" and f["against"] else ""
    )


def _enough_seeds(summary: Summary) -> dict[str, Any]:
    n = len(summary["seeds"])
    detail = (
        f"{n} seeds"
        if n > 1
        else "not enough seeds: one gives no interval, run at least two (five are better)"
    )
    return _check("enough_seeds", n > 1, detail)


def _all_finished(summary: Summary) -> dict[str, Any]:
    lost = []
    for arm, found in summary["arms"].items():
        bad = {status: n for status, n in found["requests"].items() if status != "finished" and n}
        lost += [f"{arm} has {' and '.join(f'{n} {status}' for status, n in bad.items())}"] if bad else []
    detail = "requests did not finish: " + ", ".join(lost) if lost else "every request finished in every arm"
    return _check("all_finished", not lost, detail)


def _same_requests(summary: Summary) -> dict[str, Any]:
    return _same(summary, "requests", "same_requests", "saw other requests than")


def _same_outputs(summary: Summary) -> dict[str, Any]:
    return _same(summary, "outputs", "same_outputs", "made other output lengths than")


def _same(summary: Summary, digest: str, name: str, what: str) -> dict[str, Any]:
    first, *rest = summary["arms"]
    for arm in rest:
        for seed, cell in summary["arms"][arm]["by_seed"].items():
            if cell["fingerprint"][digest] != summary["arms"][first]["by_seed"][seed]["fingerprint"][digest]:
                return _check(
                    name, False, f"arm {arm} {what} {first} under seed {seed}, so they cannot be paired"
                )
    return _check(name, True, f"{digest} are equal in all arms under each seed")


def _measured(summary: Summary) -> dict[str, Any]:
    for arm, found in summary["arms"].items():
        for seed, cell in found["by_seed"].items():
            if not cell["engine_time_per_token"]:
                return _check("measured", False, f"arm {arm} has no engine times under seed {seed}")
    return _check("measured", True, "every finished request has all its times")


def _check(name: str, ok: bool, detail: str) -> dict[str, Any]:
    return {"name": name, "ok": ok, "detail": detail}


def _arms(summary: Summary, *kinds: str) -> list[str]:
    return [arm for arm, found in summary["arms"].items() if found["kind"] in kinds]


def _geometric(by_seed: Mapping[str, Mapping[str, Any]]) -> float | None:
    times = [cell["engine_time_per_token"] for cell in by_seed.values()]
    if not times or any(t is None or t <= 0 for t in times):
        return None
    return math.exp(sum(map(math.log, times)) / len(times))
