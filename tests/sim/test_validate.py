"""`validate`: exact on a run that the simulator made itself, within the bars on real ones, clear on bad input."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from harness.contract import Request
from harness.errors import InputError, MissingPart
from harness.latency import load
from harness.sim.engine import Engine, EngineConfig, Labels
from harness.sim.measured import read_measured
from harness.sim.published import aurora_check, step_cost_check
from harness.sim.ranks import serve_ranks
from harness.sim.validate import BARS, validate

SHARED = Path(__file__).parents[2].parent / "shared" / "data"
RUNS = {
    "RTXPRO6000_Llama-3.1-8B": "RTXPRO6000",
    "RTX4090_Llama-3.1-8B": "RTX4090",
    "RTXPRO6000_Qwen3-30B-A3B-Instruct-2507": "RTXPRO6000_Qwen3-30B-A3B",
}


def write_run(folder: Path, rows: list[dict], **engine) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "requests.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "meta.json").write_text(
        json.dumps({"engine_kwargs": {"max_num_seqs": 16, **engine}, "kv_cache": {"num_kv_tokens": 20_000}})
    )
    return folder


def row(
    arrival: float, queued: float, first: float, last: float, prompt: int = 100, output: int = 10
) -> dict:
    return {
        "request_id": "r",
        "input_toks": prompt,
        "output_toks": output,
        "arrival_time": 1e9 + arrival,
        "queued_ts": queued,
        "scheduled_ts": queued,
        "first_token_ts": first,
        "last_token_ts": last,
    }


@pytest.fixture
def own_run(tmp_path, published) -> Path:
    """A run "measured" on the simulator itself, with an engine that it shares nothing else with."""
    rng = np.random.default_rng(3)
    arrivals = np.cumsum(rng.exponential(0.15, 60))
    requests = [
        Request(i, float(t - arrivals[0]), int(p), int(o))
        for i, (t, p, o) in enumerate(
            zip(arrivals, rng.integers(50, 900, 60), rng.integers(20, 200, 60), strict=True)
        )
    ]
    config = EngineConfig(max_num_seqs=16, kv_tokens=20_000, max_k=0, drafter_loaded=False)
    done, steps = serve_ranks([Engine(config, Labels(("unknown",), ("unknown",)), published, 0)], requests)
    done = np.sort(done, order="request_id")
    ends = steps["start"] + steps["seconds"]
    rows = []
    for q, d in zip(requests, done, strict=True):
        inside = (steps["start"] < q.arrival) & (q.arrival < ends)
        queued = float(ends[inside][0]) if inside.any() else q.arrival
        rows.append(
            row(
                q.arrival,
                queued + 77.0,
                float(d["first_token"]) + 77.0,
                float(d["finish"]) + 77.0,
                q.prompt_tokens,
                q.output_tokens,
            )
        )
    return write_run(tmp_path / "own", rows)


def test_a_run_of_the_simulator_itself_is_reproduced(own_run):
    result = validate(measured=own_run, latency="h100-llama3-8b", published=False)
    assert result["ok"]
    for name, found in result["errors"].items():
        assert abs(found["error"]) < 1e-6, name


def test_the_check_can_fail(own_run):
    faster = validate(measured=own_run, latency="roofline:h200:llama3-8b", published=False)
    assert not faster["ok"]
    assert faster["errors"]["tpot.mean"]["error"] < -BARS["tpot"]


@pytest.mark.parametrize("name", RUNS)
def test_real_runs_are_within_the_bars(name):
    measured, tables = (
        SHARED / "serving_runs" / name,
        SHARED / "kernel_profiles" / "llmservingsim" / RUNS[name],
    )
    if not tables.exists():
        pytest.skip("the measured runs are not here")
    result = validate(measured=measured, latency=str(tables), published=False)
    for metric, bar in BARS.items():
        assert abs(result["errors"][f"{metric}.mean"]["error"]) <= bar, metric
    assert result["ok"]


def test_ranks_share_the_load_and_the_step():
    config = EngineConfig(max_num_seqs=4, kv_tokens=20_000, max_k=0, drafter_loaded=False)
    labels, model = Labels(("unknown",), ("unknown",)), load("h100-llama3-8b")
    ranks = [Engine(config, labels, model, 0) for _ in range(2)]
    done, _ = serve_ranks(ranks, [Request(i, 0.0, 100, 20) for i in range(8)])
    assert len(done) == 8
    assert ranks[0].clock == pytest.approx(ranks[1].clock)
    assert len({round(t, 9) for t in done["finish"].tolist()}) == 1


def test_published_step_costs_hold():
    assert step_cost_check()["ok"]


@pytest.mark.slow
def test_auroras_table_is_reproduced_on_the_full_simulator():
    check = aurora_check()
    assert check["ok"], check["rows"]


def test_what_is_missing_is_named(tmp_path, own_run):
    with pytest.raises(InputError, match="--measured"):
        validate(measured=None, latency=None, published=False)
    with pytest.raises(InputError, match="--latency"):
        validate(measured=own_run, latency=None, published=False)
    with pytest.raises(MissingPart, match=r"requests\.jsonl"):
        validate(measured=tmp_path / "nowhere", latency="h100-llama3-8b", published=False)


def test_a_run_on_several_cards_is_refused(tmp_path):
    rows = [row(0.0, 1.0, 2.0, 3.0)]
    with pytest.raises(InputError, match="tensor_parallel_size"):
        validate(
            measured=write_run(tmp_path / "tp", rows, tensor_parallel_size=2),
            latency="h100-llama3-8b",
            published=False,
        )


def test_damaged_settings_are_refused(tmp_path):
    folder = write_run(tmp_path / "bad", [row(0.0, 1.0, 2.0, 3.0)])
    (folder / "meta.json").write_text("{")
    with pytest.raises(InputError, match=r"meta\.json"):
        read_measured(folder)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"first_token_ts": None}, "first_token_ts"),
        ({"output_toks": 0}, "at least 1"),
        ({"queued_ts": "x"}, "line 1"),
    ],
)
def test_a_damaged_run_is_refused(tmp_path, change, said):
    bad = row(0.0, 1.0, 2.0, 3.0) | change
    if bad["first_token_ts"] is None:
        del bad["first_token_ts"]
    with pytest.raises(InputError, match=said):
        read_measured(write_run(tmp_path / "bad", [bad]))
