"""A sweep file becomes checked points; what could not run is told before anything does."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.errors import InputError
from harness.sweep.grid import points_of, read_sweep

HEAD = 'scenario = "steady"\npolicies = ["static:3", "bandit"]\nseeds = 2\nrequests = 80\n'


def sweep_file(folder: Path, grid: str, head: str = HEAD) -> Path:
    path = folder / "sweep.toml"
    path.write_text(f"{head}[grid]\n{grid}\n")
    return path


def test_the_grid_is_crossed_in_the_order_of_the_file(tmp_path: Path) -> None:
    points = points_of(read_sweep(sweep_file(tmp_path, '"arrivals.rate" = [5, 13]\nmax_k = [3, 5]')))
    assert [tuple(p.settings.values()) for p in points] == [(5, 3), (5, 5), (13, 3), (13, 5)]
    assert [p.name for p in points] == ["1", "2", "3", "4"]


def test_a_point_differs_from_the_scenario_in_its_settings_only(tmp_path: Path) -> None:
    grid = '"arrivals.rate" = [7]\n"trainer.samples_per_second" = [11.0]\nmax_k = [3, 5]\nrequests = [60]'
    slow, _ = points_of(read_sweep(sweep_file(tmp_path, grid)))
    assert slow.job.scenario.arrivals.rate == 7
    assert slow.job.scenario.trainer.samples_per_second == 11.0
    assert (slow.job.scenario.max_k, slow.job.requests) == (3, 60)
    assert slow.job.policies == ("static:3", "bandit")
    assert list(slow.job.seeds) == [0, 1]


@pytest.mark.parametrize(
    ("grid", "told"),
    [
        ('latencyy = ["a"]', "did you mean 'latency'"),
        ('"arrivals.rat" = [5]', "did you mean 'rate'"),
        ('"arivals.rate" = [5]', "did you mean 'arrivals'"),
        ('"question.x" = [5]', "'question' is not a table"),
        ("requests = [0]", "point requests = 0"),
        ("requests = []", "grid"),
        ('policies = ["none"]', "unknown key of the grid 'policies'"),
        ('trace = ["/nowhere.csv"]', "cannot read trace"),
        ('latency = ["h101"]', "point latency = h101"),
        ('acceptance = ["replay:runs/x"]', "brings a scenario of its own"),
    ],
)
def test_a_mistake_is_told_in_one_sentence(tmp_path: Path, grid: str, told: str) -> None:
    with pytest.raises(InputError) as error:
        points_of(read_sweep(sweep_file(tmp_path, grid)))
    assert told in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["[grid", "seeds = 2", "seedz = 2\n[grid]\nrequests = [5]", "[grid]\n"])
def test_a_file_that_is_no_sweep_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "bad.toml").write_text(text)
    with pytest.raises(InputError, match="sweep"):
        read_sweep(tmp_path / "bad.toml")
