"""The command: plan listing, bad input, and the supervision of workers that fail."""

from __future__ import annotations

import json
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import pytest
import torch

from kernels import profile
from kernels.profiling.rows import ERROR, OK, Row, Store, read

ROOT = Path(__file__).parents[3]


def test_list_prints_the_plan(capsys: pytest.CaptureFixture[str]) -> None:
    assert profile.main(["--list", "--model", "llama3-8b", "--op", "verify_step"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "full-check" in lines[1]
    assert lines[-1].startswith(f"{len(lines) - 2} items, about ")
    assert all("verify_step" in line for line in lines[1:-1])


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--list", "--op", "gem"], "did you mean 'gemm'"),
        (["--list", "--model", "llama"], "unknown model 'llama'"),
    ],
)
def test_bad_names(arguments: list[str], reason: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert profile.main(arguments) == 2
    assert reason in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [[], ["--out", "x", "--budget", "0"]])
def test_bad_arguments(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        profile.main(arguments)
    assert stop.value.code == 2


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a CUDA device")
def test_without_a_device_nothing_is_written(tmp_path: Path) -> None:
    out = tmp_path / "rows.jsonl.gz"
    assert profile.main(["--out", str(out), "--op", "gemm", "--worker"]) == 2
    assert not list(tmp_path.iterdir())


WORKER = """
import json, sys
from pathlib import Path
from kernels.profiling.rows import OK, Row, Store
out = Path(sys.argv[1])
store = Store(out, resume="--resume" in sys.argv)
item = {"op": "gemm", "impl": "triton", "model": "m", "shape": {"m": len(store.rows)}}
print("at", len(store.rows), flush=True)
if len(store.rows) < 2:
    (out.parent / (out.name + ".at")).write_text(json.dumps(item))
    %s
store.add(Row(**item, dtype="bf16", status=OK))
store.flush()
"""


def supervised(tmp_path: Path, failure: str, monkeypatch: pytest.MonkeyPatch) -> tuple[int, list[Row]]:
    monkeypatch.setattr(profile, "STALL_S", 20.0 if "_exit" in failure else 3.0)
    out = tmp_path / "rows.jsonl.gz"
    args = Namespace(budget=60.0, resume=False, jobs=0, out=out)
    command = [sys.executable, "-c", WORKER % failure, str(out)]
    return profile.supervise(args, command), read(out)


def test_a_crash_costs_its_row_and_a_restart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code, rows = supervised(tmp_path, "import os; os._exit(139)", monkeypatch)
    assert [row.status for row in rows] == [ERROR, ERROR, OK]
    assert "ended with code 139" in rows[0].reason
    assert code == 1


def test_a_hang_is_killed_and_booked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code, rows = supervised(tmp_path, "import time; time.sleep(60)", monkeypatch)
    assert [row.status for row in rows] == [ERROR, ERROR, OK]
    assert code == 1


def test_good_rows_exit_zero_and_missing_rows_two(tmp_path: Path) -> None:
    store = Store(tmp_path / "r.gz")
    store.add(Row("gemm", "triton", "m", {"m": 1}, "bf16", OK, 1e-3, 1.0, 1.0, 1.0, 9))
    store.add(Row("gemm", "torch-matmul", "m", {"m": 1}, "bf16", ERROR, reason="a peer's own failure"))
    store.flush()
    assert profile._verdict(store.path) == 0
    assert profile._verdict(tmp_path / "none.gz") == 2


def test_line_shows_what_matters() -> None:
    good = Row("gemm", "triton", "m", {"m": 1}, "bf16", OK, 2e-3, 12.5, 12.0, 13.0, 9, None, 10.0, 1.25)
    assert "12.50 us x 1.25 of floor" in profile.line(good)
    assert profile.line(Row("gemm", "triton", "m", {"m": 1}, "bf16", ERROR, reason="boom")).endswith(
        "1: boom"
    )


def test_the_profiler_needs_torch_and_triton_alone() -> None:
    """The GPU machine has little else, and `harness` may need more."""
    code = (
        "import sys, kernels.profile, kernels.profiling.gpu, kernels.profiling.precompile, kernels.linear_kl\n"
        "print([m for m in ('pandas', 'pyarrow', 'numba', 'scipy', 'simpy', 'harness') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"


def test_worker_notes_are_plain_items() -> None:
    item = profile.items(["llama3-8b"], ["gemm"])[0]
    assert Row(**json.loads(json.dumps(item.described)), dtype="bf16", status=OK).key == item.key
