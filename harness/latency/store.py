"""A fitted latency model as one JSON file (`.json` or `.json.gz`), exact to the last bit."""

from __future__ import annotations

import gzip
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np

from harness.errors import InputError
from harness.latency.compiled import CompiledLatency
from harness.latency.model import Coverage, LatencyModel

SCHEMA = 1
SUFFIXES = (".json", ".json.gz")
BELIEVED = "believed-latency.json.gz"
"""In the directory of a live run: the model that its policies were told, fitted before the run."""


def is_store(path: Path) -> bool:
    return path.name.endswith(SUFFIXES)


def believed(run: Path) -> str | None:
    """The path of what the policies of a live run were told; None for a run that does not hold it."""
    path = run / BELIEVED
    return str(path) if path.is_file() else None


def write(model: LatencyModel, path: Path) -> None:
    """Write `model`; InputError unless the name ends with one of `SUFFIXES` and can be written."""
    if not is_store(path):
        raise InputError(f"fitted model {str(path)!r} must end with {' or '.join(SUFFIXES)}")
    values = {
        name: getattr(model, name)
        for name in LatencyModel.__dataclass_fields__
        if name not in ("compiled", "coverage")
    }
    values["coverage"] = asdict(model.coverage) if model.coverage else None
    values["compiled"] = {
        name: value.tolist() if isinstance(value, np.ndarray) else value
        for name, value in model.compiled._asdict().items()
    }
    text = json.dumps({"schema": SCHEMA, **values}, allow_nan=False)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".gz":
            path.write_bytes(gzip.compress(text.encode(), mtime=0))
        else:
            path.write_text(text)
    except OSError as error:
        raise InputError(f"fitted model {str(path)!r} cannot be written: {error}") from error


def read(path: Path) -> LatencyModel:
    """The model that `write` wrote, under the file's path as its name. Raises InputError."""
    try:
        data = path.read_bytes()
        values = json.loads(gzip.decompress(data) if path.suffix == ".gz" else data)
        if not isinstance(values, dict) or values.pop("schema", None) != SCHEMA:
            raise ValueError(f"it has no schema {SCHEMA}")
        values["name"] = str(path)
        values["compiled"] = _compiled(values["compiled"])
        if values["coverage"] is not None:
            values["coverage"] = Coverage(**{k: _tuples(v) for k, v in values["coverage"].items()})
        return LatencyModel(**values)
    except (OSError, EOFError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{str(path)!r} is not a fitted latency model: {error}") from error


def _compiled(values: dict[str, Any]) -> CompiledLatency:
    kinds = get_type_hints(CompiledLatency)
    found: dict[str, Any] = {
        name: np.array(values[name], dtype=np.float64) if kind is np.ndarray else float(values[name])
        for name, kind in kinds.items()
    }
    for name, value in found.items():
        if not np.all(np.isfinite(value)):
            raise ValueError(f"{name} holds a value that is not finite")
    grid, axes = found["grid"], [found[f"grid_{n}"] for n in ("chunk", "prefix", "query", "seqs", "context")]
    if np.shape(grid) != tuple(len(axis) for axis in axes):
        raise ValueError(f"its attention grid of shape {np.shape(grid)} does not fit its axes")
    return CompiledLatency(**found)


def _tuples(value: Any) -> Any:
    return tuple(_tuples(v) for v in value) if isinstance(value, list) else value
