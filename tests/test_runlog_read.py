"""The run log's reader is strict: whatever is missing or wrong is named in one sentence."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from harness.errors import InputError, UnknownName
from harness.runlog import SCHEMA_VERSION, read_run
from tests.factories import write_run

Change = Callable[[pa.Table], pa.Table]


def rewrite(path: Path, change: Change) -> None:
    table = pq.read_table(path)
    pq.write_table(change(table), path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.drop_columns(["k"]), "steps.parquet has no column 'k'"),
        (lambda t: t.append_column("new", t["k"]), "unknown columns: new"),
        (
            lambda t: t.set_column(5, "k", t["k"].cast(pa.float64())),
            "column 'k' of .* is double; it must be int32",
        ),
        (lambda t: t.select(t.column_names[::-1]), "out of order"),
    ],
)
def test_wrong_columns_are_refused(tmp_path: Path, change: Change, message: str) -> None:
    run = write_run(tmp_path / "run", {"none": 1.0}, seeds=(0,), requests=5)
    rewrite(run / "steps.parquet", change)
    with pytest.raises(InputError, match=message):
        read_run(run)


def test_mixed_row_groups_are_refused(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", requests=5)
    rewrite(run / "requests.parquet", lambda t: t.combine_chunks())
    with pytest.raises(InputError, match="more than one arm or seed"):
        read_run(run)


@pytest.mark.parametrize("name", ["steps.parquet", "requests.parquet", "events.parquet"])
def test_a_missing_or_broken_table_is_named(tmp_path: Path, name: str) -> None:
    run = write_run(tmp_path / "run", requests=5)
    (run / name).write_bytes(b"no parquet")
    with pytest.raises(InputError, match=f"{name} is not a readable Parquet file"):
        read_run(run)
    (run / name).unlink()
    with pytest.raises(InputError, match=f"it has no {name}"):
        read_run(run)


def test_what_is_no_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such directory"):
        read_run(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"it has no run\.json"):
        read_run(tmp_path)
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(InputError, match="not valid JSON"):
        read_run(tmp_path)
    (tmp_path / "run.json").write_text("[]")
    with pytest.raises(InputError, match="must hold one JSON object"):
        read_run(tmp_path)


def test_another_schema_version_is_refused(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", requests=5)
    info = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(info | {"schema_version": SCHEMA_VERSION + 1}))
    with pytest.raises(InputError, match=f"schema version {SCHEMA_VERSION + 1}"):
        read_run(run)


def test_rows_of_an_unnamed_arm_are_refused(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", requests=5)
    info = json.loads((run / "run.json").read_text())
    del info["arms"]["bandit"]
    (run / "run.json").write_text(json.dumps(info))
    with pytest.raises(InputError, match="arm 'bandit'"):
        read_run(run)


def test_asking_for_what_did_not_run(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path / "run", requests=5))
    with pytest.raises(UnknownName, match="did you mean 'bandit'"):
        run.steps("bandits")
    with pytest.raises(InputError, match="no seed 9"):
        run.requests(seed=9)
