"""The row file: round trip, validity at any moment, strict reading."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from kernels.profiling.rows import ERROR, OK, SCHEMA, Row, Store, read

ROW = Row("gemm", "triton", "m", {"m": 1, "n": 2}, "bf16", OK, 1e-3, 10.0, 9.0, 11.0, 20, None, 8.0, 1.25)


def test_round_trip(tmp_path: Path) -> None:
    store = Store(tmp_path / "deep" / "rows.jsonl.gz")
    store.add(ROW)
    store.flush()
    assert read(store.path) == [ROW]
    assert list(store.path.parent.iterdir()) == [store.path], "no temporary file stays behind"


def test_equal_rows_give_equal_bytes(tmp_path: Path) -> None:
    for name in ("a.gz", "b.gz"):
        store = Store(tmp_path / name)
        store.add(ROW)
        store.flush()
    assert (tmp_path / "a.gz").read_bytes() == (tmp_path / "b.gz").read_bytes()


def test_the_file_is_whole_after_every_flush(tmp_path: Path) -> None:
    store = Store(tmp_path / "r.gz", flush_every=2)
    for n in range(5):
        store.add(Row("gemm", "triton", "m", {"m": n}, "bf16", OK))
        if store.path.exists():
            assert len(read(store.path)) == n + 1 - (n + 1) % 2


def test_key_does_not_depend_on_field_order_or_model() -> None:
    other = Row("gemm", "triton", "other", {"n": 2, "m": 1}, "bf16", ERROR, reason="x")
    assert other.key == ROW.key


def test_only_ok_rows_may_carry_a_timing() -> None:
    with pytest.raises(ValueError, match="carries a timing"):
        Row("gemm", "triton", "m", {}, "bf16", ERROR, median_us=1.0)
    with pytest.raises(ValueError, match="must be one of ok, wrong, too_fast, error"):
        Row("gemm", "triton", "m", {}, "bf16", "fine")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "line 1"),
        (json.dumps({"schema": SCHEMA + 1}), f"schema is {SCHEMA + 1}, not {SCHEMA}"),
        (json.dumps({"schema": SCHEMA, "op": "gemm"}), "missing"),
        (json.dumps({"schema": SCHEMA, "surprise": 1}), "surprise"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, text: str, reason: str) -> None:
    path = tmp_path / "bad.gz"
    path.write_bytes(gzip.compress(text.encode()))
    with pytest.raises(ValueError, match=reason):
        read(path)
