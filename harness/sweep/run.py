"""One sweep, from its points to one table and one page. What was run is not run again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from harness.compare.rows import arm_rows
from harness.errors import InputError
from harness.provenance import provenance
from harness.runlog import read_json, read_run, write_json
from harness.sweep.grid import Point, Sweep
from harness.sweep.points import run_points, run_points_on_ray

VERSION = 1


def run_sweep(
    sweep: Sweep,
    points: Sequence[Point],
    out: Path,
    workers: int,
    ray: str | None = None,
    on_point: Callable[[str, int, int], None] = lambda stage, done, total: None,
) -> dict[str, Any]:
    """Run what is missing of `points` into `out` (a run directory each), and write sweep.json, sweep.csv and
    sweep.html there; returns what sweep.json holds.

    InputError where `out` holds another sweep.
    """
    _claim(sweep, out)
    missing = [point for point in points if not (out / point.name / "run.json").exists()]
    there = len(points) - len(missing)
    on_point("points", there, len(points))
    ended = run_points_on_ray(missing, out, ray) if ray else run_points(missing, out, workers)
    for done, _ in enumerate(ended, start=there + 1):
        on_point("points", done, len(points))
    result = _result(sweep, points, out)
    write_json(out / "sweep.json", result)
    _table(result).to_csv(out / "sweep.csv", index=False)
    from reports import write_sweep_report

    write_sweep_report(out)
    return result


def _claim(sweep: Sweep, out: Path) -> None:
    """Note in `out` which sweep it holds, or see that it is this one."""
    told, note = sweep.model_dump(mode="json"), out / "options.json"
    if note.exists():
        if read_json(note) != told:
            raise InputError(f"{out} holds another sweep; give --out another directory")
        return
    if out.exists() and any(out.iterdir()):
        raise InputError(f"{out} is there already and holds no sweep; give --out another directory")
    out.mkdir(parents=True, exist_ok=True)
    write_json(note, told)


def _result(sweep: Sweep, points: Sequence[Point], out: Path) -> dict[str, Any]:
    found = []
    for point in points:
        run = read_run(out / point.name)
        assert run.summary is not None, "a run that ended has its summary"
        found.append(
            {
                "run": point.name,
                "settings": dict(point.settings),
                "latency": run.info["latency"],
                "acceptance": run.info["acceptance"],
                "arms": arm_rows(run.summary),
            }
        )
    return {
        "sweep_version": VERSION,
        "options": sweep.model_dump(mode="json", exclude={"grid"}),
        "grid": {key: list(values) for key, values in sweep.grid.items()},
        "points": found,
        "provenance": provenance(),
    }


def _table(result: dict[str, Any]) -> pd.DataFrame:
    """A row for each point and arm."""
    return pd.DataFrame(
        [{"run": p["run"], **p["settings"], **arm} for p in result["points"] for arm in p["arms"]]
    )
