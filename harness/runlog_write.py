"""Writing a run directory: cells stream row groups to parts, one merge, one rename."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import quote

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from harness.contract import Event, to_json
from harness.errors import InputError
from harness.provenance import provenance
from harness.runlog_schema import CELL, OPTIONAL, SCHEMA_VERSION, SCHEMAS, check_info

ROW_GROUP = 1 << 16
"""Rows per row group. Fixed, so that the bytes do not depend on how large the caller's batches were."""

Columns = Mapping[str, Any]


def write_json(path: Path, value: Any) -> None:
    """Write plain data or contract dataclasses; a reader sees the old file or the new one, never half."""
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    partial.write_text(json.dumps(json.loads(to_json(value)), indent=1) + "\n", encoding="utf-8")
    os.replace(partial, path)


class RunWriter:
    """A run directory under construction.

    Works in the hidden sibling `.<name>.partial-<pid>`; leaving the `with` block cleanly merges what
    is not merged yet and renames it to `out` in one step. After an exception nothing remains.

    `info` becomes run.json (see `harness.runlog`) and may be added to until `merge`.
    Raises InputError at once, before any work is spent, when `out` cannot become a run directory.
    """

    def __init__(self, out: Path, info: Mapping[str, Any]) -> None:
        check_info(info, "the run's description")
        self.out = Path(out).absolute()
        self.info: dict[str, Any] = dict(info)
        self.path = self.out.with_name(f".{self.out.name}.partial-{os.getpid()}")
        self.parts = self.path / "parts"
        self._merged = False
        _check_free(self.out)
        try:
            self.out.parent.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(self.path, ignore_errors=True)
            self.parts.mkdir(parents=True)
        except OSError as error:
            raise InputError(f"cannot write a run to {self.out}: {error.strerror or error}") from error

    def __enter__(self) -> RunWriter:
        return self

    def merge(self) -> None:
        """Stream the parts, in (arm, seed) order, into the tables, and write run.json.

        Holds one row group at a time. Raises InputError when a cell of the run was never written.
        """
        cells = [(arm, seed) for arm in self.info["arms"] for seed in sorted(self.info["seeds"])]
        _check_parts(self.parts, cells)
        for table, schema in SCHEMAS.items():
            parts = [_part(self.parts, arm, seed, table) for arm, seed in cells]
            if table in OPTIONAL:
                parts = [path for path in parts if path.exists()]
            if parts:
                _merge(parts, self.path / f"{table}.parquet", schema)
        shutil.rmtree(self.parts)
        header = {"schema_version": SCHEMA_VERSION, "time_unit": "s", "provenance": provenance()}
        write_json(self.path / "run.json", header | self.info)
        self._merged = True

    def keep_whole_seeds(self) -> list[int]:
        """For a run that is stopped early: what every arm has finished stays, `info` says so. The seeds that stay.

        Without any nothing is changed: there is no run to keep.
        """
        asked: list[int] = list(self.info["seeds"])
        whole = [s for s in asked if all(_is_whole(self.parts, arm, s) for arm in self.info["arms"])]
        if whole:
            for seed in set(asked) - set(whole):
                for path in self.parts.glob(f"*@{seed}.*"):
                    path.unlink()
            self.info |= {"seeds": whole, "stopped": {"asked_seeds": asked}}
        return whole

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                if not self._merged:
                    self.merge()
                _check_free(self.out)
                os.rename(self.path, self.out)
        except OSError as failure:
            raise InputError(f"cannot finish the run at {self.out}: {failure.strerror}") from failure
        finally:
            shutil.rmtree(self.path, ignore_errors=True)


class CellWriter:
    """The rows of one cell (arm x seed); usable in a worker process. One writer per cell.

    Batches of any size are regrouped into row groups of `ROW_GROUP` rows, so memory stays flat.
    With `steps=False` step rows are discarded, for runs too long to keep them.
    """

    def __init__(self, parts: Path, arm: str, seed: int, steps: bool = True) -> None:
        self._keep_steps = steps
        self._cell = (arm, seed)
        self._final = {table: _part(Path(parts), arm, seed, table) for table in SCHEMAS}
        self._tables = {table: self._new_table(table) for table in SCHEMAS if table not in OPTIONAL}

    def __enter__(self) -> CellWriter:
        return self

    def steps(self, columns: Columns) -> None:
        """Append engine steps: one array per field of `StepRecord`, all of the same length."""
        if self._keep_steps:
            self._tables["steps"].append(columns)

    def requests(self, columns: Columns) -> None:
        """Append requests: one array or list per field of `RequestRecord`, all of the same length."""
        self._tables["requests"].append(columns)

    def events(self, events: Iterable[Event]) -> None:
        """Append events; `detail` is stored as JSON."""
        rows = list(events)
        self._tables["events"].append(
            {
                "time": [e.time for e in rows],
                "kind": [e.kind for e in rows],
                "detail": [to_json(e.detail) for e in rows],
            }
        )

    def verifies(self, columns: Columns) -> None:
        """Append verify steps: one array per field of `VerifyRecord`, each request's in order."""
        if len(columns.get("at", (0,))) == 0:
            return  # no file for a table without rows
        if "verify" not in self._tables:
            self._tables["verify"] = self._new_table("verify")
        self._tables["verify"].append(columns)

    def _new_table(self, table: str) -> _TableWriter:
        return _TableWriter(self._final[table].with_suffix(".tmp"), table, *self._cell)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for name, table in self._tables.items():
            table.close(flush=kind is None)
            if kind is None:
                os.replace(table.path, self._final[name])
            else:
                table.path.unlink(missing_ok=True)


class _TableWriter:
    """One table of one cell: checks columns, gathers batches, writes row groups of fixed size."""

    def __init__(self, path: Path, table: str, arm: str, seed: int) -> None:
        self.path = path
        self._table = table
        self._cell = (arm, seed)
        self._fields = [f for f in SCHEMAS[table] if f.name not in CELL.names]
        self._plain = pa.schema([(f.name, _plain(f.type)) for f in self._fields])
        self._held: list[pa.Table] = []
        self._rows = 0
        self._out = _open(path, SCHEMAS[table])

    def append(self, columns: Columns) -> None:
        self._check(columns)
        arrays = [_array(columns[f.name], f, self._table) for f in self._plain]
        if len({len(a) for a in arrays}) > 1:
            lengths = {f.name: len(a) for f, a in zip(self._fields, arrays, strict=True)}
            raise InputError(f"columns of {self._table} differ in length: {lengths}")
        self._held.append(pa.Table.from_arrays(arrays, schema=self._plain))
        self._rows += len(arrays[0])
        if self._rows >= ROW_GROUP:
            self._write(self._rows - self._rows % ROW_GROUP)

    def close(self, flush: bool) -> None:
        if flush and self._rows:
            self._write(self._rows)
        self._held.clear()
        self._out.close()

    def _write(self, rows: int) -> None:
        held = pa.concat_tables(self._held)
        for start in range(0, rows, ROW_GROUP):
            self._out.write_table(self._full(held.slice(start, min(ROW_GROUP, rows - start))))
        rest = held.slice(rows)
        # A slice keeps its parent alive; copying the rest lets the written rows go.
        self._held = [rest.take(pa.array(np.arange(len(rest))))] if len(rest) else []
        self._rows = len(rest)

    def _full(self, rows: pa.Table) -> pa.Table:
        """`rows` with the cell's columns in front, strings dictionary-encoded by first appearance."""
        arm, seed = self._cell
        columns = [
            pa.repeat(arm, len(rows)).dictionary_encode(),
            pa.repeat(pa.scalar(seed, pa.int32()), len(rows)),
        ]
        for column, field in zip(rows.columns, self._fields, strict=True):
            whole = column.combine_chunks()
            columns.append(whole.dictionary_encode() if pa.types.is_dictionary(field.type) else whole)
        return pa.Table.from_arrays(columns, schema=SCHEMAS[self._table])

    def _check(self, columns: Columns) -> None:
        names = {f.name for f in self._fields}
        for name in sorted(names ^ columns.keys()):
            what = "is missing" if name in names else "is not one of its columns"
            raise InputError(f"{self._table} of the run log: {name!r} {what}")


def _plain(kind: pa.DataType) -> pa.DataType:
    return pa.string() if pa.types.is_dictionary(kind) else kind


def _array(values: Any, field: pa.Field, table: str) -> pa.Array:
    try:
        if pa.types.is_boolean(field.type):
            values = np.asarray(values, dtype=bool)
        elif isinstance(values, np.ndarray):
            values = np.ascontiguousarray(values)
        array = pa.array(values, type=field.type)
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, ValueError) as error:
        raise InputError(f"column {field.name!r} of {table} must be {field.type}: {error}") from error
    if array.null_count:
        raise InputError(
            f"column {field.name!r} of {table} has {array.null_count} missing values; give NaN or a name"
        )
    return array


def _open(path: Path, schema: pa.Schema) -> pq.ParquetWriter:
    return pq.ParquetWriter(path, schema, compression="zstd")


def _merge(parts: Sequence[Path], out: Path, schema: pa.Schema) -> None:
    with _open(out, schema) as merged:
        for path in parts:
            with pq.ParquetFile(path) as part:
                for group in range(part.num_row_groups):
                    merged.write_table(part.read_row_group(group))


def _part(parts: Path, arm: str, seed: int, table: str) -> Path:
    return parts / f"{quote(arm, safe='')}@{seed}.{table}.parquet"


def _is_whole(parts: Path, arm: str, seed: int) -> bool:
    return all(_part(parts, arm, seed, table).exists() for table in SCHEMAS if table not in OPTIONAL)


def _check_parts(parts: Path, cells: Sequence[tuple[str, int]]) -> None:
    expected = set()
    for arm, seed in cells:
        if not _is_whole(parts, arm, seed):
            raise InputError(f"the run is not complete: arm {arm!r} with seed {seed} was never written")
        expected |= {_part(parts, arm, seed, table) for table in SCHEMAS}
    for stray in sorted(set(parts.iterdir()) - expected):
        raise InputError(f"the run has a part {stray.name!r} that belongs to none of its arms and seeds")


def _check_free(out: Path) -> None:
    if out.is_dir():
        if any(out.iterdir()):
            raise InputError(f"{out} is not empty; give a new directory for the run")
        if not os.access(out, os.W_OK):
            raise InputError(f"{out} is not writable; give a directory that is")
    elif out.exists() or out.is_symlink():
        raise InputError(f"{out} exists and is not a directory; give a new directory for the run")
