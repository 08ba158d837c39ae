"""What would another policy have done? Its K, on the requests, verify steps and step times that a run recorded."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.compare.metrics import HEADLINE
from harness.compare.pairs import find_pair
from harness.compare.side_by_side import replay_counts
from harness.errors import InputError, UnknownName
from harness.latency.store import believed
from harness.policy import make
from harness.runlog import Run, read_run
from harness.sim.job import choose, prepare
from harness.sim.replay.record import default_arms, lender_for, policy_of
from harness.sim.simulate import simulate


def evaluate_offline(
    run: Path,
    policies: Sequence[str],
    arm: str | None,
    latency: str | None,
    out: Path,
    finish: Callable[[Path], object] = lambda run: None,
    on_cell: Callable[[int, int], None] = lambda done, total: None,
    workers: int | None = None,
) -> dict[str, Any]:
    """Replay the run at `run` with its own arms and with `policies`, which did not run there, into run directory `out`.

    A policy decides K; drafter, trainer and publications are those of the arm that lends them (`arm`, else of the arms
    that train, for a policy that does, the one with the most verify steps). A policy that never trains meets the static
    drafter, as all arms recorded it (as its lender did, where answers were sampled). Steps cost what they cost in the
    run, or by the model `latency`.

    Returns the replay's summary with `offline`: `run`, `latency`, `reference` (the first static arm), `arms` (per arm
    `lender`, `known`: share of its verify steps that the record answers, `replayed` and `measured` speedup over
    `reference`).
    Raises InputError when the run cannot be replayed, or a policy cannot be evaluated on it.
    """
    run = Path(run)
    acceptance = f"replay:{run}"
    scenario, seeds = choose(None, acceptance)
    recorded = read_run(run)
    lenders = {policy: _lender(recorded, policy, arm) for policy in policies}
    job = prepare(
        scenario,
        policies=(*default_arms(recorded), *policies),
        seeds=seeds,
        latency=latency or str(run),
        policy_latency=None if latency else believed(run),
        acceptance=acceptance,
        lenders=lenders,
        workers=workers,
    )
    summary = simulate(job, out, finish=finish, on_cell=on_cell)
    return {**summary, "offline": _offline(recorded, read_run(out), summary, lenders)}


def _lender(run: Run, policy: str, arm: str | None) -> str:
    if policy in run.arms:
        raise InputError(
            f"policy {policy!r} ran in {run.path}: its measured figures stand there; name another"
        )
    made = make(policy)
    if made.needs_truth:
        raise InputError(f"policy {policy!r} needs the simulator's truth, which no record tells")
    if "+" in policy:
        raise InputError(f"policy {policy!r} names a learner; what it would have learnt is not in the record")
    if arm is None:
        return lender_for(run, made)
    if arm not in run.arms:
        raise UnknownName(f"arm of {run.path}", arm, run.arms)
    if not policy_of(run, arm).uses_drafter:
        raise InputError(
            f"arm {arm!r} of {run.path} drafts nothing, so it has nothing to lend; name one that does"
        )
    return arm


def _offline(
    recorded: Run, replayed: Run, summary: Mapping[str, Any], lenders: Mapping[str, str]
) -> dict[str, Any]:
    reference = next((arm for arm, entry in summary["arms"].items() if entry["kind"] == "static"), None)
    return {
        "run": str(recorded.path),
        "latency": replayed.info.get("latency"),
        "reference": reference,
        "arms": {
            arm: {
                "lender": lenders.get(arm),
                "known": _known(replayed, arm),
                "replayed": _speedup(summary, arm, reference),
                "measured": _speedup(recorded.summary, arm, reference),
            }
            for arm in summary["arms"]
        },
    }


def _known(replayed: Run, arm: str) -> float | None:
    """Share of the arm's verify steps that the record answered; None where it verified nothing."""
    counts = replay_counts(replayed, arm) or {}
    total = sum(counts.values())
    return counts["exact"] / total if total else None


def _speedup(summary: Mapping[str, Any] | None, arm: str, over: str | None) -> float | None:
    if summary is None or over is None or arm == over or not {arm, over} <= summary["arms"].keys():
        return None
    estimate: float | None = find_pair(summary, arm, over)["ratios"][HEADLINE]["estimate"]
    return estimate
