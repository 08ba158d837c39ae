"""Where trainer and servers are put. No GPU is needed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from harness.errors import InputError, MissingPart
from harness.gpus import Gpu
from harness.live import placement
from harness.live.models import ModelSpec
from harness.live.placement import ON_CPU, Placement, place
from harness.live.server import ServerConfig
from workloads.scenario import load_scenario

LLAMA = ModelSpec("llama", "a/b", "c/d", "bfloat16", 1, 2048, 64, "gpu", min_gpu_gib=22.0)
H200, H100, A100, L4 = (
    Gpu(name, gib) for name, gib in (("h200", 139.0), ("h100", 79.6), ("a100", 40.0), ("l4", 22.5))
)


@pytest.fixture
def visible(monkeypatch):
    def show(*found: Gpu) -> None:
        monkeypatch.setattr(placement, "gpus", lambda: found)

    return show


PLACES = [
    ((H100, H100), 2, Placement("cuda:1", 0.45, True)),  # one that the servers leave alone
    ((H200,), 2, Placement("cuda:0", 0.35, False)),  # all on one
    ((H100,), 2, Placement("cuda:0", 0.35, False)),
    ((A100,), 1, Placement("cpu", 0.9, False)),  # the server alone fits
    ((L4, L4), 1, Placement("cuda:1", 0.9, True)),
]


@pytest.mark.parametrize(("found", "servers", "where"), PLACES)
def test_the_trainer_takes_what_is_left(visible, found, servers: int, where: Placement):
    visible(*found)
    assert place(LLAMA, servers) == where


def test_a_device_may_be_asked_for(visible):
    visible(H200, H200)
    assert place(LLAMA, 1, "cpu") == Placement("cpu", 0.9)
    assert place(LLAMA, 1, "cuda") == place(LLAMA, 1, "cuda:0") == Placement("cuda:0", 0.7)
    assert place(LLAMA, 1, "cuda:1") == Placement("cuda:1", 0.9, own_gpu=True)
    for wrong in ("cuda:2", "gpu", "cuda:x", ""):
        with pytest.raises(InputError, match="it must be cpu or cuda:0 or cuda:1"):
            place(LLAMA, 1, wrong)


def test_a_model_over_several_gpus_leaves_the_ones_behind_it(visible):
    visible(*[H100] * 5)
    assert place(replace(LLAMA, tensor_parallel=4), 2) == Placement("cuda:4", 0.45, own_gpu=True)
    visible(*[H200] * 4)
    assert place(replace(LLAMA, tensor_parallel=4), 2) == Placement("cuda:0", 0.35)


def test_servers_that_do_not_fit_side_by_side_are_refused(visible):
    visible(A100)
    with pytest.raises(
        MissingPart, match=r"each of 2 servers .* needs 20 GiB of a GPU and has 18: leave out"
    ):
        place(LLAMA, 2)
    with pytest.raises(MissingPart, match=r"has 14: leave out arm none, .* or move the trainer off"):
        place(LLAMA, 2, "cuda:0")
    visible(L4)
    with pytest.raises(
        MissingPart, match=r"a server of llama needs 20 GiB of a GPU and has 16: move the trainer off"
    ):
        place(LLAMA, 1, "cuda:0")


def test_without_a_gpu_all_is_on_the_cpu(visible):
    visible()
    assert place(LLAMA, 2) == ON_CPU
    visible(H100)
    assert place(replace(LLAMA, device="cpu"), 2) == ON_CPU, "a CPU build cannot use the GPU"


@pytest.mark.parametrize(("found", "charged"), [((H100, H100), 1.0), ((H200,), 0.0)])
def test_a_trainer_is_charged_for_a_gpu_that_could_serve(visible, monkeypatch, found, charged: float):
    pytest.importorskip("torch")
    from harness.live import job as live_job

    visible(*found)
    monkeypatch.setattr(live_job, "model_spec", lambda name: LLAMA)
    monkeypatch.setattr(live_job, "missing_parts", lambda spec: [])
    for scenario in ("domain-shift", "load-swing"):  # a trainer of its own, and one beside the server
        job = live_job.prepare(load_scenario(scenario), model="m")
        assert job.scenario.trainer.price == charged


def test_a_trainers_gpu_is_one_of_several_that_serve(visible, monkeypatch):
    pytest.importorskip("torch")
    from harness.live import job as live_job
    from harness.live import run as live_run
    from harness.live.measure import Measured, policy_context
    from harness.policy import make

    visible(*[H100] * 5)
    monkeypatch.setattr(live_job, "model_spec", lambda name: replace(LLAMA, tensor_parallel=4))
    monkeypatch.setattr(live_job, "missing_parts", lambda spec: [])
    monkeypatch.setattr("harness.live.measure.hazards", lambda measured: (0.5,))
    job = live_job.prepare(load_scenario("domain-shift"), model="m", policies=("none", "bandit"))
    said = live_run._header(job)["arms"]
    assert (said["bandit"]["accelerators"], said["bandit"]["trainer_accelerators"]) == (4.0, 1.0)
    assert said["none"]["trainer_accelerators"] == 0.0
    latency = SimpleNamespace(predict=lambda shape: 0.01)
    context = policy_context(make("bandit"), job.model, 5, Measured, latency, job.scenario, 100.0, 0)
    assert context.trainer_accelerators == 0.25


@pytest.mark.parametrize(("found", "order"), [((H200,), "srsr"), ((), "ssrr")])
def test_servers_on_a_gpu_start_one_after_another(visible, monkeypatch, tmp_path: Path, found, order: str):
    pytest.importorskip("torch")
    from harness.live import run as live_run

    seen: list[str] = []
    server = SimpleNamespace(wait_ready=lambda: seen.append("r"))
    monkeypatch.setattr(live_run.Server, "start", lambda *a: seen.append("s") or server)
    monkeypatch.setattr(
        live_run, "Link", SimpleNamespace(create=lambda size: SimpleNamespace(folder=tmp_path))
    )
    visible(*found)
    spec = replace(LLAMA, target=str(tmp_path))
    job = SimpleNamespace(model=spec, policies=("none", "bandit"), max_k=5, placement=place(spec, 2))
    live_run._start(job, {}, tmp_path, tmp_path, lambda text: None)
    assert "".join(seen)[:4] == order


def test_a_server_is_told_its_share(visible, tmp_path: Path):
    visible(H100)
    flags = ServerConfig(LLAMA, tmp_path, placement=place(LLAMA, 2)).flags()
    assert flags[flags.index("--gpu-memory-utilization") + 1] == "0.35"
    assert "--gpu-memory-utilization" not in ServerConfig(LLAMA, tmp_path).flags()
