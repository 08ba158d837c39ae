"""Gates and comparison of fingerprints, on made-up ones; and the committed files themselves."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from kernels import aot
from kernels.fingerprint import WIDEST_MATRIX, Fingerprint, failed_gates, worse

GOOD = Fingerprint(100, 100_000, 0, {"HGMMA": 8, "UTMALDG": 10, "LDG": 4})
NAME = "gemm/gemm_kernel[BK=64]"


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (replace(GOOD, spills=8), "spills"),
        (replace(GOOD, shared=300_000), "exceeds the chip's 232448"),
        (replace(GOOD, counts={"HMMA": 8}), "no HGMMA"),
    ],
)
def test_gates(bad: Fingerprint, reason: str) -> None:
    assert failed_gates(GOOD, "sm_90", True) == []
    assert reason in failed_gates(bad, "sm_90", True)[0]


@pytest.mark.parametrize(
    ("new", "bad"),
    [
        (replace(GOOD, registers=120), True),
        (replace(GOOD, registers=104), False),
        (replace(GOOD, registers=80), False),
        (replace(GOOD, shared=120_000), True),
        (replace(GOOD, spills=1), True),
        (replace(GOOD, counts={**GOOD.counts, "UTMALDG": 0}), True),
        (replace(GOOD, counts={**GOOD.counts, "HGMMA": 16}), False),
        (replace(GOOD, counts={**GOOD.counts, "LDG": 40}), True),
    ],
)
def test_what_counts_as_worse(new: Fingerprint, bad: bool) -> None:
    assert worse(GOOD, GOOD) == []
    changes = worse(GOOD, new)
    assert len(changes) == 1
    assert changes[0][1] is bad


def known(**kernels: Fingerprint) -> dict:
    import triton

    return {"triton": triton.__version__, "kernels": {k: asdict(v) for k, v in kernels.items()}}


def test_check_reports_new_lost_and_missing_variants() -> None:
    found = {NAME: GOOD}
    assert [f.bad for f in aot.check("sm_90", found, known(**found))] == []
    assert "not in the committed file" in aot.check("sm_90", found, known())[0].what
    lost = aot.check("sm_90", found, known(**found, **{"gemm/gone[]": GOOD}))
    assert "no longer compiled" in lost[0].what
    assert aot.check("sm_90", found, known(**found, **{"gemm/gone[]": GOOD}), partial=True) == []
    assert aot.check("sm_90", found, {})[0].bad


def test_another_compiler_version_compares_gates_only() -> None:
    old = {"triton": "0.0", "kernels": {NAME: asdict(replace(GOOD, registers=10))}}
    assert [f.bad for f in aot.check("sm_90", {NAME: GOOD}, old)] == [False]


@pytest.mark.parametrize("target", list(aot.TARGETS))
def test_committed_fingerprints_pass_the_gates(target: str) -> None:
    kernels = aot.read(target)["kernels"]
    for name, values in kernels.items():
        assert failed_gates(Fingerprint(**values), target, aot.is_product(name)) == [], name
    products = [n for n in kernels if aot.is_product(n)]
    assert {n.split("/")[0] for n in products} >= {"gemm", "lm_head", "fusion", "kl_forward"}
    assert all(kernels[n]["counts"][WIDEST_MATRIX[target]] for n in products)


def run_aot(*arguments: str) -> tuple[int, list[dict]]:
    """The command in a process of its own, without the interpreter."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "kernels.aot", "--json", *arguments]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=root, check=False)
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


def test_compiling_agrees_with_the_committed_file() -> None:
    """A part here; all ops and chips below, and in `python -m kernels.aot`."""
    code, findings = run_aot("--target", "sm_90", "--op", "fusion", "--op", "rmsnorm")
    assert code == 0, [f for f in findings if f["bad"]]
    assert "products with HGMMA" in findings[-1]["what"]


@pytest.mark.slow
def test_every_variant_of_the_plan_passes_the_gates_on_hopper() -> None:
    code, findings = run_aot("--target", "sm_90", "--plan")
    assert code == 0, [f for f in findings if f["bad"]]


def test_update_takes_whole_files_only() -> None:
    with pytest.raises(SystemExit):
        aot.main(["--update", "--op", "gemm"])


@pytest.mark.slow
@pytest.mark.parametrize("target", list(aot.TARGETS))
def test_everything_compiles_as_committed(target: str) -> None:
    code, findings = run_aot("--target", target)
    assert code == 0, [f for f in findings if f["bad"]]
