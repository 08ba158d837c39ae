"""What a run directory holds: the columns of its tables, derived from the contract in this one place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, get_type_hints

import pyarrow as pa

from harness.contract import Event, RequestRecord, StepRecord, VerifyRecord
from harness.errors import InputError, UnknownName

SCHEMA_VERSION = 1
"""Raised whenever a column, or the meaning of one, changes."""

MODES = ("sim", "live")
RECORDS: dict[str, type] = {
    "steps": StepRecord,
    "requests": RequestRecord,
    "events": Event,
    "verify": VerifyRecord,
}
OPTIONAL = ("verify",)
"""Tables that a run directory holds only when some cell gave rows for them."""
CELL = pa.schema([("arm", pa.dictionary(pa.int32(), pa.string())), ("seed", pa.int32())])
"""The columns that say which cell (arm x seed) a row belongs to; first in every table."""

_WIDE = {"request_id"}
_ARROW: dict[Any, pa.DataType] = {int: pa.int32(), float: pa.float64(), bool: pa.bool_(), str: CELL.types[0]}


def own_schema(record: type) -> pa.Schema:
    """Columns of one contract dataclass: int32 (ids int64), float64, bool, dictionary, JSON text."""
    hints = get_type_hints(record)
    return pa.schema([(f.name, _arrow_type(f.name, hints[f.name])) for f in fields(record)])


def _arrow_type(name: str, hint: Any) -> pa.DataType:
    if name in _WIDE:
        return pa.int64()
    return _ARROW.get(hint, pa.string())


SCHEMAS: dict[str, pa.Schema] = {
    table: pa.schema([*CELL, *own_schema(record)]) for table, record in RECORDS.items()
}


def check_info(info: Mapping[str, Any], where: str) -> None:
    """Raise InputError unless `info` names what every reader needs: mode, scenario, arms and seeds."""
    for key in ("mode", "scenario", "arms", "seeds"):
        if key not in info:
            raise InputError(f"{where} has no {key!r}; a run must say its mode, scenario, arms and seeds")
    if info["mode"] not in MODES:
        raise UnknownName("run mode", str(info["mode"]), MODES)
    arms, seeds = info["arms"], info["seeds"]
    if not isinstance(arms, Mapping) or not arms or not all(isinstance(v, Mapping) for v in arms.values()):
        raise InputError(
            f"arms of {where} must map each arm's name to its settings, and hold at least one arm"
        )
    whole = isinstance(seeds, list | tuple) and all(type(s) is int for s in seeds)
    if not whole or not seeds or len(set(seeds)) != len(seeds):
        raise InputError(f"seeds of {where} are {seeds!r}; they must be a list of different whole numbers")
