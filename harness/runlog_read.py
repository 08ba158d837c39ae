"""Reading a run directory: strict on the way in, lazy afterwards."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from harness.errors import InputError, UnknownName
from harness.runlog_schema import OPTIONAL, SCHEMA_VERSION, SCHEMAS, check_info

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Run:
    """A validated run directory. Tables are read when asked for, and only the cells asked for."""

    path: Path
    info: dict[str, Any]
    _groups: dict[str, list[tuple[str, int]]] = field(repr=False)
    """Per table, the cell of each row group: the writer never mixes two."""

    @property
    def arms(self) -> tuple[str, ...]:
        return tuple(self.info["arms"])

    @property
    def seeds(self) -> tuple[int, ...]:
        return tuple(sorted(self.info["seeds"]))

    @cached_property
    def summary(self) -> dict[str, Any] | None:
        """summary.json as `compare.summarise` wrote it; None where it was not computed yet."""
        path = self.path / "summary.json"
        return read_json(path) if path.exists() else None

    @cached_property
    def side_by_side(self) -> dict[str, Any] | None:
        """side-by-side.json as `compare.side_by_side` wrote it; None where the run was not simulated as well."""
        path = self.path / "side-by-side.json"
        return read_json(path) if path.exists() else None

    def steps(
        self, arm: str | None = None, seed: int | None = None, columns: Sequence[str] | None = None
    ) -> pd.DataFrame:
        """Engine steps, in time order within a cell; cells in (arm, seed) order."""
        return self._table("steps", arm, seed, columns).to_pandas()

    def requests(
        self, arm: str | None = None, seed: int | None = None, columns: Sequence[str] | None = None
    ) -> pd.DataFrame:
        """Requests, in the order in which they were written within a cell."""
        return self._table("requests", arm, seed, columns).to_pandas()

    def verifies(
        self, arm: str | None = None, seed: int | None = None, columns: Sequence[str] | None = None
    ) -> pd.DataFrame | None:
        """Verify steps, each request's in order; None when the run recorded none at all."""
        if "verify" not in self._groups:
            return None
        return self._table("verify", arm, seed, columns).to_pandas()

    def events(
        self, arm: str | None = None, seed: int | None = None, kinds: Sequence[str] | None = None
    ) -> pd.DataFrame:
        """Events with `detail` as a dict; only those of `kinds` when given."""
        table = self._table("events", arm, seed, None)
        if kinds is not None:
            wanted = pa.array(list(kinds), pa.string())
            table = table.filter(pc.is_in(table["kind"].cast(pa.string()), value_set=wanted))
        frame = table.to_pandas()
        frame["detail"] = [json.loads(text) for text in frame["detail"]]
        return frame

    def batches(
        self, table: str, arm: str, seed: int, columns: Sequence[str] | None = None
    ) -> Iterator[pa.RecordBatch]:
        """One cell's rows of `table`, a row group at a time: memory flat in the length of the run."""
        with pq.ParquetFile(self.path / f"{table}.parquet") as file:
            for group in self._select(table, arm, seed):
                yield from file.read_row_group(group, columns=_list(columns)).to_batches()

    def _table(
        self, table: str, arm: str | None, seed: int | None, columns: Sequence[str] | None
    ) -> pa.Table:
        with pq.ParquetFile(self.path / f"{table}.parquet") as file:
            return file.read_row_groups(self._select(table, arm, seed), columns=_list(columns))

    def _select(self, table: str, arm: str | None, seed: int | None) -> list[int]:
        if arm is not None and arm not in self.arms:
            raise UnknownName("arm", arm, self.arms)
        if seed is not None and seed not in self.seeds:
            raise InputError(f"the run has no seed {seed}; it has {', '.join(map(str, self.seeds))}")
        cells = self._groups[table]
        return [i for i, (a, s) in enumerate(cells) if arm in (None, a) and seed in (None, s)]


def read_run(path: Path) -> Run:
    """Open and validate a run directory.

    Raises InputError, in one sentence naming what is wrong: no such directory, not a run, another
    schema version, a missing file, a missing, unknown or wrongly typed column.
    """
    path = Path(path)
    if not path.is_dir():
        raise InputError(
            f"there is no run at {path}: {'it is a file' if path.exists() else 'no such directory'}"
        )
    if not (path / "run.json").is_file():
        raise InputError(f"{path} is not a run directory: it has no run.json")
    info = read_json(path / "run.json")
    version = info.get("schema_version")
    if version != SCHEMA_VERSION:
        raise InputError(
            f"{path} has run-log schema version {version!r}; this specdrift reads {SCHEMA_VERSION}"
        )
    check_info(info, str(path / "run.json"))
    held = [t for t in SCHEMAS if t not in OPTIONAL or (path / f"{t}.parquet").exists()]
    groups = {table: _cells_of(path / f"{table}.parquet", table, info) for table in held}
    return Run(path, info, groups)


def read_json(path: Path) -> dict[str, Any]:
    """One JSON object from `path`. Raises InputError when it is missing or not one."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise InputError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise InputError(f"{path} must hold one JSON object, not a {type(value).__name__}")
    return value


def _cells_of(path: Path, table: str, info: dict[str, Any]) -> list[tuple[str, int]]:
    if not path.is_file():
        raise InputError(f"{path.parent} is not a complete run: it has no {path.name}")
    try:
        file = pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path} is not a readable Parquet file: {error}") from error
    with file:
        _check_schema(path, file.schema_arrow, SCHEMAS[table])
        cells = [_cell_of(path, file.metadata.row_group(g)) for g in range(file.num_row_groups)]
    for arm, seed in set(cells):
        if arm not in info["arms"] or seed not in info["seeds"]:
            raise InputError(f"{path} has rows of arm {arm!r}, seed {seed}, which run.json does not name")
    return cells


def _cell_of(path: Path, group: pq.RowGroupMetaData) -> tuple[str, int]:
    arm, seed = (group.column(i).statistics for i in (0, 1))
    if arm is None or seed is None or arm.min != arm.max or seed.min != seed.max:
        raise InputError(f"{path} has a row group of more than one arm or seed; write it with RunWriter")
    return arm.min, seed.min


def _check_schema(path: Path, found: pa.Schema, expected: pa.Schema) -> None:
    for column in expected:
        if column.name not in found.names:
            raise InputError(f"{path} has no column {column.name!r}")
        if found.field(column.name).type != column.type:
            kind = found.field(column.name).type
            raise InputError(f"column {column.name!r} of {path} is {kind}; it must be {column.type}")
    if found.names != expected.names:
        extra = [n for n in found.names if n not in expected.names]
        raise InputError(
            f"{path} has unknown columns: {', '.join(extra)}"
            if extra
            else f"columns of {path} are out of order"
        )


def _list(columns: Sequence[str] | None) -> list[str] | None:
    return None if columns is None else list(columns)
