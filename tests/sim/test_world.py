"""A whole cell: control loop, trainer, publications, verifier updates, faults, oracles."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import simpy

from harness.contract import Plan, TrainerState, TrainPlan, constant_k
from harness.decisions import with_counters
from harness.errors import InputError
from harness.latency import load
from harness.policy.base import Policy
from harness.sim import cell as cells
from harness.sim import parametric
from harness.sim.build import build_world
from harness.sim.cell import Cell
from harness.sim.world import World
from workloads.scenario import scenario_from


class Records:
    """A sink that keeps everything."""

    def __init__(self) -> None:
        self.steps, self.requests, self.log = [], [], []

    def name(self, labels) -> None:
        self.labels = labels

    def step_rows(self, rows) -> None:
        self.steps.append(rows)

    def request_rows(self, rows) -> None:
        self.requests.append(rows)

    def events(self, events) -> None:
        self.log += events

    def kinds(self, kind: str) -> list:
        return [e for e in self.log if e.kind == kind]


def scenario(**changes):
    table = {
        "name": "test",
        "question": "Does it work?",
        "requests": 400,
        "arrivals": {"process": "poisson", "rate": 10.0},
        "mixture": {"kind": "constant", "domains": {"chat": 1.0}},
    }
    return scenario_from(table | changes, "test")


def run(policy: str, seed: int = 0, monkeypatch=None, made=None, **changes) -> tuple[Records, object]:
    if made is not None:
        monkeypatch.setattr(parametric, "make", lambda spec: made)
    sink = Records()
    world = build_world(Cell(scenario(**changes), policy, seed, "h100-llama3-8b"), sink)
    world.run()
    return sink, world


def rows_of(sink: Records) -> np.ndarray:
    return np.sort(np.concatenate(sink.requests), order="request_id")


class Scripted(Policy):
    """Answers with the plan its script gives for a tick number."""

    def __init__(self, script) -> None:
        self.script, self.seen = script, []

    def reset(self, context):
        self.context = context
        return self.script(0)

    def decide(self, observation):
        self.seen.append(observation)
        return self.script(len(self.seen))


@pytest.mark.parametrize("policy", ["none", "static:3", "schedule", "cadence", "goodput", "bandit", "oracle"])
def test_every_policy_serves_every_request(policy):
    sink, _ = run(policy)
    rows = rows_of(sink)
    assert rows["request_id"].tolist() == list(range(400))
    assert (rows["generated"] == rows["output"]).all()


def test_the_same_seed_gives_the_same_bytes():
    one, two = run("bandit")[0], run("bandit")[0]
    assert np.concatenate(one.steps).tobytes() == np.concatenate(two.steps).tobytes()
    assert one.log == two.log


def test_arms_see_the_same_requests_and_latents():
    one, two = rows_of(run("none")[0]), rows_of(run("bandit")[0])
    for name in ("arrival", "prompt", "output", "domain", "tenant", "latent"):
        assert (one[name] == two[name]).all()


def test_a_trainer_that_no_policy_uses_changes_nothing():
    with_trainer, without = run("static:3")[0], run("static:3", trainer={"on": False})[0]
    assert np.concatenate(with_trainer.steps).tobytes() == np.concatenate(without.steps).tobytes()


def test_ticks_come_every_32_steps_or_every_second(monkeypatch):
    policy = Scripted(lambda tick: Plan(constant_k(3)))
    sink, _ = run("static:3", monkeypatch=monkeypatch, made=policy, requests=200)
    assert max(o.engine_steps for o in policy.seen) == 32
    assert sum(o.engine_steps for o in policy.seen) == sum(map(len, sink.steps))
    assert sum(o.finished for o in policy.seen) == 200
    gaps = np.diff([o.time for o in policy.seen])
    assert gaps.max() < 1.1
    assert (gaps >= 0).all()


def test_observed_positions_are_the_engines(monkeypatch):
    policy = Scripted(lambda tick: Plan(constant_k(3)))
    sink, _ = run("static:3", monkeypatch=monkeypatch, made=policy)
    offered = sum(sum(c.offered) for o in policy.seen for c in o.positions.values())
    assert offered == sum(rows["offered"].sum() for rows in sink.steps)


def test_a_plans_k_is_drafted_from_the_next_step_on(monkeypatch):
    policy = Scripted(lambda tick: Plan(constant_k(2 if tick < 10 else 6)))
    sink, _ = run("static:3", monkeypatch=monkeypatch, made=policy)
    steps = np.concatenate(sink.steps)
    used = steps["k"][steps["batch"] > 0]
    assert set(used.tolist()) <= {0, 2, 6}
    changed = int(np.flatnonzero(used == 6)[0])
    assert (used[changed:] != 2).all()


def publish_always(tick: int) -> Plan:
    return Plan(constant_k(4), train=TrainPlan(on=True), publish=True)


def test_publishing_swaps_stalls_and_improves(monkeypatch):
    policy = Scripted(publish_always)
    sink, _ = run("cadence", monkeypatch=monkeypatch, made=policy, requests=3000, swap={"stall": 0.25})
    swaps = sink.kinds("swap")
    assert len(swaps) > 3
    assert all(e.detail["ok"] and e.detail["stall"] == 0.25 for e in swaps)
    steps = np.concatenate(sink.steps)
    gaps = steps["start"][1:] - (steps["start"] + steps["seconds"])[:-1]
    for swap in swaps[:-1]:
        after = int(np.searchsorted(steps["start"], swap.time))
        assert gaps[after - 1] >= 0.25 - 1e-9 or swap.time > steps["start"][-1]
    assert [e.detail["version"] for e in swaps] == list(range(1, len(swaps) + 1))
    first, last = policy.seen[0], policy.seen[-1]
    assert first.drafter == "static"
    assert last.drafter == "trained"
    rows = rows_of(sink)
    early, late = rows[:500], rows[-500:]
    assert (
        late["accepted"].sum() / late["verify_steps"].sum()
        > early["accepted"].sum() / early["verify_steps"].sum()
    )


def test_a_plan_can_go_back_to_the_static_drafter(monkeypatch):
    def script(tick):
        return Plan(
            constant_k(4),
            drafter="trained" if tick < 150 else "static",
            train=TrainPlan(on=True),
            publish=tick == 60,
        )

    policy = Scripted(script)
    sink, _ = run("cadence", monkeypatch=monkeypatch, made=policy, requests=2000)
    versions = [e.detail["version"] for e in sink.kinds("swap")]
    assert versions == [1, 0]
    assert policy.seen[-1].drafter == "static"


def test_publishing_from_the_static_drafter_swaps_once(monkeypatch):
    """Back to trained with a publication under way: the new weights serve next, not the old trained ones."""

    def script(tick):
        static = 100 <= tick < 200
        return Plan(
            constant_k(4),
            drafter="static" if static else "trained",
            train=TrainPlan(on=True),
            publish=tick in (60, 200),
        )

    sink, _ = run("cadence", monkeypatch=monkeypatch, made=Scripted(script), requests=2000)
    assert [e.detail["version"] for e in sink.kinds("swap")] == [1, 0, 2]


def test_a_failed_swap_leaves_the_old_weights(monkeypatch):
    policy = Scripted(publish_always)
    sink, _ = run(
        "cadence",
        monkeypatch=monkeypatch,
        made=policy,
        requests=1500,
        faults=[{"kind": "swap_fails", "at": 0.0}],
    )
    first = sink.kinds("swap")[0]
    assert not first.detail["ok"]
    failed = next(o for o in policy.seen if o.last_swap is not None)
    assert failed.last_swap.ok is False
    assert failed.drafter == "static"


def test_a_dead_trainer_stops_candidates_but_not_serving(monkeypatch):
    policy = Scripted(publish_always)
    sink, _ = run(
        "cadence",
        monkeypatch=monkeypatch,
        made=policy,
        requests=1500,
        faults=[{"kind": "trainer_dies", "at": 0.5}],
    )
    died = sink.kinds("fault")[0].time
    assert not policy.seen[-1].trainer.alive
    assert max(e.time for e in sink.kinds("swap")) < died + 5.0
    assert len(rows_of(sink)) == 1500


def test_a_corrupt_candidate_shows_in_its_held_out_estimate(monkeypatch):
    policy = Scripted(lambda tick: Plan(constant_k(4), train=TrainPlan(on=True)))
    run(
        "cadence",
        monkeypatch=monkeypatch,
        made=policy,
        requests=1500,
        faults=[{"kind": "corrupt_candidate", "at": 0.3}],
    )
    estimates = [
        o.trainer.heldout_candidate["chat"] for o in policy.seen if "chat" in o.trainer.heldout_candidate
    ]
    assert min(estimates) < 1.1 < 2.0 < max(estimates)


def test_a_verifier_update_drops_acceptance_and_is_logged(monkeypatch):
    policy = Scripted(lambda tick: Plan(constant_k(4)))
    update = {"at": 0.5, "stall": 2.0, "retained": 0.3, "kv_invalid": True}
    sink, _ = run("static:4", monkeypatch=monkeypatch, made=policy, requests=1500, verifier_updates=[update])
    (event,) = sink.kinds("verifier_update")
    assert event.detail["stall"] == 2.0
    assert policy.seen[-1].verifier_version == 1
    rows = rows_of(sink)
    gain = [part["accepted"].sum() / part["verify_steps"].sum() for part in (rows[:600], rows[900:])]
    assert gain[1] / gain[0] == pytest.approx(0.3, abs=0.05)
    assert rows["preemptions"].sum() > 0


def test_shifts_are_logged_where_the_mixture_turns():
    stages = [{"domains": {"chat": 1.0}}, {"domains": {"code": 1.0}}]
    sink, _ = run("none", mixture={"kind": "piecewise", "stages": stages})
    (shift,) = sink.kinds("shift")
    assert shift.detail["to"] == "code"
    rows = rows_of(sink)
    code = rows[rows["domain"] == sink.labels.domains.index("code")]
    assert shift.time == pytest.approx(code["arrival"].min(), abs=1.0)


def test_a_sharing_trainer_slows_the_engine():
    shared = {"own_accelerator": False, "interference": 1.5}
    alone, slowed = (rows_of(run("cadence", trainer=t)[0]) for t in ({}, shared))
    assert (slowed["finish"] - slowed["arrival"]).sum() > 1.05 * (alone["finish"] - alone["arrival"]).sum()


@pytest.mark.parametrize(
    ("trainer", "slowdown"),
    [
        ({"own_accelerator": False}, 1.07),
        ({"own_accelerator": False, "interference": 1.5}, 1.5),
        ({"own_accelerator": True}, 1.0),
    ],
)
def test_what_sharing_costs_is_the_scenarios_word_or_else_the_latency_models(trainer, slowdown):
    beside = replace(load("h100-llama3-8b"), interference=1.07)
    assert cells.trainer_config(scenario(trainer=trainer), beside).slowdown == slowdown


def test_the_buffer_is_bounded_and_counts_what_it_drops(monkeypatch):
    policy = Scripted(publish_always)
    run(
        "cadence",
        monkeypatch=monkeypatch,
        made=policy,
        requests=1500,
        trainer={"samples_per_second": 2.0, "buffer_requests": 50},
    )
    assert policy.seen[-1].trainer.dropped > 500


def test_day_zero_starts_from_nothing():
    sink, _ = run("static:3", drafter="untrained")
    assert rows_of(sink)["accepted"].sum() == 0


def test_events_of_a_tick_hold_the_decision():
    sink, _ = run("bandit")
    kinds = Counter(e.kind for e in sink.log)
    assert kinds["tick"] > 50
    detail = sink.kinds("tick")[5].detail
    assert set(detail["plan"]) == {"k", "drafter", "train", "budget", "sample", "publish", "propensity"}


def test_the_log_tells_all_that_the_trainer_said(monkeypatch):
    """Each tick's view of it: the newest `trainer_state`, and the tick's own counters."""
    policy = Scripted(lambda tick: Plan(constant_k(4), train=TrainPlan(on=True), publish=tick % 20 == 0))
    sink, _ = run("cadence", monkeypatch=monkeypatch, made=policy, requests=800)
    said, views = None, iter(policy.seen)
    for event in sink.log:
        if event.kind == "trainer_state":
            said = TrainerState(**event.detail)
        elif event.kind == "tick":
            seen = next(views).trainer
            told = with_counters(said, event.detail["trainer"])
            assert replace(told, busy_seconds=seen.busy_seconds) == seen
            assert told.busy_seconds == pytest.approx(seen.busy_seconds, abs=1e-3)
    assert len(sink.kinds("swap")) > 3
    assert len(sink.kinds("trainer_state")) < len(sink.kinds("tick")), "only when it is news"


def test_a_policy_with_a_drafter_needs_a_price_for_it(monkeypatch):
    class NoDrafter:
        name, has_drafter = "tables", False

    monkeypatch.setattr(cells, "load_latency", lambda name, draft=None: NoDrafter())
    with pytest.raises(InputError, match="no drafter"):
        build_world(Cell(scenario(), "static:3", 0, "tables"), Records())


def test_objectives_are_refused_not_ignored(monkeypatch):
    policy = Scripted(
        lambda tick: Plan(constant_k(3), train=TrainPlan(on=True, objectives={"forward_kl": 1.0}))
    )
    with pytest.raises(InputError, match="forward_kl"):
        run("cadence", monkeypatch=monkeypatch, made=policy)


def test_no_request_comes_before_its_time():
    """0.57 + (1.74 - 0.57) is less than 1.74: an idle engine that is woken then sees nothing, and time stood still."""
    assert 0.57 + (1.74 - 0.57) < 1.74
    world, came = World.__new__(World), []
    world.env = simpy.Environment()
    world.engine = SimpleNamespace(submit=lambda request: came.append((world.env.now, request.arrival)))
    world._happenings, world._rouse = [], lambda: None
    world.env.process(world._arrive([SimpleNamespace(arrival=0.57), SimpleNamespace(arrival=1.74)]))
    world.env.run()
    assert came == [(0.57, 0.57), (1.74, 1.74)]
