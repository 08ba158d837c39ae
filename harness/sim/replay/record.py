"""What a replay takes from the recorded run: its scenario, requests, arms, verify steps and events."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from harness.contract import Event, Request, TrainerState
from harness.decisions import with_counters
from harness.errors import InputError, UnknownName
from harness.policy import Policy, make
from harness.runlog import Run, read_run
from workloads.scenario import Scenario, scenario_from

PREFIX = "replay"
NOTE = (
    "requests, verify steps, swaps, verifier updates and what the trainer said as recorded; what the record does not "
    "tell (more drafts than it verified, another place) is drawn from hazards near in time, and the event `replay` at "
    "the end of each cell counts how often; shared prompt prefixes are not known to it"
)
"""For the record of a replay."""


def run_path(acceptance: str) -> Path | None:
    """The run directory of 'replay:RUN'; None for another source. InputError when it names none."""
    kind, _, path = acceptance.partition(":")
    if kind != PREFIX:
        return None
    if not path:
        raise InputError("acceptance 'replay' does not say which run it replays; write replay:RUN")
    return Path(path)


def open_record(path: Path) -> Run:
    """The run at `path`. InputError when it is none, or recorded no verify steps."""
    run = read_run(path)
    if run.verifies(run.arms[0], run.seeds[0], columns=("at",)) is None:
        raise InputError(
            f"{path} recorded no verify steps (it has no verify.parquet), so nothing can be replayed"
        )
    return run


def scenario_of(run: Run) -> Scenario:
    """The scenario that was run. InputError when run.json does not hold it."""
    table = (run.info.get("configuration") or {}).get("scenario")
    if not isinstance(table, Mapping):
        raise InputError(f"run.json of {run.path} has no configuration.scenario, so its engine is not known")
    return scenario_from(dict(table), f"of {run.path}")


def check_arms(run: Run, arms: Sequence[str], seeds: Sequence[int]) -> None:
    """Raise InputError unless the run holds all of them and their policies can be simulated."""
    for arm in arms:
        if arm not in run.arms:
            raise UnknownName(f"arm of {run.path}", arm, run.arms)
        if policy_of(run, arm).needs_truth:
            raise InputError(f"acceptance 'replay' cannot tell oracle {arm!r} the truth; leave oracles out")
    for seed in seeds:
        if seed not in run.seeds:
            raise InputError(f"{run.path} has no seed {seed}; it has {', '.join(map(str, run.seeds))}")


def default_arms(run: Run) -> tuple[str, ...]:
    """All arms of the run but oracles."""
    return tuple(arm for arm in run.arms if not policy_of(run, arm).needs_truth)


def arm_settings(run: Run, arm: str) -> dict[str, Any]:
    """The arm's settings as run.json has them, its policy named."""
    return {"policy": arm, **run.info["arms"][arm]}


def lent_settings(run: Run, policy: str, lender: str | None) -> dict[str, Any]:
    """The settings of an arm that is replayed as it was, or of a policy that meets what arm `lender` recorded."""
    if lender is None:
        return arm_settings(run, policy)
    lent, made = arm_settings(run, lender), make(policy)
    return lent | {
        "policy": policy,
        "record": lender,
        "drafter_loaded": made.uses_drafter,
        "trainer_accelerators": lent.get("trainer_accelerators", 0.0) if made.trains else 0.0,
        "context": (lent.get("context") or {}) | ({} if made.trains else {"trainer": False}),
    }


def policy_of(run: Run, arm: str) -> Policy:
    """A fresh policy of the arm. UnknownName for one that is not registered here."""
    return make(str(arm_settings(run, arm)["policy"]))


def lender_for(run: Run, policy: Policy) -> str:
    """The arm whose drafter a policy meets that did not run there: of those that train, if it does, the one that
    verified most. InputError for a run in which nothing was drafted."""
    arms = [arm for arm in default_arms(run) if policy_of(run, arm).uses_drafter]
    if policy.trains and (taught := [arm for arm in arms if policy_of(run, arm).trains]):
        arms = taught
    if not arms:
        raise InputError(f"no arm of {run.path} drafted, so what drafts would have met is not known")
    return max(arms, key=lambda arm: sum(len(verify_steps(run, arm, seed)) for seed in run.seeds))


def requests_of(run: Run, seed: int) -> list[Request]:
    """The requests of a seed in order of arrival, the same for every arm.

    Arrivals are those of the run's first arm (a live client's sends jitter by microseconds). A request has as
    many output tokens as the arm that produced most of it: arms are lossless, so fewer means that it failed
    there. Where answers were sampled, arms differ, and it has their mean. One that no arm produced a token for is
    left out.
    """
    columns = ("request_id", "arrival", "prompt_tokens", "domain", "tenant", "output_tokens")
    produced = run.requests(seed=seed, columns=("request_id", "output_tokens"))
    lengths = produced[produced["output_tokens"] > 0].groupby("request_id")["output_tokens"]
    tokens = (lengths.mean().round() if _sampled(run) else lengths.max()).astype(int).to_dict()
    first = run.requests(run.arms[0], seed, columns).sort_values(["arrival", "request_id"])
    rows = zip(*(first[name].tolist() for name in columns[:-1]), strict=True)
    found = [
        Request(number, arrival, prompt, tokens[number], str(domain), str(tenant))
        for number, arrival, prompt, domain, tenant in rows
        if number in tokens
    ]
    if not found:
        raise InputError(
            f"no request of seed {seed} of {run.path} produced a token, so there is none to replay"
        )
    return found


def _sampled(run: Run) -> bool:
    return bool((run.info.get("configuration") or {}).get("temperature"))


def verify_steps(run: Run, arm: str | None, seed: int) -> pd.DataFrame:
    """Verify steps of one arm (None: of all arms) under a seed."""
    found = run.verifies(arm, seed)
    assert found is not None, "open_record has looked"
    return found


def static_steps(run: Run, seed: int) -> pd.DataFrame:
    """Verify steps of the static drafter in any arm. Greedy texts are the same in all of them, so what it drafts at a
    place, and what holds of it, is (but for requests under way as the target changes). None where answers were
    sampled."""
    steps = verify_steps(run, None, seed)
    return steps[steps["drafter_version"] == 0] if not _sampled(run) else steps.head(0)


def trainer_states(run: Run, arm: str, seed: int) -> list[tuple[float, TrainerState]]:
    """What the trainer said of itself and its candidates, and from when on; empty for logs that do not tell."""
    frame = run.events(arm, seed, kinds=("trainer_state", "tick")).sort_values("time", kind="stable")
    found: list[tuple[float, TrainerState]] = []
    for time, kind, detail in zip(frame["time"], frame["kind"], frame["detail"], strict=True):
        if kind == "trainer_state":
            found.append((float(time), TrainerState(**detail)))
        elif found:
            found.append((float(time), with_counters(found[-1][1], detail["trainer"])))
    return found


OF_A_TRAINER = ("trainer", "trainer_state", "trained", "publish", "quarantine", "swap")
"""Recorded events that a policy without a trainer would not have met."""


def events_of(run: Run, arm: str, seed: int, trainer: bool = True) -> list[Event]:
    """Everything that the arm logged but its ticks, in order of time; without `trainer` what no trainer caused."""
    frame = run.events(arm, seed)
    left_out = ("tick",) if trainer else ("tick", *OF_A_TRAINER)
    frame = frame[~frame["kind"].isin(left_out)].sort_values("time", kind="stable")
    rows = zip(frame["time"], frame["kind"], frame["detail"], strict=True)
    return [Event(float(time), str(kind), detail) for time, kind, detail in rows]
