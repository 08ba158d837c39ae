"""The command line as a user meets it: output, exit codes, one sentence for each mistake, nothing half-written."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from harness.cli import main

ROOT = Path(__file__).parents[1]
SMALL = ["--requests", "150", "--seeds", "2", "--workers", "1"]


def call(*args: str) -> int:
    """Exit code of `specdrift args`."""
    with pytest.raises(SystemExit) as stop:
        main(list(args))
    return int(stop.value.code or 0)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("cli") / "run"
    arms = ["--policy", "none", "--policy", "static:3", "--policy", "bandit"]
    assert call("simulate", "--scenario", "steady", *arms, *SMALL, "--out", str(out)) == 0
    return out


def test_simulate_writes_a_complete_run(run):
    assert sorted(p.name for p in run.iterdir()) == [
        "events.parquet",
        "report.html",
        "requests.parquet",
        "run.json",
        "steps.parquet",
        "summary.json",
    ]
    summary = json.loads((run / "summary.json").read_text())
    assert set(summary["arms"]) == {"none", "static:3", "bandit"}
    mean = summary["arms"]["bandit"]["mean"]
    for field in (
        "goodput",
        "tokens_per_second",
        "ttft",
        "tpot",
        "e2e",
        "slo_attainment",
        "acceptance_length",
        "k_histogram",
        "swaps",
        "stall_seconds",
        "trainer_cost",
    ):
        assert field in mean
    pair = next(p for p in summary["pairs"] if (p["arm"], p["over"]) == ("static:3", "none"))
    assert pair["ratios"]["speedup"]["low"] > 1.0
    info = json.loads((run / "run.json").read_text())
    assert "Published" in info["latency"]["note"]


def test_json_is_one_object_and_nothing_else(tmp_path, capsys):
    assert (
        call(
            "simulate",
            "--scenario",
            "steady",
            "--policy",
            "none",
            *SMALL,
            "--out",
            str(tmp_path / "r"),
            "--json",
        )
        == 0
    )
    answer = json.loads(capsys.readouterr().out)
    assert answer["scenario"] == "steady"


def test_the_table_names_every_arm_and_the_report(run, capsys):
    from rich.console import Console

    from harness.show.summary import summary_table

    summary = json.loads((run / "summary.json").read_text())
    Console(width=80).print(summary_table(summary, run))
    printed = capsys.readouterr().out
    for word in ("none", "static:3", "bandit", "report.html"):
        assert word in printed
    assert "…" not in printed


def test_worker_processes_do_not_change_the_bytes(run, tmp_path):
    out = tmp_path / "two"
    arms = ["--policy", "none", "--policy", "static:3", "--policy", "bandit"]
    assert (
        call(
            "simulate",
            "--scenario",
            "steady",
            *arms,
            "--requests",
            "150",
            "--seeds",
            "2",
            "--workers",
            "2",
            "--out",
            str(out),
        )
        == 0
    )
    for name in ("steps.parquet", "requests.parquet", "events.parquet"):
        assert (out / name).read_bytes() == (run / name).read_bytes()


def test_a_trace_supplies_arrivals_and_lengths(tmp_path):
    trace = tmp_path / "trace.csv"
    lines = [f"2023-11-16 18:00:{i // 10:02d}.{i % 10}000000,{100 + i},{10 + i % 7}" for i in range(60)]
    trace.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n" + "\n".join(lines) + "\n")
    out = tmp_path / "run"
    assert (
        call(
            "simulate",
            "--trace",
            str(trace),
            "--policy",
            "none",
            "--policy",
            "static:3",
            "--seeds",
            "2",
            "--workers",
            "1",
            "--out",
            str(out),
        )
        == 0
    )
    summary = json.loads((out / "summary.json").read_text())
    assert summary["arms"]["none"]["requests"]["finished"] == 120
    info = json.loads((out / "run.json").read_text())
    assert info["configuration"]["trace"] == "trace.csv"
    assert info["configuration"]["requests"] == 60


def test_report_gate_and_baseline(run, tmp_path, capsys):
    html, baseline = tmp_path / "r.html", tmp_path / "baseline.json"
    assert call("report", str(run), "-o", str(html)) == 0
    assert "steady" in html.read_text()
    assert call("gate", str(run), "--baseline", str(baseline), "--update") == 0
    assert call("gate", str(run), "--baseline", str(baseline)) == 0
    edited = json.loads(baseline.read_text())
    for pair in edited["gated"]:
        pair["by_seed"] = {seed: ratio * 1.5 for seed, ratio in pair["by_seed"].items()}
        pair["estimate"] *= 1.5
    baseline.write_text(json.dumps(edited))
    capsys.readouterr()
    assert call("gate", str(run), "--baseline", str(baseline), "--json") == 1
    assert json.loads(capsys.readouterr().out)["ok"] is False


def test_a_missing_run_or_baseline_fails_the_gate(run, tmp_path):
    assert call("gate", str(tmp_path / "nothing"), "--baseline", str(tmp_path / "b.json")) == 1
    assert call("gate", str(run), "--baseline", str(tmp_path / "missing.json")) == 1


def test_doctor_says_what_would_run_here(capsys, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert call("doctor", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert any("Hugging Face cache" in missing for missing in found["live"]["llama3-8b"])
    parts = found["parts"]
    assert parts["simulate"]["missing"] == []
    assert parts["simulate"]["packages"]["simpy"]
    assert call("doctor") == 0
    page = capsys.readouterr().out
    assert "llama3-8b" in page
    if parts["live"]["missing"]:
        assert "specdrift[live]" in page


def trace_with(tmp_path: Path, row: str, header: str = "TIMESTAMP,ContextTokens,GeneratedTokens") -> str:
    path = tmp_path / "bad.csv"
    path.write_text(f"{header}\n2023-11-16 18:00:00.0000000,10,10\n{row}\n")
    return str(path)


MISTAKES = {
    "unknown scenario": (["--scenario", "domain-shfit"], "did you mean 'domain-shift'"),
    "missing scenario file": (["--scenario", "nowhere/x.toml"], "nowhere/x.toml"),
    "unknown policy": (["--policy", "bandt"], "did you mean 'bandit'"),
    "K that is no number": (["--policy", "static:x"], "'x'"),
    "K larger than the table allows": (["--policy", "static:9"], "at most 7"),
    "the same arm twice": (["--policy", "none", "--policy", "none"], "more than once"),
    "unknown latency model": (["--latency", "h100-llama"], "h100-llama3-8b"),
    "unknown acceptance": (["--acceptance", "magic"], "parametric"),
    "missing trace": (["--trace", "nowhere.csv"], "nowhere.csv"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_sentence_and_exit_2(mistake, tmp_path, capsys):
    args, said = MISTAKES[mistake]
    out = tmp_path / "run"
    assert call("simulate", *args, "--out", str(out)) == 2
    message = capsys.readouterr().err
    assert said in message
    assert message.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("row", "header"),
    [
        ("2023-11-16 17:00:00.0000000,10,10", None),
        ("2023-11-16 18:00:01.0000000,nan,10", None),
        ("2023-11-16 18:00:01.0000000,-5,10", None),
        ("2023-11-16 18:00:01.0000000,10", None),
        ("2023-11-16 18:00:01.0000000,10,10", "TIMESTAMP,Context,GeneratedTokens"),
    ],
    ids=["time runs back", "NaN length", "negative length", "short row", "wrong column"],
)
def test_a_bad_trace_is_named_by_file_and_line(row, header, tmp_path, capsys):
    trace = trace_with(tmp_path, row, header) if header else trace_with(tmp_path, row)
    if "17:00" in row:  # a little disorder is put right; make it too much
        good = "2023-11-16 18:00:02.0000000,10,10\n" * 5000
        Path(trace).write_text(f"TIMESTAMP,ContextTokens,GeneratedTokens\n{good}{row}\n")
    assert call("simulate", "--trace", trace, "--policy", "none", "--out", str(tmp_path / "run")) == 2
    assert "bad.csv" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_an_occupied_directory_is_refused_before_any_work(run, capsys):
    assert call("simulate", "--scenario", "steady", "--policy", "none", *SMALL, "--out", str(run)) == 2
    assert "not empty" in capsys.readouterr().err


def test_a_crash_leaves_nothing_that_looks_complete(tmp_path, monkeypatch):
    import harness.sim.simulate as simulate

    monkeypatch.setattr(simulate, "_run_one", lambda *a: (_ for _ in ()).throw(RuntimeError("boom")))
    with pytest.raises(RuntimeError, match="boom"):
        main(["simulate", "--scenario", "steady", "--policy", "none", *SMALL, "--out", str(tmp_path / "run")])
    assert list(tmp_path.iterdir()) == []


def test_the_module_is_the_command(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    asked = [sys.executable, "-m", "harness", "simulate", "--scenario", "nope"]
    done = subprocess.run(asked, capture_output=True, text=True, env=environment, cwd=tmp_path, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("specdrift: unknown scenario 'nope'")
    assert "Traceback" not in done.stderr
