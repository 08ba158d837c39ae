"""Acceptance `replay`: a recorded run played again is that run, and what happened then happens again."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from harness.errors import InputError, UnknownName
from harness.latency import load
from harness.policy.static import StaticK
from harness.runlog import Run, read_run
from harness.sim.build import build_world
from harness.sim.job import _Nowhere, choose, prepare
from harness.sim.replay.record import requests_of
from harness.sim.simulate import simulate
from tests.sim.recording import record_run
from workloads.parts import Fault, Trainer, VerifierUpdate
from workloads.scenario import load_scenario

ARMS = ("none", "static:3", "schedule", "cadence:30@3", "bandit")


@pytest.fixture(scope="module")
def recorded(tmp_path_factory) -> Path:
    """Five domains, a swap that fails, a verifier update that voids the KV cache, swaps of one arm."""
    scenario = load_scenario("domain-shift").model_copy(
        update={
            "requests": 220,
            "verifier_updates": (VerifierUpdate(at=0.6, stall=0.5, retained=0.5, kv_invalid=True),),
            "faults": (Fault(kind="swap_fails", at=0.3),),
        }
    )
    return record_run(tmp_path_factory.mktemp("replay") / "recorded", scenario, ARMS, (0, 1))


@pytest.fixture(scope="module")
def again(recorded, tmp_path_factory) -> Run:
    return replay(recorded, tmp_path_factory.mktemp("replay") / "again")


def job_of(run: Path, **options):
    acceptance = f"replay:{run}"
    scenario, seeds = choose(None, acceptance)
    return prepare(scenario, **{"seeds": seeds, "acceptance": acceptance, "workers": 1} | options)


def replay(run: Path, out: Path, **options) -> Run:
    simulate(job_of(run, **options), out)
    return read_run(out)


def changed(run: Path, out: Path, change) -> Path:
    """A copy of the run whose run.json `change` has edited."""
    shutil.copytree(run, out)
    info = json.loads((out / "run.json").read_text())
    change(info)
    (out / "run.json").write_text(json.dumps(info))
    return out


def by_id(run: Run, arm: str, seed: int):
    return run.requests(arm, seed).sort_values("request_id").reset_index(drop=True)


def counts(run: Run, arm: str, seed: int) -> dict[str, int]:
    (detail,) = run.events(arm, seed, kinds=("replay",))["detail"]
    return detail


@pytest.fixture(scope="module")
def beside(tmp_path_factory) -> Path:
    """A trainer on the server's own cores makes steps 1.3 times as long while it works; one arm has none."""
    scenario = load_scenario("domain-shift")
    trainer = Trainer(own_accelerator=False, interference=1.3, samples_per_second=4.0)
    scenario = scenario.model_copy(update={"requests": 400, "trainer": trainer})
    out = tmp_path_factory.mktemp("replay") / "beside"
    return record_run(out, scenario, ("static:3", "cadence:30@3"), (0, 1))


def test_a_trainer_beside_the_server_slows_the_replay_as_it_did_the_run(beside, tmp_path):
    """Under the latency that the record itself teaches, which knows the server with the trainer at rest."""
    model = load(str(beside))
    assert model.interference == pytest.approx(1.3, abs=0.06)
    assert "measured" in model.provenance["trainer"]
    again = replay(beside, tmp_path / "again", latency=str(beside))
    rest = replace(model, interference=1.0)
    with patch("harness.sim.cell.load_latency", lambda *_, **__: rest):
        at_rest = replay(beside, tmp_path / "rest", latency=str(beside))
    first = read_run(beside)
    seconds = {
        arm: [run.steps(arm)["seconds"].mean() for run in (first, again, at_rest)] for arm in first.arms
    }
    for recorded, replayed, _ in seconds.values():
        assert replayed == pytest.approx(recorded, rel=0.03)
    assert seconds["cadence:30@3"][2] < 0.93 * seconds["cadence:30@3"][0], "the trainer was worth a slowdown"


# --- the same again ---


@pytest.mark.parametrize("arm", ARMS)
@pytest.mark.parametrize("seed", [0, 1])
def test_an_arm_is_reproduced(recorded, again, arm, seed):
    """Acceptance exactly; times to rounding, for a recorded time may lie one bit beside a step's end."""
    first = read_run(recorded)
    one, two = by_id(first, arm, seed), by_id(again, arm, seed)
    for name in one.columns:
        if one[name].dtype == np.float64:
            np.testing.assert_allclose(two[name], one[name], atol=1e-9)
        else:
            assert two[name].tolist() == one[name].tolist(), name
    steps = [run.steps(arm, seed) for run in (first, again)]
    for name in ("batch", "k", "accepted", "offered", "drafter_version", "verifier_version", "kv_blocks"):
        assert steps[0][name].tolist() == steps[1][name].tolist(), name
    told = counts(again, arm, seed)
    assert told == {"exact": int(one["verify_steps"].sum()), "censored": 0, "absent": 0}


@pytest.mark.parametrize("arm", ["static:3", "cadence:30@3", "bandit"])
def test_swaps_updates_and_training_are_those_of_the_record(recorded, again, arm):
    first = read_run(recorded)
    for kind in ("swap", "verifier_update", "trainer", "shift", "fault", "publish"):
        one, two = (run.events(arm, 0, kinds=(kind,)) for run in (first, again))
        assert len(two) == len(one), kind
        if kind != "trainer":  # logged at the end, whenever that is
            np.testing.assert_allclose(two["time"], one["time"], atol=0.1)
        for a, b in zip(one["detail"], two["detail"], strict=True):
            assert b == a
    if arm == "cadence:30@3":
        swaps = list(first.events(arm, 0, kinds=("swap",))["detail"])
        assert {s["ok"] for s in swaps} == {True, False}, (
            "the record has a swap that failed and one that did not"
        )


def with_events(run: Path, out: Path, change: Callable[[pa.Table], pa.Table]) -> Path:
    """A copy of the run whose events `change` has edited, cell by cell."""
    shutil.copytree(run, out)
    recorded = pq.ParquetFile(run / "events.parquet")
    with pq.ParquetWriter(out / "events.parquet", recorded.schema_arrow) as writer:
        for cell in range(recorded.num_row_groups):
            writer.write_table(change(recorded.read_row_group(cell)))
    return out


def silenced(events: pa.Table) -> pa.Table:
    """A log of before the trainer's word was kept."""
    return events.filter(pc.not_equal(pc.cast(events["kind"], pa.string()), "trainer_state"))


def hurried(events: pa.Table) -> pa.Table:
    """As can be live: each published candidate comes 20 ms before a tick and is gone, published, 10 ms before it."""
    kinds, times = events["kind"].to_pylist(), events["time"].to_numpy().copy()
    said = [i for i, kind in enumerate(kinds) if kind == "trainer_state"]
    kept = [i for i, kind in enumerate(kinds) if kind != "trainer_state"]
    for i in (i for i, kind in enumerate(kinds) if kind == "publish"):
        candidate = max(n for n in said if n < i)
        gone = min(n for n in said if n > i)
        times[candidate], times[gone] = times[i] - 0.02, times[i] - 0.01
        times[i] -= 0.02
        kept += [candidate, gone]
    order = sorted(kept, key=lambda i: (times[i], i))
    return events.set_column(events.column_names.index("time"), "time", pa.array(times)).take(order)


def test_a_policy_that_is_not_told_what_the_trainer_said_goes_astray(recorded, tmp_path):
    """It cannot know what to expect of new weights; with older logs a replay is no more than near."""
    silent = with_events(recorded, tmp_path / "silent", silenced)
    run = replay(silent, tmp_path / "again", policies=("bandit",))
    told = [counts(run, "bandit", seed) for seed in (0, 1)]
    drawn = sum(t["censored"] + t["absent"] for t in told)
    assert 0 < 5 * drawn < sum(t["exact"] for t in told)
    means = [r.summary["arms"]["bandit"]["mean"] for r in (read_run(recorded), run)]
    for name in ("tokens_per_second", "acceptance_length", "engine_time_per_token"):
        assert means[1][name] == pytest.approx(means[0][name], rel=0.03)


def test_a_policy_meets_every_candidate_that_was_published(recorded, tmp_path):
    """Also one that came and went between two of its own ticks, and before the swap."""
    arm = "cadence:30@3"
    run = replay(with_events(recorded, tmp_path / "hurried", hurried), tmp_path / "again", policies=(arm,))
    events = run.events(arm, 0, kinds=("publish", "tick", "swap"))
    order = [
        "met" if kind == "tick" and detail["trainer"][3] is not None else kind
        for kind, detail in zip(events["kind"], events["detail"], strict=True)
    ]
    swaps = [i for i, kind in enumerate(order) if kind == "swap"]
    assert len(swaps) == 2
    for before, swap in zip([0, *swaps], swaps, strict=False):
        assert order[before:swap].count("met") == 1
        assert "publish" in order[before:swap]


def test_the_replay_says_where_its_numbers_come_from(recorded, again):
    assert again.info["acceptance"]["name"] == "replay"
    assert "recorded" in again.info["acceptance"]["source"]
    arms = read_run(recorded).info["arms"]
    assert again.info["arms"] == {name: arms[name] for name in again.arms}
    assert again.info["configuration"]["requests"] == 220
    assert again.info["scenario"] == "domain-shift"


def test_another_k_meets_about_what_a_server_with_that_k_meets(recorded, tmp_path):
    """The record of K = 3 played with K = 5 and K = 2, against runs that really had them."""
    scenario = choose(None, f"replay:{recorded}")[0]
    for k in (5, 2):

        def ask(info: dict[str, Any], k: int = k) -> None:
            info["arms"]["static:3"]["policy"] = f"static:{k}"

        asked = changed(recorded, tmp_path / f"ask{k}", ask)
        run = replay(asked, tmp_path / f"k{k}", policies=("static:3",), seeds=(0,))
        truth = prepare(scenario, policies=(f"static:{k}",), seeds=(0,), workers=1)
        simulate(truth, tmp_path / f"truth{k}")
        means = [
            r.summary["arms"][arm]["mean"]
            for r, arm in ((run, "static:3"), (read_run(tmp_path / f"truth{k}"), f"static:{k}"))
        ]
        assert means[0]["k_histogram"].keys() == means[1]["k_histogram"].keys()
        assert means[0]["acceptance_length"] == pytest.approx(means[1]["acceptance_length"], rel=0.04)
        told = counts(run, "static:3", 0)
        assert min(told["exact"], told["absent"]) > 100
        assert (told["censored"] > 50) == (k > 3), "less than all: another arm went deeper at some places"


# --- what is taken from the record ---


def test_the_engine_is_the_recorded_server(recorded, tmp_path):
    server = {
        "max_num_seqs": 8,
        "max_num_batched_tokens": 512,
        "block_size": 32,
        "kv_tokens": 9000,
        "max_k": 4,
    }

    def tell(info: dict[str, Any]) -> None:
        info["configuration"]["engine"] = server | {"dtype": "float32"}

    run = changed(recorded, tmp_path / "told", tell)
    config = build_world(next(job_of(run, policies=("static:3",)).cells()), _Nowhere()).engine.config
    assert {name: getattr(config, name) for name in server} == server
    without = build_world(next(job_of(run, policies=("none",)).cells()), _Nowhere()).engine.config
    assert (without.max_k, without.drafter_loaded) == (0, False)


def test_policies_are_told_what_they_were_told_or_what_the_first_requests_show(
    recorded, tmp_path, monkeypatch
):
    seen = []
    reset = StaticK.reset
    monkeypatch.setattr(StaticK, "reset", lambda self, context: seen.append(context) or reset(self, context))
    build_world(next(job_of(recorded, policies=("static:3",)).cells()), _Nowhere())
    told = read_run(recorded).info["arms"]["static:3"]["context"]
    assert seen[-1].offline_hazards == tuple(told["offline_hazards"])
    assert seen[-1].mean_context == told["mean_context"]

    untold = changed(recorded, tmp_path / "untold", lambda info: info["arms"]["static:3"].pop("context"))
    build_world(next(job_of(untold, policies=("static:3",)).cells()), _Nowhere())
    found = seen[-1].offline_hazards
    assert found[3] == found[2], "beyond the recorded K the last position stands for the rest"
    assert found[:3] == pytest.approx(told["offline_hazards"][:3], abs=0.12)
    assert 0 < seen[-1].mean_context < 4000


def with_lengths(recorded: Path, run: Path, change) -> Path:
    """A copy of the run whose output tokens `change(table, lengths)` has edited."""
    shutil.copytree(recorded, run)
    table = pq.read_table(run / "requests.parquet")
    lengths = table["output_tokens"].to_numpy().copy()
    change(table, lengths)
    place = table.column_names.index("output_tokens")
    table = table.set_column(place, "output_tokens", pa.array(lengths, pa.int32()))
    groups = pq.ParquetFile(recorded / "requests.parquet")
    with pq.ParquetWriter(run / "requests.parquet", table.schema) as out:
        start = 0
        for g in range(groups.num_row_groups):
            rows = groups.metadata.row_group(g).num_rows
            out.write_table(table.slice(start, rows))
            start += rows
    return run


def test_a_request_that_failed_in_one_arm_has_the_length_that_another_produced(recorded, tmp_path):
    def fail(table, lengths):
        lengths[(table["arm"].to_numpy() == "none") & (table["request_id"].to_numpy() == 7)] = 1
        lengths[table["request_id"].to_numpy() == 8] = 0

    run = with_lengths(recorded, tmp_path / "failed", fail)
    job = job_of(run, policies=("static:3",), seeds=(0,))
    assert job.requests == 219
    simulate(job, tmp_path / "out")
    one, two = by_id(read_run(recorded), "static:3", 0), by_id(read_run(tmp_path / "out"), "static:3", 0)
    assert 8 not in two["request_id"].tolist()
    lengths = [r.set_index("request_id")["output_tokens"] for r in (one, two)]
    assert lengths[0].drop(8).tolist() == lengths[1].tolist()


@pytest.mark.parametrize(("temperature", "expected"), [(0.0, 90), (0.8, 38)])
def test_a_sampled_request_has_the_mean_of_what_its_arms_said(recorded, tmp_path, temperature, expected):
    def say(table, lengths):
        mine = table["request_id"].to_numpy() == 7
        lengths[mine] = 25
        lengths[mine & (table["arm"].to_numpy() == "none")] = 90

    run = with_lengths(recorded, tmp_path / "run", say)
    told = changed(run, tmp_path / "told", lambda info: info["configuration"].update(temperature=temperature))
    assert {r.request_id: r.output_tokens for r in requests_of(read_run(told), 0)}[7] == expected


def test_it_can_be_cut_short(recorded, tmp_path):
    run = replay(recorded, tmp_path / "short", policies=("static:3",), seeds=(1,), requests=40)
    assert len(run.requests("static:3", 1)) == 40
    assert run.requests("static:3", 1)["request_id"].max() == 39


# --- refused ---


def test_what_the_run_does_not_hold_is_named(recorded):
    with pytest.raises(UnknownName, match=r"did you mean 'static:3'.*valid: .*bandit"):
        job_of(recorded, policies=("static:4",))
    with pytest.raises(InputError, match="has no seed 5; it has 0, 1"):
        job_of(recorded, seeds=(5,))
    with pytest.raises(InputError, match="leave out 'steady'"):
        choose("steady", f"replay:{recorded}")
    with pytest.raises(InputError, match="leave out the trace"):
        job_of(recorded, trace=Path("trace.csv"))
    with pytest.raises(InputError, match="write replay:RUN"):
        choose(None, "replay")
    with pytest.raises(InputError, match="there is no run"):
        choose(None, "replay:nowhere")


def test_a_run_without_verify_steps_or_scenario_cannot_be_replayed(recorded, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(recorded, run)
    (run / "verify.parquet").unlink()
    with pytest.raises(InputError, match=r"has no verify\.parquet"):
        choose(None, f"replay:{run}")
    bare = changed(recorded, tmp_path / "bare", lambda info: info["configuration"].pop("scenario"))
    with pytest.raises(InputError, match=r"no configuration\.scenario"):
        choose(None, f"replay:{bare}")


def test_oracles_are_left_out(recorded, tmp_path):
    run = changed(recorded, tmp_path / "run", lambda info: info["arms"]["bandit"].update(policy="oracle"))
    assert job_of(run).policies == ARMS[:-1]
    with pytest.raises(InputError, match="leave oracles out"):
        job_of(run, policies=("bandit",))


def test_seeds_and_scenario_are_those_of_the_run_or_our_own(recorded):
    assert choose(None, f"replay:{recorded}")[1] == (0, 1)
    assert choose(None, f"replay:{recorded}", 1)[1] == (1,)
    scenario, seeds = choose(None, "parametric", 3)
    assert (scenario.name, seeds) == ("domain-shift", range(3, 8))
    assert choose("steady", "parametric", 0, 2)[1] == range(2)
