"""Run directories as latency models: a recorded simulator is met again, `load` and `calibrate` take them."""

from __future__ import annotations

import json

import numpy as np
import pytest

from harness.cli import main
from harness.contract import Request, constant_k
from harness.errors import InputError
from harness.latency import decode_shape, load
from harness.latency.compiled import step_seconds
from harness.latency.recorded import fit_run, record
from harness.runlog import read_run
from harness.sim.acceptance import MAX_K
from harness.sim.engine import Engine, EngineConfig, Labels
from tests.factories import write_run

ARMS = ("none", "static:0", "static:1", "static:3")
LABELS = Labels(domains=("chat",), tenants=("default",))


def simulate(latency, out):
    arms = [word for arm in ARMS for word in ("--policy", arm)]
    size = ["--requests", "150", "--seeds", "1", "--workers", "1"]
    with pytest.raises(SystemExit) as stop:
        main(["simulate", "--scenario", "load-swing", "--latency", latency, *arms, *size, "--out", str(out)])
    assert not stop.value.code


@pytest.fixture(scope="module", params=["h100-llama3-8b", "roofline:h100:llama3-8b"])
def simulated(request, tmp_path_factory):
    """(name of the simulator's latency model, run directory)."""
    out = tmp_path_factory.mktemp("recorded") / "run"
    simulate(request.param, out)
    return request.param, out


def test_a_recorded_simulator_is_predicted_step_by_step(simulated):
    """Fresh traffic on the true model; K = 2 was never recorded."""
    name, run = simulated
    true, recorded = load(name).compiled, load(str(run)).compiled
    for k in (0, 1, 2, 3):
        seconds = np.array(priced(load(name), true, recorded, k))
        assert np.abs(seconds[:, 1] / seconds[:, 0] - 1).mean() < 0.02
        assert seconds[:, 1].sum() == pytest.approx(seconds[:, 0].sum(), rel=0.02)


def priced(model, true, recorded, k):
    """(true, recorded) seconds of every step of an engine that serves 60 requests."""
    engine = Engine(EngineConfig(max_k=7), LABELS, model, 5)
    engine.set_schedule(constant_k(k))
    engine.set_drafter(np.full((1, MAX_K), 0.4), 0)
    rng = np.random.default_rng(3)
    for i in range(60):
        sizes = (int(rng.integers(50, 1200)), int(rng.integers(20, 250)))
        engine.submit(Request(i, 0.15 * i, *sizes, domain="chat", tenant="default"))
    found = []
    while not engine.idle:
        if not engine.plan():
            engine.wait_until(engine.clock + 0.1)
            continue
        seconds = step_seconds(true, engine.state.x)
        found.append((seconds, step_seconds(recorded, engine.state.x)))
        engine.commit(seconds)
        engine.take_steps(), engine.take_done()
    return found


def test_simulating_on_the_record_takes_as_long(simulated, tmp_path):
    """`--latency RUN`: every arm's seconds of steps within 0.5% of the run that was recorded."""
    _, run = simulated
    again = tmp_path / "again"
    simulate(str(run), again)
    for arm in ARMS:
        first, second = (read_run(r).steps(arm)["seconds"].sum() for r in (run, again))
        assert second == pytest.approx(first, rel=0.005)
    assert "recorded from a simulated engine" in json.dumps(read_run(again).info["latency"])


def test_calibrate_prints_errors_and_writes_the_model(simulated, tmp_path, capsys):
    _, run = simulated
    out = tmp_path / "recorded.json.gz"
    assert call("--engine", run, "--out", out, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["ok"] is True
    errors = {(e["arm"], e["k"]): e["mean"] for e in found["engine"]["errors"]}
    assert errors["static:3", 3] < 0.02
    assert errors == {(e.arm, e.k): e.mean for e in fit_run(run).errors}
    shape = decode_shape(20, 3, 700.0)
    assert load(str(out)).predict(shape) == record(run).predict(shape)
    call("--engine", run)
    shown = capsys.readouterr().out
    assert "within the bar" in shown
    assert "static:3" in shown


def call(*args: object) -> int:
    with pytest.raises(SystemExit) as stop:
        main(["calibrate", *map(str, args)])
    return int(stop.value.code or 0)


def test_a_live_run_says_what_it_is(tmp_path):
    engine = {"block_size": 32, "kv_tokens": 5000, "max_k": 4}
    run = write_run(tmp_path / "run", mode="live", configuration={"engine": engine})
    model = load(str(run))
    assert model.source == "recorded from a live engine"
    assert model.kv_capacity_tokens == 5000
    assert model.max_k == 3
    assert model.name == str(run)
    assert "32 tokens" in model.provenance["context"]


def test_an_arm_may_say_whether_it_holds_a_drafter(tmp_path):
    told = {"static:3": {"drafter_loaded": False}}
    run = write_run(tmp_path / "run", {"none": 1.0, "static:3": 1.2}, settings=told)
    with pytest.raises(InputError, match="without a drafter"):
        record(run)


@pytest.mark.parametrize(
    ("engine", "sentence"),
    [
        ({"block_size": "big"}, "engine.block_size of .* is 'big'"),
        ({"kv_tokens": -4}, "kv_tokens of .* is -4"),
    ],
)
def test_a_bad_configuration_is_refused(tmp_path, engine, sentence):
    with pytest.raises(InputError, match=sentence):
        record(write_run(tmp_path / "run", configuration={"engine": engine}))


def test_a_run_takes_no_settings_of_kernels(tmp_path):
    run = write_run(tmp_path / "run")
    with pytest.raises(InputError, match="is a run"):
        load(str(run), gap=0.001)


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (["--engine", "no/such"], "no such directory"),
        (["--engine", "{run}", "--model", "llama3-8b"], "the steps of --engine are whole"),
        (["--engine", "{run}", "--tables", "x", "--out", "a.json"], "one fitted model, but 2 sources"),
    ],
)
def test_mistakes_are_one_sentence(tmp_path, capsys, args, sentence):
    run = write_run(tmp_path / "run")
    assert call(*(a.format(run=run) for a in args)) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert sentence in err
