"""`specdrift calibrate`: measure or read kernels, or an engine's steps; fit latency models, say how wrong they are.

Errors are of held-out shapes (every fifth), per operation and for whole steps; see `latency.rowerror`,
`latency.gap` and `latency.recorded_error`. Layers are never fitted, so their error is of composition alone.
"""

from __future__ import annotations

import importlib
import importlib.util
from dataclasses import asdict
from pathlib import Path
from typing import Any

from harness.errors import InputError, MissingPart
from harness.latency import StepShape, decode_shape, importers, store
from harness.latency import fit as fitting
from harness.latency import gap as gaps
from harness.latency.catalog import DEFAULT_MODEL, recorded_run
from harness.latency.compiled import PARTS, step_parts
from harness.latency.crosscheck import cross_check
from harness.latency.fit import Fit
from harness.latency.heldout import heldout_error
from harness.latency.importers import profile
from harness.latency.recorded import Recorded
from harness.latency.rowerror import op_errors
from harness.latency.rows import KernelRows

BAR = 0.05
"""Held-out mean absolute error over all kernels, and of whole steps, that a calibration must stay under."""
BATCH, CONTEXT, K = 64, 4096, 4
"""Where the price of speculating is printed."""
DEFAULT_PROFILE = Path("runs") / "profile.jsonl.gz"


def calibrate(
    profile_file: Path | None = None,
    tables: tuple[Path, ...] = (),
    kernels: bool = False,
    cross: tuple[str, str] | None = None,
    model: str | None = None,
    draft: str | None = None,
    budget: float = 480.0,
    out: Path | None = None,
    engine: Path | None = None,
) -> dict[str, Any]:
    """What `specdrift calibrate` prints: `sources`, `engine`, `cross`, `out` and `ok`.

    Raises InputError for contradicting or missing arguments and bad files, MissingPart without a GPU.
    """
    if not (profile_file or tables or kernels or cross or engine):
        raise InputError(
            "calibrate needs one of --profile FILE, --tables FOLDER, --kernels, --engine RUN or --cross A B"
        )
    if engine and (model or draft) and not (profile_file or tables or kernels):
        raise InputError(
            "--model and --draft say what to compose of kernels; the steps of --engine are whole"
        )
    if kernels:
        profile_file = measure(profile_file or DEFAULT_PROFILE, budget)
    paths = [*([profile_file] if profile_file else []), *tables]
    given = len(paths) + (engine is not None)
    if out is not None and given != 1:
        raise InputError(f"--out holds one fitted model, but {given} sources are given")
    if out is not None and not store.is_store(out):
        raise InputError(f"--out is {str(out)!r}; it must end with {' or '.join(store.SUFFIXES)}")
    found, fits = [], []
    recorded = recorded_run(engine) if engine else None
    for path in paths:
        described, fitted = _source(path, model, draft)
        found += described
        fits += fitted
    if out is not None:
        store.write(recorded.model if recorded else _chosen(fits, model, paths[0]).model, out)
    return {
        "sources": found,
        "engine": _engine(recorded) if recorded else None,
        "cross": [asdict(check) for check in cross_check(*cross)] if cross else [],
        "out": str(out) if out else None,
        "ok": all(_within(source) for source in found) and (recorded is None or _engine_within(recorded)),
    }


def measure(path: Path, budget: float) -> Path:
    """Run the profiler into `path` (resuming what is there) and return it.

    Raises MissingPart without torch, triton or a CUDA device, InputError where nothing could be measured.
    """
    missing = [name for name in ("torch", "triton") if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingPart(
            f"measuring kernels needs {missing[0]}; install specdrift[kernels] on a GPU machine"
        )
    import torch

    if not torch.cuda.is_available():
        raise MissingPart("measuring kernels needs a CUDA device, and torch sees none here")
    if not path.name.endswith(profile.SUFFIX):
        raise InputError(f"--profile is {str(path)!r}; a measured profile must end with {profile.SUFFIX}")
    profiler = importlib.import_module("kernels.profile")
    code = profiler.main(["--out", str(path), "--budget", str(budget), "--resume"])
    if code == 2:
        raise InputError(f"the profiler could measure nothing into {str(path)!r}")
    return path


def _source(path: Path, model: str | None, draft: str | None) -> tuple[list[dict[str, Any]], list[Fit]]:
    """Each GPU of a file or folder, described; and the models fitted to it."""
    described, fits = [], []
    whole_layers = path.is_dir() and importers.layout(path) == "LLMServingSim"
    for rows in importers.sources(path):
        if whole_layers:
            described.append(_described(rows) | {"kernels": _table_errors(path), "models": []})
            continue
        fitted = [fitting.fit(rows, str(path), name, draft) for name in _models(rows, model)]
        described.append(_described(rows) | {"models": [_fitted(f) for f in fitted]})
        fits += fitted
    return described, fits


def _engine(recorded: Recorded) -> dict[str, Any]:
    model = recorded.model
    return {
        "name": model.name,
        "note": model.note,
        "provenance": model.provenance,
        "errors": [asdict(error) for error in recorded.errors],
    }


def _engine_within(recorded: Recorded) -> bool:
    """Whether steps could be held out, and of all arms the error and the bias of the sum lie under the bar."""
    return bool(recorded.errors) and max(recorded.errors[-1].typical, abs(recorded.errors[-1].bias)) < BAR


def _models(rows: KernelRows, model: str | None) -> list[str]:
    """The one asked for, if these rows hold it; of our own profile all it holds; else the default."""
    held = fitting.composable(rows)
    if model is not None:
        fitting.parse_model(model)
        return [model] if model in held else []
    return held if rows.launches_included else [name for name in held if name == DEFAULT_MODEL]


def _chosen(fits: list[Fit], model: str | None, path: Path) -> Fit:
    wanted = model or DEFAULT_MODEL
    for fit in fits:
        if fit.of == wanted:
            return fit
    raise MissingPart(
        f"{str(path)!r} gives no model of {wanted} to write: it holds {', '.join(f.of for f in fits) or 'none'} "
        "(a folder of whole-layer tables is loaded as it is)"
    )


def _described(rows: KernelRows) -> dict[str, Any]:
    return {
        "name": rows.name,
        "device": rows.device,
        "source": rows.source,
        "rows": {op: len(frame) for op, frame in rows.tables.items()},
        "left_out": rows.left_out,
        "notes": list(rows.notes),
        "kernels": [asdict(error) for error in op_errors(rows)],
    }


def _table_errors(path: Path) -> list[dict[str, Any]]:
    """The held-out errors of the tables that `load` composes steps from."""
    return [{"op": op, "mean": error} for op, error in heldout_error(path).items()]


def _fitted(fit: Fit) -> dict[str, Any]:
    step, draft = fit.basis.step_gap, fit.basis.draft_gap
    return {
        "model": fit.of,
        "note": fit.model.note,
        "whole": [asdict(error) for error in fit.basis.whole_errors],
        "gap_us": step.step_s * 1e6,
        "row_us": step.row_s * 1e6,
        "factor": step.factor,
        "draft_pass_us": draft.pass_s * 1e6 if draft else None,
        "analytic": sorted(fit.basis.parts.analytic),
        "converted": sorted(fit.basis.parts.converted),
        "price": price(fit),
    }


def price(fit: Fit) -> dict[str, float | None]:
    """What a verify step with K drafts costs relative to K = 0, at the batch and context of the headline.

    `measured`: the two whole steps, where both were measured. `predicted`: the same from kernels and gap.
    `with_drafting`: K passes and host work included, where a drafter has a price.
    """
    steps = gaps.steps_of(fit.basis.parts.kernels.rows.tables.get("verify_step"), fit.rows_name)
    times = []
    for query in (1, K + 1):
        own = steps[
            (steps["batch"] == BATCH) & (steps["context"] == CONTEXT) & (steps["query_tokens"] == query)
        ]
        own = own[own["drafter"] == 1] if len(own) else own
        times.append(float(own["us"].iloc[0]) if len(own) else None)
    alone, verify = times
    shapes = [decode_shape(BATCH, k, CONTEXT, fit.model.has_drafter) for k in (0, K)]
    bare = [_without_draft(fit, shape) for shape in shapes]
    drafting = fit.model.has_drafter and fit.model.max_k >= K
    return {
        "measured": verify / alone if verify and alone else None,
        "predicted": bare[1] / bare[0],
        "with_drafting": fit.model.predict(shapes[1]) / fit.model.predict(shapes[0]) if drafting else None,
    }


def _without_draft(fit: Fit, shape: StepShape) -> float:
    """Seconds of the step's verification alone."""
    parts = dict(zip(PARTS, step_parts(fit.model.compiled, shape.vector()), strict=True))
    return float(sum(parts.values()) - parts["draft"])


def _within(source: dict[str, Any]) -> bool:
    """Whether all kernels together, and the whole steps of each model, lie under the bar."""
    overall = [e["mean"] for e in source["kernels"] if e["op"] == "all"]
    overall = overall or [e["mean"] for e in source["kernels"]]
    whole = [e["mean"] for m in source["models"] for e in m["whole"] if e["op"] == "verify_step"]
    return bool(overall) and max([*overall, *whole]) < BAR
