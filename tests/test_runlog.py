"""The run log: what is written is read back, and nothing half-written looks complete."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tracemalloc
from dataclasses import fields
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.contract import RequestRecord, StepRecord, VerifyRecord
from harness.errors import InputError
from harness.runlog import SCHEMA_VERSION, SCHEMAS, CellWriter, RunWriter, read_run
from harness.runlog_write import ROW_GROUP
from tests.factories import request_table, step_table, write_run

INFO = {"mode": "sim", "scenario": "x", "seeds": [0], "arms": {"none": {}}}
ROOT = Path(__file__).parents[1]


def random_steps(n: int, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    columns: dict[str, np.ndarray] = {f.name: rng.integers(0, 100, n) for f in fields(StepRecord)}
    return columns | {"start": np.sort(rng.random(n)), "seconds": rng.random(n)}


def write_steps(out: Path, batches: list[dict[str, np.ndarray]], keep: bool = True) -> Path:
    with RunWriter(out, INFO) as run, CellWriter(run.parts, "none", 0, steps=keep) as cell:
        for batch in batches:
            cell.steps(batch)
    return out


def test_schemas_are_the_contract() -> None:
    assert SCHEMAS["steps"].names == ["arm", "seed", *(f.name for f in fields(StepRecord))]
    assert SCHEMAS["requests"].names == ["arm", "seed", *(f.name for f in fields(RequestRecord))]
    assert SCHEMAS["events"].names == ["arm", "seed", "time", "kind", "detail"]
    assert SCHEMAS["verify"].names == ["arm", "seed", *(f.name for f in fields(VerifyRecord))]
    assert SCHEMAS["verify"].field("request_id").type == pa.int64()
    for table, columns in {"requests": ("arm", "domain", "tenant", "status"), "events": ("kind",)}.items():
        assert all(pa.types.is_dictionary(SCHEMAS[table].field(name).type) for name in columns)
    assert SCHEMAS["requests"].field("request_id").type == pa.int64()
    assert SCHEMAS["requests"].field("slo_met").type == pa.bool_()
    assert SCHEMAS["steps"].field("start").type == pa.float64()
    assert SCHEMAS["steps"].field("k").type == pa.int32()


def test_round_trip(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path / "run", seeds=(3, 1)))
    assert run.arms == ("none", "static:3", "bandit")
    assert run.seeds == (1, 3)
    assert run.info["schema_version"] == SCHEMA_VERSION
    assert run.summary is None
    frame = run.requests("bandit", 3)
    assert set(frame["arm"]) == {"bandit"}
    assert set(frame["seed"]) == {3}
    own = request_table(3, 60, 1.5, drafts=True)
    for name in ("request_id", "arrival", "prompt_tokens", "output_tokens", "domain", "status"):
        assert list(frame[name]) == list(own[name])
    assert len(run.requests()) == 3 * 2 * 60
    assert list(dict.fromkeys(zip(run.requests()["arm"], run.requests()["seed"], strict=True))) == [
        (arm, seed) for arm in run.arms for seed in run.seeds
    ]


def test_events_come_back_with_their_detail(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path / "run"))
    swaps = run.events("bandit", 0, kinds=("swap",))
    assert list(swaps["kind"]) == ["swap", "swap"]
    assert swaps["detail"].iloc[0] == {"version": 1, "ok": True, "stall": 0.25}
    assert run.events("none", 0, kinds=("swap",)).empty


@settings(max_examples=20, deadline=None)
@given(cuts=st.lists(st.integers(0, 3000), max_size=6))
def test_bytes_do_not_depend_on_batches(tmp_path_factory: pytest.TempPathFactory, cuts: list[int]) -> None:
    folder = tmp_path_factory.mktemp("bytes")
    requests = request_table(0, 3000, 1.0, drafts=False)
    edges = [0, *sorted(cuts), 3000]
    files = []
    for name, pieces in {"whole": [0, 3000], "cut": edges}.items():
        with RunWriter(folder / name, INFO) as run, CellWriter(run.parts, "none", 0) as cell:
            for lo, hi in pairwise(pieces):
                cell.requests({k: v[lo:hi] for k, v in requests.items()})
        files.append((folder / name / "requests.parquet").read_bytes())
    assert files[0] == files[1]


def test_bytes_do_not_depend_on_the_order_of_cells(tmp_path: Path) -> None:
    info = {**INFO, "seeds": [0, 1], "arms": {"b": {}, "a": {}}}
    cells = [("b", 0), ("b", 1), ("a", 0), ("a", 1)]
    for name, order in {"forward": cells, "backward": cells[::-1]}.items():
        with RunWriter(tmp_path / name, info) as run:
            for arm, seed in order:
                with CellWriter(run.parts, arm, seed) as cell:
                    cell.steps(random_steps(100, seed))
    one, two = ((tmp_path / name / "steps.parquet").read_bytes() for name in ("forward", "backward"))
    assert one == two
    assert list(read_run(tmp_path / "forward").steps()["arm"].unique()) == ["b", "a"]


def test_row_groups_hold_one_cell_and_a_fixed_number_of_rows(tmp_path: Path) -> None:
    batches = [random_steps(50_000, s) for s in range(4)]
    run = read_run(write_steps(tmp_path / "run", batches))
    file = pq.ParquetFile(run.path / "steps.parquet")
    sizes = [file.metadata.row_group(g).num_rows for g in range(file.num_row_groups)]
    assert sizes == [ROW_GROUP] * 3 + [200_000 - 3 * ROW_GROUP]
    assert np.array_equal(run.steps()["start"], np.concatenate([b["start"] for b in batches]))


def test_without_steps_the_table_is_there_and_empty(tmp_path: Path) -> None:
    assert read_run(write_steps(tmp_path / "run", [random_steps(10)], keep=False)).steps().empty


def test_memory_is_flat_in_the_number_of_steps(tmp_path: Path) -> None:
    """Two million step rows are 180 MB as arrays; writing and merging them may hold a few row groups."""
    batch = random_steps(50_000)
    before = pa.total_allocated_bytes()
    highest = 0
    tracemalloc.start()
    with RunWriter(tmp_path / "run", INFO) as run:
        with CellWriter(run.parts, "none", 0) as cell:
            for _ in range(40):
                cell.steps(batch)
                highest = max(highest, pa.total_allocated_bytes() - before)
        run.merge()
        highest = max(highest, pa.total_allocated_bytes() - before)
    _, python_peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert highest < 40e6
    assert python_peak < 20e6
    rows = sum(len(b) for b in read_run(tmp_path / "run").batches("steps", "none", 0, ("k",)))
    assert rows == 2_000_000


# --- nothing that looks complete ---


def test_an_exception_leaves_nothing(tmp_path: Path) -> None:
    def work() -> None:
        with RunWriter(tmp_path / "run", INFO) as run:
            with CellWriter(run.parts, "none", 0) as cell:
                cell.steps(random_steps(5))
            run.merge()
            assert (run.path / "steps.parquet").exists()
            raise RuntimeError("boom")

    with pytest.raises(RuntimeError, match="boom"):
        work()
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_is_stopped_keeps_the_seeds_that_are_whole(tmp_path: Path) -> None:
    info = INFO | {"arms": {"none": {}, "static:3": {}}, "seeds": [4, 5, 6]}
    with RunWriter(tmp_path / "run", info) as run:
        for arm, seed in (("none", 5), ("static:3", 5), ("none", 4), ("static:3", 4), ("static:3", 6)):
            with CellWriter(run.parts, arm, seed) as cell:
                cell.steps(random_steps(7))
        assert run.keep_whole_seeds() == [4, 5]
    found = read_run(tmp_path / "run")
    assert found.seeds == (4, 5)
    assert found.info["stopped"] == {"asked_seeds": [4, 5, 6]}
    assert len(found.steps("static:3", 5)) == 7


def test_a_run_without_a_whole_seed_is_not_kept(tmp_path: Path) -> None:
    info = INFO | {"arms": {"none": {}, "static:3": {}}, "seeds": [0, 1]}

    def work() -> None:
        with RunWriter(tmp_path / "run", info) as run:
            for cell in (("none", 0), ("static:3", 1)):
                with CellWriter(run.parts, *cell):
                    pass
            assert run.keep_whole_seeds() == []

    with pytest.raises(InputError, match="was never written"):
        work()
    assert list(tmp_path.iterdir()) == []


def test_a_cell_that_failed_is_not_merged(tmp_path: Path) -> None:
    def die(parts: Path) -> None:
        with CellWriter(parts, "none", 0) as cell:
            cell.steps(random_steps(ROW_GROUP + 1))
            raise RuntimeError("boom")

    def work() -> None:
        with RunWriter(tmp_path / "run", INFO) as run:
            with pytest.raises(RuntimeError, match="boom"):
                die(run.parts)
            assert list(run.parts.iterdir()) == []

    with pytest.raises(InputError, match=r"arm 'none' with seed 0 was never written"):
        work()
    assert list(tmp_path.iterdir()) == []


def test_a_cell_of_no_arm_is_not_dropped_silently(tmp_path: Path) -> None:
    def work() -> None:
        with RunWriter(tmp_path / "run", INFO) as run:
            for arm in ("none", "stray"):
                with CellWriter(run.parts, arm, 0):
                    pass

    with pytest.raises(InputError, match="belongs to none"):
        work()


KILLED = """
import sys, time
from pathlib import Path
from harness.runlog import RunWriter, CellWriter
from tests.test_runlog import INFO, random_steps
with RunWriter(Path(sys.argv[1]), INFO) as run:
    with CellWriter(run.parts, "none", 0) as cell:
        cell.steps(random_steps(70_000))
        if sys.argv[2] == "cell":
            print("ready", flush=True); time.sleep(60)
    run.merge()
    print("ready", flush=True); time.sleep(60)
"""


@pytest.mark.parametrize("moment", ["cell", "merged"])
def test_a_killed_writer_leaves_nothing_that_looks_complete(tmp_path: Path, moment: str) -> None:
    out = tmp_path / "run"
    command = [sys.executable, "-c", KILLED, str(out), moment]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
        writer.send_signal(signal.SIGKILL)
        writer.wait(timeout=30)
    assert not out.exists()
    assert all(p.name.startswith(".run.partial-") for p in tmp_path.iterdir())
    with pytest.raises(InputError, match="there is no run"):
        read_run(out)
    assert read_run(write_steps(out, [random_steps(3)])).steps().shape[0] == 3


def test_what_an_earlier_writer_of_this_process_left_is_not_taken_over(tmp_path: Path) -> None:
    stale = tmp_path / f".run.partial-{os.getpid()}"
    stale.mkdir()
    (stale / "summary.json").write_text("{}")
    assert read_run(write_steps(tmp_path / "run", [random_steps(3)])).summary is None


# --- refused before any work ---


def test_an_output_that_is_not_empty_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "mine.txt").write_text("keep me")
    with pytest.raises(InputError, match="is not empty"):
        RunWriter(tmp_path / "run", INFO)
    assert [p.name for p in tmp_path.iterdir()] == ["run"]


def test_an_empty_directory_is_taken(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    assert read_run(write_steps(tmp_path / "run", [])).arms == ("none",)


def test_an_output_under_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write a run"):
        RunWriter(tmp_path / "file" / "run", INFO)
    with pytest.raises(InputError, match="not a directory"):
        RunWriter(tmp_path / "file", INFO)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_an_unwritable_parent_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(InputError, match="cannot write a run"):
        RunWriter(tmp_path / "run", INFO)


def test_an_output_that_appears_meanwhile_is_not_overwritten(tmp_path: Path) -> None:
    def work() -> None:
        with RunWriter(tmp_path / "run", INFO) as run:
            with CellWriter(run.parts, "none", 0):
                pass
            (tmp_path / "run").mkdir()
            (tmp_path / "run" / "other").touch()

    with pytest.raises(InputError, match="is not empty"):
        work()
    assert [p.name for p in (tmp_path / "run").iterdir()] == ["other"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mode": "dream"}, "unknown run mode 'dream'"),
        ({"arms": {}}, "at least one arm"),
        ({"arms": ["none"]}, "must map"),
        ({"seeds": [1, 1]}, "different whole numbers"),
        ({"seeds": [0.5]}, "different whole numbers"),
        ({"seeds": []}, "different whole numbers"),
    ],
)
def test_bad_descriptions_are_refused(tmp_path: Path, change: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        RunWriter(tmp_path / "run", INFO | change)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k": None}, "'k' is missing"),
        ({"extra": np.zeros(3)}, "'extra' is not one of its columns"),
        ({"k": np.zeros(4, int)}, "differ in length"),
        ({"k": np.full(3, 2**40)}, "column 'k' of steps must be int32"),
        ({"k": np.full(3, 0.5)}, "column 'k' of steps must be int32"),
        ({"start": [0.0, None, 1.0]}, "'start' of steps has 1 missing"),
    ],
)
def test_bad_columns_are_refused(tmp_path: Path, change: dict[str, object], message: str) -> None:
    columns = {k: v for k, v in (random_steps(3) | change).items() if v is not None}
    with pytest.raises(InputError, match=message):
        write_steps(tmp_path / "run", [columns])
    assert list(tmp_path.iterdir()) == []


def test_factory_steps_account_for_every_token() -> None:
    for drafts in (False, True):
        requests = request_table(0, 50, 1.3, drafts)
        steps = step_table(requests, drafts)
        assert steps["output_tokens"].sum() == requests["output_tokens"].sum()
        assert (steps["accepted"] <= steps["offered"]).all()
        assert (np.diff(steps["start"]) > 0).all()


def test_run_json_keeps_what_was_given(tmp_path: Path) -> None:
    info = read_run(write_run(tmp_path / "run", requests=5, configuration={"load": float("inf")})).info
    assert info["configuration"] == {"requests": 5, "load": None}
    assert info["provenance"]["packages"]["numpy"] == np.__version__


# --- the optional table of verify steps ---


def verify_columns(n: int, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    k = rng.integers(1, 6, n)
    return {
        "request_id": np.arange(n) // 4,
        "at": 1 + np.arange(n) % 4,
        "k": k,
        "accepted": rng.integers(0, k + 1),
        "drafter_version": np.zeros(n, int),
    }


def write_verifies(out: Path, given: dict[tuple[str, int], list[dict[str, np.ndarray]]]) -> Path:
    info = {**INFO, "seeds": [0, 1], "arms": {"none": {}, "static:3": {}}}
    with RunWriter(out, info) as run:
        for arm in info["arms"]:
            for seed in info["seeds"]:
                with CellWriter(run.parts, arm, seed) as cell:
                    cell.steps(random_steps(5))
                    for columns in given.get((arm, seed), []):
                        cell.verifies(columns)
    return out


def test_verify_steps_come_back_for_the_cells_that_gave_some(tmp_path: Path) -> None:
    one, two = verify_columns(30, 1), verify_columns(20, 2)
    run = read_run(write_verifies(tmp_path / "run", {("static:3", 0): [one, two], ("static:3", 1): [two]}))
    found = run.verifies("static:3", 0)
    assert found is not None
    assert list(found.columns) == ["arm", "seed", *(f.name for f in fields(VerifyRecord))]
    for name in one:
        assert found[name].tolist() == [*one[name], *two[name]]
    other, none = run.verifies("static:3", 1), run.verifies("none", 0)
    assert other is not None
    assert len(other) == 20
    assert none is not None
    assert none.empty
    with pytest.raises(InputError, match="no seed 7"):
        run.verifies("static:3", 7)


def test_without_verify_steps_there_is_no_table_and_nothing_else_changes(tmp_path: Path) -> None:
    empty = {name: values[:0] for name, values in verify_columns(3).items()}
    plain = write_verifies(tmp_path / "plain", {})
    asked = write_verifies(tmp_path / "asked", {("none", 0): [empty]})
    full = write_verifies(tmp_path / "full", {("none", 0): [verify_columns(3)]})
    assert read_run(plain).verifies() is None
    assert read_run(asked).verifies() is None
    assert not (asked / "verify.parquet").exists()
    assert (full / "verify.parquet").exists()
    for name in ("steps", "requests", "events"):
        files = {(run / f"{name}.parquet").read_bytes() for run in (plain, asked, full)}
        assert len(files) == 1


def test_bad_verify_steps_are_refused(tmp_path: Path) -> None:
    columns = verify_columns(3)
    with pytest.raises(InputError, match="'k' is missing"):
        write_verifies(tmp_path / "a", {("none", 0): [{k: v for k, v in columns.items() if k != "k"}]})
    with pytest.raises(InputError, match="'at' is missing"):
        write_verifies(tmp_path / "b", {("none", 0): [{k: v for k, v in columns.items() if k != "at"}]})
    run = write_verifies(tmp_path / "c", {("none", 0): [columns]})
    (run / "verify.parquet").write_bytes(b"no parquet")
    with pytest.raises(InputError, match=r"verify\.parquet is not a readable"):
        read_run(run)
