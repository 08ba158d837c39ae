"""Resolving a job: defaults, tensor parallelism, traces with prefixes."""

from __future__ import annotations

import json

import pytest

from harness.errors import InputError
from harness.sim.build import build_world
from harness.sim.job import _Nowhere, prepare
from harness.sim.simulate import _info
from tests.latency.folders import write_folder
from workloads.scenario import load_scenario


def split_scenario(ranks: int):
    scenario = load_scenario("steady")
    return scenario.model_copy(
        update={"engine": scenario.engine.model_copy(update={"tensor_parallel": ranks}), "requests": 100}
    )


def test_defaults_come_from_the_scenario():
    job = prepare(load_scenario("steady"), seeds=(3, 4))
    assert job.policies == load_scenario("steady").arms
    assert job.latency == "h100-llama3-8b"
    assert [(c.policy, c.seed) for c in job.cells()][: len(job.policies) + 1][-1] == (job.policies[0], 4)


def test_tensor_parallelism_goes_to_the_roofline():
    job = prepare(split_scenario(4), policies=("none",), latency="roofline:h100:llama3-70b")
    assert job.latency == "roofline:h100:llama3-70b:tp4"


def test_tensor_parallelism_that_a_model_does_not_have_is_refused():
    with pytest.raises(InputError, match="tensor_parallel = 4"):
        prepare(split_scenario(4), policies=("none",))


def test_a_trace_with_prefixes_turns_the_prefix_cache_to_use(tmp_path):
    trace = tmp_path / "mooncake.jsonl"
    rows = [
        {"timestamp": 1000 * i + i % 7, "input_length": 1100, "output_length": 5, "hash_ids": [1, 2, 30 + i]}
        for i in range(20)
    ]
    trace.write_text("".join(json.dumps(row) + "\n" for row in rows))
    job = prepare(load_scenario("steady"), policies=("none",), trace=trace)
    assert job.prefix_hashes == 3
    assert job.requests == 20
    assert next(job.cells()).prefix_hashes == 3


def test_policies_can_be_given_a_wrong_latency_model():
    """A table tuned by it differs from one tuned by the truth."""
    scenario = load_scenario("steady").model_copy(update={"requests": 100})
    truth, wrong = (
        build_world(
            next(prepare(scenario, policies=("schedule",), policy_latency=b).cells()), _Nowhere()
        ).engine.state.k_by_batch.tolist()
        for b in (None, "roofline:b200:llama3-70b:tp8")
    )
    assert truth != wrong


def test_a_trainer_shared_by_servers_is_charged_in_part():
    scenario = load_scenario("steady")
    shared = scenario.model_copy(update={"trainer": scenario.trainer.model_copy(update={"servers": 4})})
    arms = _info(prepare(shared.model_copy(update={"requests": 50}), policies=("static:3", "bandit")))["arms"]
    assert arms["static:3"]["trainer_accelerators"] == 0.0
    assert arms["bandit"]["trainer_accelerators"] == 0.25


def test_tables_without_draft_passes_take_an_analytic_head(tmp_path):
    tables = str(write_folder(tmp_path / "tables"))
    with pytest.raises(InputError, match="--draft roofline"):
        prepare(load_scenario("steady"), policies=("static:3",), latency=tables, requests=50)
    job = prepare(
        load_scenario("steady"), policies=("static:3",), latency=tables, requests=50, draft="roofline"
    )
    assert next(job.cells()).draft == "roofline"
