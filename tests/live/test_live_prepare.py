"""What a live run refuses before anything starts, and what it leaves alone when it ends."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("torch")
pytest.importorskip("aiohttp")

from harness.errors import InputError
from harness.live import job as live_job
from harness.live.cell import Station
from harness.live.link import TRACES_BYTES, Link
from harness.live.models import RING_TOKENS, UNKNOWN_WIDTH, ModelSpec, trace_bytes
from harness.live.serve import ServeJob, command_line
from workloads.scenario import load_scenario


@pytest.mark.parametrize(
    ("arm", "why"),
    [
        ("oracle", "no live server can tell"),
        ("static:3+ngram", "names a drafter of its own, 'ngram'"),
        ("bandit+forward-kl-policy-gradient", "probability of each draft"),
        ("static:9", "at most 5"),
    ],
)
def test_an_arm_that_no_server_can_run(servable, arm, why):
    with pytest.raises(InputError, match=why):
        live_job.prepare(load_scenario("domain-shift"), model="m", policies=(arm,))


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan")])
@pytest.mark.parametrize("name", ["load", "utilisation"])
def test_a_load_that_is_none(servable, name, value):
    with pytest.raises(InputError, match=f"{name} is .* above 0"):
        live_job.prepare(load_scenario("domain-shift"), model="m", **{name: value})


@pytest.mark.parametrize("value", [-0.1, 2.5, float("nan")])
def test_a_temperature_that_is_none(servable, value):
    with pytest.raises(InputError, match=r"temperature is .* within 0\.\.2"):
        live_job.prepare(load_scenario("domain-shift"), model="m", temperature=value)


def test_the_rate_is_set_once(servable):
    with pytest.raises(InputError, match="give one of them"):
        live_job.prepare(load_scenario("domain-shift"), model="m", load=0.3, utilisation=0.25)
    assert live_job.prepare(load_scenario("domain-shift"), model="m", utilisation=0.25).utilisation == 0.25
    assert live_job.prepare(load_scenario("domain-shift"), model="m").utilisation == live_job.UTILISATION


def test_a_verifier_update_needs_a_successor(servable):
    with pytest.raises(InputError, match="no successor"):
        live_job.prepare(load_scenario("verifier-update"), model="m")


def test_a_scenario_brings_its_arms_without_oracles(servable):
    scenario = load_scenario("domain-shift").model_copy(update={"arms": ("static:2", "oracle")})
    job = live_job.prepare(scenario.model_validate(scenario.model_dump()), model="m")
    assert job.policies == ("static:2",)
    assert live_job.prepare(load_scenario("domain-shift"), model="m").policies == live_job.DEFAULT_ARMS


@pytest.mark.parametrize("ours", [True, False])
def test_only_a_link_of_ours_ends_with_us(tmp_path: Path, ours: bool):
    link = Link.create(1 << 16)
    stopped = []
    server = SimpleNamespace(link=link, stop=lambda: stopped.append(True))
    try:
        Station(server, tmp_path, ours=ours).close()  # type: ignore[arg-type]
        assert link.folder.exists() is not ours
        assert bool(stopped) is ours
    finally:
        link.remove()


def test_printing_flags_fetches_nothing_and_makes_a_link():
    spec = ModelSpec("big", "nobody/target", "nobody/head", "bfloat16", 1, 2048, 64, "gpu")
    link, words = command_line(ServeJob(spec, "bandit"))
    try:
        assert str(link.folder) in words
        assert "--worker-cls harness.live.worker.LiveWorker" in words
        assert "LiveAsyncScheduler" in words
        assert link.traces.capacity == RING_TOKENS * 8 * UNKNOWN_WIDTH
    finally:
        link.remove()


def test_the_ring_is_never_smaller_than_the_usual(tmp_path: Path):
    (tmp_path / "config.json").write_text('{"hidden_size": 96}')
    assert trace_bytes(ModelSpec("t", str(tmp_path), "h", "float32", 1, 512, 16, "cpu")) == TRACES_BYTES
