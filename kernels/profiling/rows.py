"""Profile rows and their file: gzipped JSON lines, rewritten whole and atomically, valid at any moment.

A row says what was run (`op`, `impl`, `model`, `shape`), how it ended (`status`), and only what
was then measured: timings stand in `ok` rows alone. One row of op `device` per session holds the
measured ceilings that its floors are made of.
"""

from __future__ import annotations

import gzip
import json
import os
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

SCHEMA = 1
OK = "ok"
WRONG = "wrong"
"""Numerically wrong: only `rel_err` is given."""
TOO_FAST = "too_fast"
"""Faster than a share of its floor: bytes miscounted or cache warm, so no timing is given."""
ERROR = "error"
STATUSES = (OK, WRONG, TOO_FAST, ERROR)


@dataclass(frozen=True, slots=True)
class Row:
    op: str
    impl: str
    """`triton`, a peer's name, `triton-eager` (no CUDA graph) or `full-check` (correctness only)."""
    model: str
    """The model whose sweep brought the shape up; equal shapes are measured once."""
    shape: dict[str, Any]
    dtype: str
    status: str
    rel_err: float | None = None
    median_us: float | None = None
    q10_us: float | None = None
    q90_us: float | None = None
    samples: int | None = None
    """Graph replays behind the quantiles."""
    clock_mhz: int | None = None
    """SM clock under load; None where the driver would not say."""
    floor_us: float | None = None
    floor_ratio: float | None = None
    """median_us / floor_us; 1 is the floor. None for kernels without cold bytes or matrix work."""
    reason: str = ""
    device: str = ""
    versions: str = ""
    commit: str = ""
    extra: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.status not in STATUSES:
            raise ValueError(f"status is {self.status!r}; it must be one of {', '.join(STATUSES)}")
        if self.status != OK and self.median_us is not None:
            raise ValueError(f"a row of status {self.status!r} carries a timing; only {OK!r} rows may")

    @property
    def key(self) -> str:
        return key(self.op, self.impl, self.shape)


def key(op: str, impl: str, shape: dict[str, Any]) -> str:
    """What makes two rows the same measurement."""
    return f"{op}|{impl}|{json.dumps(shape, sort_keys=True)}"


def read(path: Path) -> list[Row]:
    """All rows of a file; ValueError says which line is bad."""
    return list(_lines(path))


def _lines(path: Path) -> Iterator[Row]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            try:
                values = json.loads(line)
                if (schema := values.pop("schema", None)) != SCHEMA:
                    raise ValueError(f"schema is {schema}, not {SCHEMA}")
                yield Row(**values)
            except (TypeError, ValueError) as reason:
                raise ValueError(f"{path}, line {number}: {reason}") from None


class Store:
    """The rows of one output file."""

    def __init__(self, path: Path, resume: bool = False, flush_every: int = 20) -> None:
        self.path = path
        self.rows: list[Row] = read(path) if resume and path.exists() else []
        self.done = {row.key for row in self.rows}
        self.flush_every = flush_every
        self._unsaved = 0

    def add(self, row: Row) -> None:
        self.rows.append(row)
        self.done.add(row.key)
        self._unsaved += 1
        if self._unsaved >= self.flush_every:
            self.flush()

    def flush(self) -> None:
        """Write all rows to a temporary file beside the target and put it in place."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=self.path.parent, prefix=self.path.name, suffix=".part")
        try:
            with os.fdopen(handle, "wb") as raw, gzip.GzipFile("", "wb", mtime=0, fileobj=raw) as file:
                for row in self.rows:
                    values = {k: v for k, v in asdict(row).items() if v not in (None, "", {})}
                    text = json.dumps({"schema": SCHEMA, **values}, separators=(",", ":"), allow_nan=False)
                    file.write(text.encode() + b"\n")
            os.replace(name, self.path)
        except BaseException:
            os.unlink(name)
            raise
        self._unsaved = 0
