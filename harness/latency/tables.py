"""Read a folder of measured kernel tables in LLMServingSim's layout.

`dense` (layer, tokens), `per_sequence` (layer, sequences), `attention` (prefill_chunk, kv_prefill, n_decode,
kv_decode), `skew` and, for a mixture of experts, `moe` (tokens, activated_experts); each `.csv` or `.csv.gz`
with `time_us`. Times are of one layer; embedding, final norm, LM head and sampler run once a step.
`skew` times are sums over the iterations of the profiler, so only their ratios are used.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from harness.errors import InputError, MissingPart
from harness.latency import specs
from harness.latency.specs import Gpu, ModelShape

COLUMNS = {
    "dense": ("layer", "tokens", "time_us"),
    "per_sequence": ("layer", "sequences", "time_us"),
    "attention": ("prefill_chunk", "kv_prefill", "n_decode", "kv_decode", "time_us"),
    "skew": ("regime", "n", "t_mean_us", "t_max_us", "t_skew_us"),
    "moe": ("tokens", "activated_experts", "time_us"),
}
TEXT = ("layer", "regime")


@dataclass(frozen=True, eq=False)
class Tables:
    """The checked rows of one folder."""

    path: Path
    shape: ModelShape
    gpu: Gpu | None
    """None when the folder names no card of `specs.toml`: then there is no floor."""
    dense: pd.DataFrame
    per_sequence: pd.DataFrame
    attention: pd.DataFrame
    skew: pd.DataFrame | None
    moe: pd.DataFrame | None


def read(folder: Path) -> Tables:
    """Read and check a folder. Raises InputError (bad rows) or MissingPart (a table or configuration)."""
    if not folder.is_dir():
        raise InputError(f"latency tables {str(folder)!r} is not a folder")
    name = _named(folder, "model", "model_name") or folder.name
    shape = specs.model_from_config(_config_path(folder), name)
    moe = _table(folder, "moe", required=shape.experts > 0)
    tables = Tables(
        path=folder,
        shape=shape,
        gpu=_gpu(folder),
        dense=_required(folder, "dense"),
        per_sequence=_required(folder, "per_sequence"),
        attention=_required(folder, "attention"),
        skew=_table(folder, "skew", required=False),
        moe=moe if shape.experts else None,
    )
    for name, frame in (("dense", tables.dense), ("per_sequence", tables.per_sequence)):
        if frame.groupby("layer").size().min() < 2:
            raise InputError(f"{name} table in {folder} must hold at least two sizes of every layer")
    return tables


def _required(folder: Path, name: str) -> pd.DataFrame:
    frame = _table(folder, name, required=True)
    assert frame is not None
    return frame


def _table(folder: Path, name: str, required: bool) -> pd.DataFrame | None:
    paths = [p for p in (folder / f"{name}.csv.gz", folder / f"{name}.csv") if p.is_file()]
    if not paths:
        if required:
            raise MissingPart(f"latency tables in {folder} lack {name}.csv (or {name}.csv.gz)")
        return None
    try:
        frame = pd.read_csv(paths[0])
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{paths[0]} cannot be read as CSV: {error}") from error
    missing = [c for c in COLUMNS[name] if c not in frame.columns]
    if missing:
        raise InputError(f"{paths[0]} lacks column {missing[0]!r}; it has {', '.join(frame.columns)}")
    return _checked(frame[list(COLUMNS[name])], paths[0])


def _checked(frame: pd.DataFrame, path: Path) -> pd.DataFrame:
    """Numbers finite and not negative, times positive, one row per size."""
    if frame.empty:
        raise InputError(f"{path} has no rows")
    for column in frame.columns:
        if column in TEXT:
            continue
        values = pd.to_numeric(frame[column], errors="coerce")
        low = 0.0 if not column.endswith("_us") else np.finfo(float).tiny
        bad = ~(np.isfinite(values) & (values >= low))
        if bad.any():
            row = int(np.flatnonzero(bad)[0])
            value = frame[column].iloc[row]
            raise InputError(f"{path} row {row + 2}: {column} is {value}; it must be a finite, valid number")
        frame = frame.assign(**{column: values.astype(float)})
    keys = [c for c in frame.columns if not c.endswith("_us")]
    if "regime" in keys:
        return frame
    return frame.pivot_table(index=keys, values="time_us", aggfunc="mean").reset_index()


def _config_path(folder: Path) -> Path:
    """The model's configuration: in the folder, or one level up under the model's name."""
    own = folder / "model_config.json"
    if own.is_file():
        return own
    model = _named(folder, "model", "model_name")
    above = folder.parent / f"model_config_{model.rsplit('/', 1)[-1]}.json" if model else None
    if above is not None and above.is_file():
        return above
    raise MissingPart(
        f"latency tables in {folder} lack model_config.json (the model's config.json), and no "
        f"model_config_<model>.json beside the folder belongs to {model or 'it'}"
    )


def _gpu(folder: Path) -> Gpu | None:
    name = re.sub(r"[^a-z0-9]", "", (_named(folder, "hardware", "hardware") or folder.name).lower())
    return specs.gpu(name) if name in specs.gpu_names() else None


def _named(folder: Path, meta_key: str, instance_key: str) -> str | None:
    """A name from `meta.yaml` (top-level key) or from the first instance of `cluster_config.json`."""
    meta, cluster = folder / "meta.yaml", folder / "cluster_config.json"
    if meta.is_file():
        match = re.search(rf"^{meta_key}:\s*(\S.*?)\s*$", meta.read_text(), re.MULTILINE)
        if match:
            return match[1].strip("'\"")
    if not cluster.is_file():
        return None
    try:
        instance = json.loads(cluster.read_text())["nodes"][0]["instances"][0]
        return str(instance[instance_key])
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise InputError(f"{cluster} does not name its {instance_key}: {error!r}") from error
