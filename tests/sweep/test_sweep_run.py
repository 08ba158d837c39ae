"""A sweep runs what is missing, and says of each point what its own run says."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from harness.cli import main
from harness.errors import InputError
from harness.sim.job import prepare
from harness.sim.simulate import simulate
from harness.sweep import points as executing
from harness.sweep.grid import points_of, read_sweep
from harness.sweep.run import run_sweep
from workloads.scenario import load_scenario

TEXT = """scenario = "steady"
policies = ["static:3", "static:5", "bandit"]
seeds = 2
requests = 80
[grid]
max_k = [5, 7]
"""


@pytest.fixture(scope="module")
def sweep(tmp_path_factory) -> tuple[Path, Path]:
    """(file, directory) of a sweep of two points."""
    folder = tmp_path_factory.mktemp("sweep")
    (folder / "sweep.toml").write_text(TEXT)
    with pytest.raises(SystemExit) as stop:
        main(["sweep", str(folder / "sweep.toml"), "--out", str(folder / "out"), "--workers", "1", "--json"])
    assert not stop.value.code
    return folder / "sweep.toml", folder / "out"


def test_a_point_is_what_simulate_makes_of_its_settings(sweep, tmp_path) -> None:
    scenario = load_scenario("steady").model_copy(update={"max_k": 5})
    arms = ("static:3", "static:5", "bandit")
    job = prepare(scenario, policies=arms, seeds=(0, 1), requests=80, keep_steps=False, workers=1)
    alone = simulate(job, tmp_path / "alone")
    found = json.loads((sweep[1] / "sweep.json").read_text())["points"][0]
    assert found["settings"] == {"max_k": 5}
    over = alone["verdict"]["best_static"]["arm"]
    for row in found["arms"]:
        assert row["over"] == over
        assert row["tokens_per_second"] == alone["arms"][row["arm"]]["mean"]["tokens_per_second"]
        if row["arm"] != over:
            pair = next(p for p in alone["pairs"] if (p["arm"], p["over"]) == (row["arm"], over))
            assert row["speedup"] == pair["ratios"]["speedup"]["estimate"]
            assert row["low"] == pair["ratios"]["speedup"]["low"]


def test_the_table_has_a_row_for_each_point_and_arm(sweep) -> None:
    with (sweep[1] / "sweep.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(r["run"], r["max_k"], r["arm"]) for r in rows[:4]] == [
        ("1", "5", "static:3"),
        ("1", "5", "static:5"),
        ("1", "5", "bandit"),
        ("2", "7", "static:3"),
    ]


def test_the_page_shows_every_speedup_and_leads_to_the_reports(sweep) -> None:
    page = (sweep[1] / "sweep.html").read_text()
    for point in json.loads((sweep[1] / "sweep.json").read_text())["points"]:
        assert f'href="{point["run"]}/report.html"' in page
        assert (sweep[1] / point["run"] / "report.html").exists()
        for row in point["arms"]:
            assert f"<td>{row['speedup']:.3f}</td>" in page
    assert "<svg" in page
    assert "http" not in page.replace("http://www.w3.org", "")


def test_what_is_there_is_not_run_again(sweep, monkeypatch) -> None:
    """A point that was lost is run again, and nothing else."""
    file, out = sweep
    chosen = read_sweep(file)
    before = json.loads((out / "sweep.json").read_text())
    (out / "2").rename(out.parent / "gone")
    asked: list[str] = []

    def here(points, folder, workers):
        for point in points:
            asked.append(point.name)
            (out.parent / "gone").rename(folder / point.name)
            yield point

    monkeypatch.setattr("harness.sweep.run.run_points", here)
    after = run_sweep(chosen, points_of(chosen), out, workers=1)
    assert asked == ["2"]
    assert after["points"] == before["points"]


def test_another_sweep_does_not_go_into_the_same_directory(sweep) -> None:
    file, out = sweep
    other = file.with_name("other.toml")
    other.write_text(TEXT.replace("80", "81"))
    with pytest.raises(InputError, match="holds another sweep"):
        run_sweep(read_sweep(other), [], out, workers=1)
    with pytest.raises(InputError, match="holds no sweep"):
        run_sweep(read_sweep(other), [], out / "1", workers=1)


def test_a_run_that_comes_back_packed_is_the_run(sweep, tmp_path) -> None:
    """As from a machine of a Ray cluster."""
    job = points_of(read_sweep(sweep[0]))[0].job
    executing._unpack(executing._run_packed(job), tmp_path / "1")
    for table in ("requests.parquet", "events.parquet"):
        assert (tmp_path / "1" / table).read_bytes() == (sweep[1] / "1" / table).read_bytes()


def test_a_cluster_that_is_not_there_is_told_at_once() -> None:
    with pytest.raises(InputError, match=r"cannot reach a Ray cluster at '127\.0\.0\.1:1'"):
        executing._knock("127.0.0.1:1")
