"""The latency model of an engine that ran: fitted to the whole steps of a run log, live or simulated.

Read in order: `recorded_steps` (what each step had to compute), `recorded_trainer` (what a trainer beside the server
added to it, which is taken off again), `recorded_basis` (the terms of a step),
`recorded_fit` (their weights), `recorded_error` (how wrong it is at batch sizes and K left out).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from harness.errors import InputError
from harness.latency.buckets import padded
from harness.latency.model import Coverage, LatencyModel
from harness.latency.recorded_error import StepError, held_out_steps, step_errors
from harness.latency.recorded_fit import Cells, Weights, fit, gather
from harness.latency.recorded_steps import COLUMNS, TRAINING, step_rows
from harness.latency.recorded_trainer import Interference, interference, undone, working
from harness.runlog import Run, read_run

FEWEST_STEPS, FEWEST_BATCHES = 200, 2
BLOCK_SIZE = 16
"""vLLM's, used when the run does not name its own."""
MAX_TOKENS = 16384
SOURCE = {"live": "recorded from a live engine", "sim": "recorded from a simulated engine"}


@dataclass(frozen=True, eq=False)
class Recorded:
    """A model and its held-out errors by arm and K; no errors where there were too few shapes."""

    model: LatencyModel
    errors: list[StepError]


def is_run(path: Path) -> bool:
    """Whether `path` is a run directory rather than a folder of tables."""
    return (path / "run.json").is_file()


def record(run: Path) -> LatencyModel:
    """The model of the engine behind a run directory (live, or simulated), under its path as name.

    Raises as `fit_run`.
    """
    return fit_run(run).model


def fit_run(run: Path) -> Recorded:
    """As `record`, with its errors.

    Raises InputError: not a run, a run without step log, too few usable steps or batch sizes.
    """
    log = read_run(run)
    cells = [(arm, seed) for arm in log.arms for seed in log.seeds]
    frames = [_steps_of(log, arm, seed) for arm, seed in cells]
    loaded = {arm: _drafter_loaded(arm, settings) for arm, settings in log.info["arms"].items()}
    return fit_recorded(
        frames,
        [loaded[arm] for arm, _ in cells],
        str(run),
        _engine(log, "block_size") or BLOCK_SIZE,
        arms=[arm for arm, _ in cells],
        source=SOURCE[log.info["mode"]],
        kv_tokens=_engine(log, "kv_tokens"),
        look_ahead=_engine(log, "max_k"),
    )


def fit_steps(
    frames: list[pd.DataFrame], drafter_loaded: list[bool], name: str, block_size: int
) -> LatencyModel:
    """The model of steps just measured on a live engine.

    Args:
        frames: one table per arm and seed, in order of time, with the columns `recorded_steps.COLUMNS` of
            `contract.StepRecord`.
        drafter_loaded: for each, whether that engine held a drafter.
        name: the model's.
        block_size: tokens of a KV block.

    Raises InputError: as `recorded_steps.step_rows`; fewer than 200 usable steps or 2 batch sizes.
    """
    arms = [f"table {number}" for number in range(len(frames))]
    return fit_recorded(frames, drafter_loaded, name, block_size, arms=arms).model


def fit_recorded(
    frames: Sequence[pd.DataFrame],
    drafter_loaded: Sequence[bool],
    name: str,
    block_size: int,
    *,
    arms: Sequence[str],
    source: str = SOURCE["live"],
    kv_tokens: int | None = None,
    look_ahead: int | None = None,
) -> Recorded:
    """As `fit_steps`; `arms` names the arm of each frame, for the errors. Raises as `fit_steps`.

    `look_ahead` is the largest K that an engine with a drafter keeps KV slots for (None: the largest seen).
    """
    steps = step_rows(frames, drafter_loaded, block_size, look_ahead)
    total = sum(map(len, frames))
    batches = int(steps.loc[steps["batch"] > 0, "batch"].nunique())
    if len(steps) < FEWEST_STEPS or batches < FEWEST_BATCHES:
        raise InputError(
            f"{name} has {len(steps)} usable steps (of {total}) at {batches} batch sizes; a latency model needs "
            f"at least {FEWEST_STEPS} at {FEWEST_BATCHES}, each followed right away by another decode step"
        )
    trainer = interference(steps)
    steps = undone(steps, trainer)
    cells = gather(steps)
    weights = fit(cells)
    errors = step_errors(held_out_steps(cells), arms)
    model = LatencyModel(
        name=name,
        source=source,
        note=_note(source, name, len(steps), errors),
        provenance=_provenance(cells, weights, errors, total, block_size, kv_tokens, trainer),
        compiled=cells.basis.compiled(cells.terms, weights.values),
        max_k=int(max(steps["k"].max(), steps["passes"].max())),
        max_tokens=max(MAX_TOKENS, int(steps["tokens"].max())),
        kv_capacity_tokens=kv_tokens,
        has_drafter=any(drafter_loaded),
        coverage=_coverage(steps),
        interference=trainer.factor,
    )
    return Recorded(model, errors)


def _steps_of(log: Run, arm: str, seed: int) -> pd.DataFrame:
    """With the share of its time that a trainer worked, where one did."""
    steps, found = log.steps(arm, seed, COLUMNS), working(log, arm, seed)
    if found is None:
        return steps
    return steps.assign(**{TRAINING: found.share(steps["start"].to_numpy(), steps["seconds"].to_numpy())})


def _drafter_loaded(arm: str, settings: Mapping[str, Any]) -> bool:
    if "drafter_loaded" in settings:
        return bool(settings["drafter_loaded"])
    from harness.policy import make  # policies price steps, so they import this package

    return make(str(settings.get("policy", arm))).uses_drafter


def _engine(log: Run, key: str) -> int | None:
    """`engine.<key>` of the run's configuration (of its scenario, where that is what set it)."""
    configuration = log.info.get("configuration", {})
    for place in (configuration, configuration.get("scenario")):
        engine = place.get("engine") if isinstance(place, Mapping) else None
        value = engine.get(key) if isinstance(engine, Mapping) else None
        if value is None:
            continue
        if type(value) is not int or value < 0:
            raise InputError(f"engine.{key} of {log.path} is {value!r}; it must be a whole number, 0 or more")
        return value
    return None


def _coverage(steps: pd.DataFrame) -> Coverage:
    """The ranges seen. Nothing was measured apart from the rest, so every part is interpolated at best."""
    decoding = steps[steps["batch"] > 0]
    mean_context = decoding["decode_context"] / decoding["batch"]
    # Coverage looks sizes up as graphs pad them, so the end of the range is padded alike.
    most = float(padded(np.array([int(steps["tokens"].max())]))[0])
    return Coverage(
        tokens=(float(steps["tokens"].min()), most),
        rows=(float(steps["rows"].min()), float(steps["rows"].max())),
        attention=(
            (0.0, float(steps["prefill"].max())),
            (0.0, float(steps["context"].max())),
            (float(decoding["batch"].min()), float(decoding["batch"].max())),
            (0.0, float(mean_context.max())),
        ),
        query_tokens=tuple(sorted({1.0 + k for k in decoding["k"]})),
        converted=("tokens", "attention", "head"),
    )


def _note(source: str, name: str, steps: int, errors: Sequence[StepError]) -> str:
    return f"{source.capitalize()}: {steps:,} steps of {name}; held-out error {_held_out(errors)}."


def _held_out(errors: Sequence[StepError]) -> str:
    if not errors:
        return "unknown (too few batch sizes and K to leave any out)"
    whole = errors[-1]
    return f"{whole.typical:.1%} by batch and K, bias {whole.bias:+.1%} (of {whole.shapes} shapes)"


def _provenance(
    cells: Cells,
    weights: Weights,
    errors: Sequence[StepError],
    total: int,
    block_size: int,
    kv_tokens: int | None,
    trainer: Interference,
) -> dict[str, str]:
    """Each input: measured, fitted or assumed, and how."""
    s = cells.steps
    left_out = f"; left out as no steps: {weights.hiccups} of {weights.hiccup_s:.1f} s together"
    by_arm = [f"{e.arm} {e.typical:.1%}, bias {e.bias:+.1%}" for e in errors if e.k is None]
    return {
        "steps": f"measured: {len(s):,} of {total:,} steps, batch {s['batch'].min():.0f} to "
        f"{s['batch'].max():.0f}, K {_listed(s['k'])}, at most {s['tokens'].max():.0f} tokens",
        "fit": f"non-negative least squares on the medians of {len(cells.count):,} cells, linear between sizes",
        "mean": f"{1e3 * weights.stall_s:+.3f} ms a step, so that predicted seconds sum to the measured ones"
        + (left_out if weights.hiccups else ""),
        "held-out error": "; ".join(by_arm) or _held_out(errors),
        "context": f"KV blocks in use of {block_size} tokens, less what a sequence holds beyond its context",
        "draft": _draft(cells),
        "trainer": trainer.text(),
        "between steps": f"measured: {1e3 * s['pause'].mean():.3f} ms in the mean, part of every step",
        "kv_capacity": "engine configuration" if kv_tokens else "unknown",
    }


def _draft(cells: Cells) -> str:
    loaded = cells.steps[cells.steps["loaded"] > 0]
    if loaded.empty:
        return "none: no step with a drafter loaded"
    passes = cells.basis.passes
    told = [f"measured: passes {', '.join(map(str, passes))} a step with a drafter loaded"]
    if len(loaded) == len(cells.steps):
        told.append("no step without a drafter: priced as with an idle one")
    if 0 not in passes:
        how = "extrapolated from these" if len(passes) > 1 else "priced as these"
        told.append(f"no idle drafter (K = 0): {how}")
    return "; ".join(told)


def _listed(values: pd.Series) -> str:
    return ", ".join(f"{v:.0f}" for v in sorted(values.unique()))
