"""The real thing, small: a vLLM server on this machine, its policy, its trainer, and everything that goes wrong.

Runs only where vLLM is installed (`nox -s live-tests`); makes model `tiny` where the cache has none (minutes).
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("vllm")
import torch

from harness.contract import TRAINED, Observation, Plan, TrainPlan, constant_k
from harness.latency.store import believed
from harness.live import job as live_job
from harness.live import run as live_run
from harness.live.assemble import Assembler
from harness.live.cell import Station, run_cell
from harness.live.link import STEP, STEP_ROW, Link
from harness.live.load import Ask, drive
from harness.live.prompts import Generated
from harness.live.server import Server, ServerConfig, Worker, free_port
from harness.live.workload import Workload
from harness.policy import Policy, PolicyContext
from harness.runlog import CellWriter, read_run
from harness.speculator import checkpoint
from harness.speculator.rows import sequences_of
from harness.speculator.target import Ends
from harness.speculator.texts import load_tokenizer
from harness.speculator.tiny import vllm_head
from harness.validate_live import validate_live
from reports import write_report
from workloads.scenario import load_scenario, parse_scenario

pytestmark = [pytest.mark.slow, pytest.mark.live]

SCENARIO = """
name = "short"
question = "Does the loop close?"
requests = 40
[arrivals]
process = "poisson"
rate = 6.0
[mixture]
kind = "piecewise"
stages = [{ domains = { gsm8k = 1 } }, { domains = { spider-sql = 1 } }]
"""


class Eager(Policy):
    """Trains always, drafts 3, publishes whatever is ready."""

    def reset(self, context: PolicyContext) -> Plan:
        return self._plan(False)

    def decide(self, observation: Observation) -> Plan:
        return self._plan(observation.trainer.candidate is not None)

    def _plan(self, publish: bool) -> Plan:
        return Plan(constant_k(3), drafter=TRAINED, train=TrainPlan(on=True), publish=publish)


@pytest.fixture(scope="module")
def model():
    spec = live_job.model_spec("tiny")
    if spec.needs_making:
        from harness.speculator.tiny.make import made_model

        made_model("tiny")
    return spec


@pytest.fixture(scope="module")
def station(model, tmp_path_factory) -> Iterator[Station]:
    """One server with a drafter for all tests that do not end it."""
    work = tmp_path_factory.mktemp("station")
    link = Link.create(traces_bytes=1 << 20)
    place = Station(Server.start(ServerConfig(model, link.folder), link, work / "server.log"), work)
    try:
        place.server.wait_ready()
        yield place
    finally:
        place.close()


def asks_of(model, n: int, rate: float = 8.0) -> list[Ask]:
    prompts = Generated(load_tokenizer(Path(model.target)), n)
    workload = Workload(load_scenario("domain-shift"), n, 1.0, prompts)
    return replace(workload, load=rate / workload.rate()).asks(0)


def answer_all(station: Station, asks: list[Ask], temperature: float = 0.0):
    how = {"began": time.monotonic(), "most_tokens": 64, "timeout": 60.0, "temperature": temperature}
    return asyncio.run(drive(station.server.url, station.server.config.model.name, asks, **how))


def cell(station: Station, asks: list[Ask], policy: Policy, tmp_path: Path, scenario=None):
    """One cell under `policy`: (answers, events)."""
    (tmp_path / "parts").mkdir()
    policy.name = "eager"
    scenario = scenario or parse_scenario(SCENARIO, "test")
    context = PolicyContext(5, 16, lambda _: 1.0, (0.5,), trainer=True)
    with CellWriter(tmp_path / "parts", "eager", 0) as writer:
        answers, _ = asyncio.run(run_cell(station, policy, context, scenario, asks, 0, writer))
    import pyarrow.parquet as pq

    table = pq.read_table(tmp_path / "parts" / "eager@0.events.parquet").to_pylist()
    return answers, [(row["kind"], json.loads(row["detail"])) for row in table]


def test_a_run_compares_arms_and_its_simulation(model, tmp_path):
    """The whole of `specdrift live`: two servers, arms there and back, log, report, and side by side."""
    job = live_job.prepare(
        parse_scenario(SCENARIO, "test"),
        model="tiny",
        policies=("none", "static:3"),
        seeds=(0, 1),
        requests=40,
    )
    out = tmp_path / "run"
    summary = live_run.live(job, out, finish=write_report)
    assert summary["verdict"]["ok"], summary["verdict"]["checks"]
    run = read_run(out)
    for arm in ("static:3",):
        texts = run.info["texts"][arm]
        assert texts["compared"] == 80
        assert texts["equal"] >= 78, texts  # near ties may turn in a batch of another shape
        assert summary["arms"][arm]["mean"]["acceptance_length"] > 1.0
    for row in run.requests("none", 0).itertuples():
        assert row.arrival <= row.scheduled + 0.05
        assert row.scheduled <= row.first_token <= row.finish
    steps = run.steps("static:3", 0)
    assert set(steps["k"][steps["batch"] > 0]) <= {0, 3}
    assert (steps["start"].diff().dropna() > 0).all()
    verifies = run.verifies("static:3", 0)
    requests = run.requests("static:3", 0).set_index("request_id")
    assert (verifies.groupby("request_id").size() == requests["verify_steps"]).all()
    assert verifies["accepted"].sum() == requests["accepted_tokens"].sum()
    assert believed(out)
    beside = validate_live(out)
    for arm in beside["arms"].values():
        assert abs(arm["metrics"]["tokens_per_second"]["error"]) < 0.2


def test_a_drafter_that_rested_drafts_as_if_it_had_not(station, model, tmp_path):
    """K goes up and down under load; each draft must be the one that the head makes with all it should know. Before
    any test that starts the station's trainer, which reads the traces that are read here."""
    assert station.trainer is None
    link, worker = station.server.link, Worker(station.server.link)
    ends = Ends.load(Path(model.target))
    head = vllm_head.load(Path(model.head), ends)
    checkpoint.save(checkpoint.snapshot(head), tmp_path / "static.safetensors")
    assert worker.swap(tmp_path / "static.safetensors", 1)["ok"]
    link.control.set("sample", 1.0)
    over, records = threading.Event(), []

    def plan_and_read() -> None:
        for k in itertools.cycle((0, 3)):
            link.control.write_schedule(constant_k(k))
            stop = over.wait(0.25)
            records.extend(link.traces.take())
            if stop:
                return

    planner = threading.Thread(target=plan_and_read)
    planner.start()
    try:
        answer_all(station, asks_of(model, 40))
    finally:
        over.set()
        planner.join()
        link.control.set("sample", 0.0)
    equal = total = late = 0
    assembler = Assembler([], 0)
    for trace in assembler.feed(records):
        batch = sequences_of([trace])
        want = head.draft(batch, 3).tokens[0, trace.at - batch.start]
        asked = trace.drafted >= 0
        equal += int((want[:, : trace.drafted.shape[1]] == trace.drafted)[asked].sum())
        total += int(asked.sum())
        late += int((trace.at.diff() > 4).sum())
    assert assembler.incomplete == 0, "every request left a whole trace"
    state = worker.state()
    assert (state["drafter_error"], state["tap_error"]) == ("", "")
    assert state["drafter_rested"] > 20
    assert total > 200
    assert late > 5  # verify steps behind a rest, within a request
    assert equal >= 0.98 * total  # states come as bfloat16: ties


def test_learning_reaches_the_server(station, model, tmp_path):
    """Traces out, weights in, proven."""
    asks = asks_of(model, 200, rate=6.0)
    answers, events = cell(station, asks, Eager(), tmp_path)
    assert all(a.status == "finished" for a in answers)
    swaps = [d for kind, d in events if kind == "swap"]
    assert any(s["ok"] for s in swaps)
    assert all(s["stall"] < 0.05 for s in swaps)
    assert all(s["ok"] for s in swaps)
    assert len({s["fingerprint"] for s in swaps}) == len(swaps)  # other weights answer otherwise
    assert Worker(station.server.link).state()["drafter_version"] == swaps[-1]["version"]


def test_greedy_texts_are_the_targets_own(station, model):
    """With the trained drafter in service, against the model run by transformers."""
    from harness.speculator.target import Target

    asks = asks_of(model, 24)
    target = Target.load(Path(model.target))
    tokenizer = load_tokenizer(Path(model.target))
    texts = target.generate([a.prompt for a in asks], 64, tokenizer.eos_token_id)
    answers = answer_all(station, asks)
    same = sum(
        list(answer.tokens) == text[len(ask.prompt) :]
        for ask, answer, text in zip(asks, answers, texts, strict=True)
    )
    assert same >= 23


def test_sampled_texts_come_from_the_targets_distribution(station, model):
    """Drafts or not, -log p(token) less the entropy there has mean 0 over what a target says; p by transformers."""
    from harness.speculator.target import Target

    temperature, asks = 0.7, asks_of(model, 48)
    station.server.link.control.write_schedule(constant_k(3))
    list(station.server.link.steps.take())
    answers = answer_all(station, asks, temperature)
    rows = [np.frombuffer(c, STEP_ROW)[0] for kind, c in station.server.link.steps.take() if kind == STEP]
    assert sum(int(r["accepted"]) for r in rows) > 200
    target, gaps, variance = Target.load(Path(model.target)), 0.0, 0.0
    texts = [[*ask.prompt, *answer.tokens] for ask, answer in zip(asks, answers, strict=True)]
    for ask, text, (_, last) in zip(asks, texts, target.states(texts), strict=True):
        begin = len(ask.prompt)
        log_p = (last[begin - 1 : len(text) - 1] @ target.head.T / temperature).log_softmax(-1)
        surprise, entropy = -log_p, -(log_p.exp() * log_p).sum(-1)
        said = surprise.gather(-1, torch.tensor(text[begin:])[:, None])[:, 0]
        gaps += float((said - entropy).sum())
        variance += float(((log_p.exp() * surprise**2).sum(-1) - entropy**2).sum())
    assert abs(gaps) < 4 * variance**0.5


@pytest.mark.parametrize("how", ["cut", "nan", "not there"])
def test_bad_weights_never_serve(station, model, tmp_path, how):
    found = checkpoint.load(Path(model.head) / "model.safetensors")
    path = tmp_path / "weights.safetensors"
    if how != "not there":
        checkpoint.save(checkpoint.broken(found) if how == "nan" else found, path)
    if how == "cut":
        with path.open("r+b") as file:
            file.truncate(path.stat().st_size // 2)
    worker = Worker(station.server.link)
    before = worker.state()["drafter_version"]
    answer = worker.swap(path, 99)
    assert not answer["ok"]
    assert answer["error"]
    assert worker.state()["drafter_version"] == before
    assert all(a.status == "finished" for a in answer_all(station, asks_of(model, 4)))


def test_the_verifier_is_swapped_and_back(station, model):
    asks = asks_of(model, 6)
    worker = Worker(station.server.link)
    first = [a.tokens for a in answer_all(station, asks)]
    assert worker.swap(model.successor, 1, "verifier")["ok"]
    assert [a.tokens for a in answer_all(station, asks)] != first
    assert worker.swap(Path(model.target), 0, "verifier")["ok"]
    assert [a.tokens for a in answer_all(station, asks)] == first


def test_a_dead_trainer_and_a_full_ring_do_not_stop_serving(station, model, tmp_path):
    """The scenario kills the trainer; nobody empties the ring of traces then."""
    scenario = parse_scenario(SCENARIO + '[[faults]]\nat = 0.2\nkind = "trainer_dies"\n', "test")
    asks = asks_of(model, 100, rate=12.0)
    answers, events = cell(station, asks, Eager(), tmp_path, scenario)
    assert all(a.status == "finished" for a in answers)
    kinds = [kind for kind, _ in events]
    assert any(d.get("fault") == "trainer_died" for kind, d in events if kind == "fault")
    assert "dropped" in kinds
    assert station.server.link.traces.dropped > 0


def test_k_follows_the_plan_at_once(station, model):
    link = station.server.link
    for k in (0, 4, 1):
        link.control.write_schedule(constant_k(k))
        list(link.steps.take())
        answer_all(station, asks_of(model, 4))
        rows = [np.frombuffer(c, STEP_ROW)[0] for kind, c in link.steps.take() if kind == STEP]
        assert {int(r["k"]) for r in rows if r["batch"]} <= {0, k}
        assert any(int(r["k"]) == k for r in rows)
        assert {int(r["drafted"]) for r in rows} == {k}, "from the first step on, though it verifies none yet"


@pytest.mark.long
def test_serve_restarts_a_killed_engine(model, tmp_path):
    """kill -9 of the engine under `specdrift serve`: it says so, serves again, and the static drafter serves."""
    port, metrics, events = free_port(), free_port(), tmp_path / "events.jsonl"
    command = [sys.executable, "-m", "harness", "serve", "--model", "tiny", "--port", str(port),
               "--events", str(events), "--metrics-port", str(metrics)]  # fmt: skip
    serving = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        said = lambda: [json.loads(x) for x in events.read_text().splitlines()] if events.exists() else []  # noqa: E731
        wait_for(lambda: any(e["kind"] == "serving" for e in said()), 180)
        assert complete(port)
        children = subprocess.run(
            ["pgrep", "-f", "VLLM::EngineCore"], capture_output=True, text=True, check=True
        ).stdout.split()
        ours = [int(p) for p in children if descends(int(p), serving.pid)]
        assert ours
        os.kill(ours[0], signal.SIGKILL)
        wait_for(lambda: any(e.get("fault") == "server_died" for e in said()), 60)
        wait_for(lambda: sum(e["kind"] == "serving" for e in said()) == 2, 180)
        assert complete(port)
        wait_for(lambda: metric(metrics, "specdrift_requests_finished_total") >= 2, 30)
        assert metric(metrics, 'specdrift_faults_total{fault="server_died"}') == 1
    finally:
        serving.send_signal(signal.SIGINT)
        serving.wait(60)
    assert serving.returncode == 0


def complete(port: int) -> list[int]:
    body = {"model": "tiny", "prompt": [5, 6, 7], "max_tokens": 8, "temperature": 0, "return_token_ids": True}
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/v1/completions",
        json.dumps(body).encode(),
        {"content-type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)["choices"][0]["token_ids"]


def metric(port: int, name: str) -> float:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    return float(next((x.rpartition(" ")[2] for x in lines if x.startswith(f"{name} ")), 0.0))


def descends(pid: int, from_pid: int) -> bool:
    while pid > 1:
        if pid == from_pid:
            return True
        stat = Path(f"/proc/{pid}/stat").read_text()
        pid = int(stat.rpartition(")")[2].split()[1])
    return False


def wait_for(condition, seconds: float) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come to pass in time"
        time.sleep(0.5)
