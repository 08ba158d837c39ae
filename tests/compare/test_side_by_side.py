"""Live beside simulated: errors against numbers known beforehand, and nothing missing passes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.compare import side_by_side, summarise
from harness.errors import InputError
from harness.show.replayed import side_by_side_table
from tests.factories import write_run

ARMS = {"none": 1.0, "static:3": 1.2, "bandit": 1.5}
QUIET = {"noise": 0.0, "seeds": (0, 1), "requests": 200}


def made(path: Path, arms: dict[str, float] | None = None, **options) -> Path:
    write_run(path, arms or ARMS, **(QUIET | options))
    summarise(path)
    return path


@pytest.fixture
def live(tmp_path: Path) -> Path:
    return made(tmp_path / "live", mode="live")


def test_a_perfect_simulation_is_without_error(live, tmp_path):
    found = side_by_side(live, made(tmp_path / "sim"))
    assert found["ok"]
    assert found["reference"] == "none"
    for arm, entry in found["arms"].items():
        assert entry["within"]
        assert entry["k_distance"] == 0.0
        assert {m["error"] for m in entry["metrics"].values()} <= {0.0, None}
        assert ("speedup" in entry["metrics"]) == (arm != "none")
    length = found["arms"]["none"]["metrics"]["acceptance_length"]
    assert length == {"live": None, "simulated": None, "error": None, "bar": None, "within": None}
    assert json.loads((live / "side-by-side.json").read_text()) == found
    assert found["arms"]["bandit"]["replay"] is None, "this simulation was no replay"


def test_errors_are_those_put_in(live, tmp_path):
    found = side_by_side(live, made(tmp_path / "sim", {"none": 1.0, "static:3": 1.2 * 1.04, "bandit": 1.65}))
    good, bad = found["arms"]["static:3"], found["arms"]["bandit"]
    assert good["metrics"]["speedup"]["error"] == pytest.approx(0.04, abs=1e-6)
    assert good["metrics"]["tpot"]["error"] == pytest.approx(1 / 1.04 - 1, abs=1e-6)
    assert good["within"]
    assert bad["metrics"]["speedup"]["live"] == pytest.approx(1.5)
    assert bad["metrics"]["speedup"]["simulated"] == pytest.approx(1.65)
    assert bad["metrics"]["speedup"]["within"] is False
    assert bad["metrics"]["tokens_per_second"]["within"], "arrivals set the rate here"
    assert not bad["within"]
    assert not found["ok"]


def test_another_k_shows_in_the_histogram(live, tmp_path):
    found = side_by_side(live, made(tmp_path / "sim", settings={"bandit": {"kind": "adaptive"}}))
    assert found["arms"]["bandit"]["k_distance"] == 0.0
    summary = json.loads((tmp_path / "sim" / "summary.json").read_text())
    summary["arms"]["bandit"]["mean"]["k_histogram"] = {"3": 0.75, "5": 0.25}
    (tmp_path / "sim" / "summary.json").write_text(json.dumps(summary))
    assert side_by_side(live, tmp_path / "sim")["arms"]["bandit"]["k_distance"] == pytest.approx(0.25)


def test_a_missing_arm_or_number_never_passes(live, tmp_path):
    found = side_by_side(live, made(tmp_path / "sim", {"none": 1.0, "static:3": 1.2}))
    assert not found["ok"]
    bandit = found["arms"]["bandit"]
    assert {m["within"] for m in bandit["metrics"].values()} == {False, None}
    assert all(m["simulated"] is None for m in bandit["metrics"].values())
    found = side_by_side(live, made(tmp_path / "other", {"static:3": 1.2, "bandit": 1.5}))
    assert found["arms"]["bandit"]["metrics"]["speedup"]["within"] is False, "no reference, no speedup"


def test_without_a_static_arm_there_is_no_speedup_to_judge(tmp_path):
    arms = {"bandit": 1.5, "goodput": 1.4}
    found = side_by_side(made(tmp_path / "live", arms), made(tmp_path / "sim", arms))
    assert found["ok"]
    assert found["reference"] is None
    assert all("speedup" not in entry["metrics"] for entry in found["arms"].values())


def test_what_cannot_be_compared_is_refused(live, tmp_path):
    with pytest.raises(InputError, match="there is no run"):
        side_by_side(live, tmp_path / "nowhere")
    with pytest.raises(InputError, match="simulate the same ones"):
        side_by_side(live, made(tmp_path / "sim", seeds=(0,)))
    bare = write_run(tmp_path / "bare", ARMS, **QUIET)
    with pytest.raises(InputError, match=r"has no summary\.json"):
        side_by_side(live, bare)
    assert not (live / "side-by-side.json").exists()


def test_the_table_marks_what_is_not_within_its_bar(live, tmp_path, capsys):
    from rich.console import Console

    sim = made(tmp_path / "sim", {"none": 1.0, "static:3": 1.2, "bandit": 1.65})
    Console(width=80).print(side_by_side_table(side_by_side(live, sim)))
    printed = capsys.readouterr().out
    assert "+10.0% *" in printed
    assert "NOT within the bars" in printed
    assert "…" not in printed
