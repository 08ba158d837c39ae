"""`specdrift calibrate` as a user meets it: profile, tables, cross-check, output file, mistakes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from harness import calibrate as calibration
from harness.cli import main
from harness.latency import decode_shape, load
from tests.latency.folders import write_folder
from tests.latency.synthetic import step_us, write_profile
from tests.latency.test_importers import write_vidur

ROOT = Path(__file__).parents[1]


def call(*args: object) -> int:
    """Exit code of `specdrift calibrate args`."""
    with pytest.raises(SystemExit) as stop:
        main(["calibrate", *map(str, args)])
    return int(stop.value.code or 0)


@pytest.fixture(scope="module")
def profile(tmp_path_factory) -> Path:
    return write_profile(tmp_path_factory.mktemp("calibrate") / "h200.jsonl.gz")


def test_a_profile_gives_errors_and_the_price_of_speculating(profile, capsys):
    assert call("--profile", profile, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    (source,) = found["sources"]
    assert found["ok"] is True
    assert source["device"] == "NVIDIA H200"
    assert source["left_out"] == {
        "impl cublas": 1,
        "status too_fast": 1,
        "op kl_forward (no part of a serving step)": 1,
        "tree attention (a chain drafter is modelled)": 1,
    }
    (fitted,) = source["models"]
    assert fitted["model"] == "llama3-8b"
    assert {e["op"] for e in fitted["whole"]} == {"verify_step", "layer", "draft_pass"}
    true = step_us(64, 5, 4096) / step_us(64, 1, 4096)
    assert fitted["price"]["measured"] == pytest.approx(true, rel=0.05)
    assert fitted["price"]["predicted"] == pytest.approx(true, rel=0.05)
    assert fitted["price"]["with_drafting"] > fitted["price"]["predicted"]


def test_the_table_says_the_same(profile, capsys):
    assert call("--profile", profile) == 0
    out = capsys.readouterr().out
    for word in ("gemm", "verify_step", "within the bar", "K = 4 over K = 0", "measured"):
        assert word in out


def test_out_writes_what_latency_reads(profile, tmp_path, capsys):
    out = tmp_path / "fitted.json.gz"
    assert call("--profile", profile, "--out", out) == 0
    shape = decode_shape(64, 4, 4096)
    assert load(str(out)).predict(shape) == load(str(profile)).predict(shape)


def test_a_fitted_model_drives_a_simulation(profile, tmp_path, capsys):
    out, run = tmp_path / "fitted.json", tmp_path / "run"
    assert call("--profile", profile, "--out", out) == 0
    arms = ["--policy", "none", "--policy", "static:3", "--requests", "60", "--seeds", "1", "--workers", "1"]
    with pytest.raises(SystemExit) as stop:
        main(["simulate", "--scenario", "steady", "--latency", str(out), *arms, "--out", str(run)])
    assert (stop.value.code or 0) == 0
    assert "held-out error" in (run / "run.json").read_text()


def test_tables_and_a_cross_check(tmp_path, capsys):
    vidur, folder = write_vidur(tmp_path / "vidur"), write_folder(tmp_path / "RTX4090")
    code = call("--tables", vidur, "--tables", folder, "--cross", vidur, "roofline:a100", "--json")
    found = json.loads(capsys.readouterr().out)
    assert code == (0 if found["ok"] else 1)
    assert [s["name"] for s in found["sources"]] == ["vidur a100", "RTX4090"]
    assert {e["op"] for e in found["sources"][1]["kernels"]} >= {"dense", "attention"}
    assert found["cross"][0]["second"] == "roofline:a100"
    call("--tables", vidur, "--cross", vidur, "roofline:a100")
    assert "time of vidur a100 over time of roofline:a100" in capsys.readouterr().out


def test_a_bad_fit_fails(tmp_path, capsys):
    """Half noise, half signal: exit code 1, and the table says so."""
    path = write_profile(tmp_path / "noisy.jsonl.gz", noise=0.3)
    assert call("--profile", path) == 1
    assert "NOT within the bar" in capsys.readouterr().out


def test_the_drafter_of_tables_is_the_analytic_one(tmp_path, capsys):
    vidur, out = write_vidur(tmp_path / "vidur"), tmp_path / "a100.json"
    call("--tables", vidur, "--draft", "roofline", "--out", out)
    assert load(str(out)).has_drafter


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        ([], "calibrate needs one of"),
        (["--profile", "none.jsonl.gz"], "neither a profile file nor a folder"),
        (["--tables", "no/such"], "neither a profile file nor a folder"),
        (["--profile", "{profile}", "--tables", "x", "--out", "a.json"], "one fitted model, but 2 sources"),
        (["--profile", "{profile}", "--out", "a.txt"], "must end with .json"),
        (["--profile", "{profile}", "--model", "lama3-8b"], "did you mean 'llama3-8b'"),
        (["--profile", "{profile}", "--model", "qwen3-8b", "--out", "a.json"], "gives no model of qwen3-8b"),
        (["--profile", "{profile}", "--draft", "magic"], "draft is 'magic'"),
        (["--cross", "{profile}", "roofline:h2000"], "did you mean 'h200'"),
    ],
)
def test_mistakes_are_one_sentence(profile, capsys, args, sentence):
    assert call(*(a.format(profile=profile) for a in args)) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert sentence in err


def test_kernels_without_cuda_is_a_missing_part(capsys):
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("a GPU is here")
    assert call("--kernels") == 2
    assert "CUDA" in capsys.readouterr().err


def test_kernels_measures_then_fits(tmp_path, monkeypatch, capsys):
    """With a device the profiler is called for the file, and what it wrote is fitted."""
    path = tmp_path / "new.jsonl.gz"
    monkeypatch.setattr(calibration, "measure", lambda file, budget: write_profile(file))
    assert call("--kernels", "--profile", path, "--json") == 0
    assert json.loads(capsys.readouterr().out)["sources"][0]["name"] == "new"


def test_help_and_no_torch_loaded():
    source = (
        "import sys; from harness.latency import load; load('h100-llama3-8b'); print('torch' in sys.modules)"
    )
    out = subprocess.run([sys.executable, "-c", source], cwd=ROOT, capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "False"
    shown = subprocess.run(
        [sys.executable, "-m", "harness", "calibrate", "--help"], cwd=ROOT, capture_output=True, text=True
    )
    assert shown.returncode == 0
    assert "--tables" in shown.stdout
