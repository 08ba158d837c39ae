"""A step log as rows to fit: what each step had to compute, as far as the log tells.

The drafts that a step proposes are verified in the next one, so its draft passes are the K of the row behind
it. Context is read off the KV blocks in use, less what a sequence holds on average beyond its context.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from harness.errors import InputError

COLUMNS = (
    "start", "seconds", "batch", "k", "prefill_tokens", "output_tokens", "accepted", "running", "kv_blocks",
)  # fmt: skip
"""What is read of `contract.StepRecord`."""
TRAINING = "training"
"""May stand beside them: the share of its time that a trainer worked beside the server then; 0 without it."""
BREAK_S, BREAK_SHARE = 0.005, 0.5
"""A step begins right after the one before if the pause is at most this, or this share of that step."""


def step_rows(
    frames: Sequence[pd.DataFrame],
    drafter_loaded: Sequence[bool],
    block_size: int,
    look_ahead: int | None = None,
) -> pd.DataFrame:
    """Usable steps of all `frames`.

    Each frame holds one arm and seed in order of time, with `COLUMNS`. Left out: steps without tokens, and
    steps of a loaded drafter whose draft passes are unknown, for no decode step follows right after. An engine
    with a drafter keeps KV slots for `look_ahead` drafts a sequence (None: the largest K of the frames).

    Returns:
        float64 columns `frame` (its index), `start`, `training`, `loaded`, `seconds` (until the next step begins, for
        requests wait for that too), `pause` (how much of them lay behind the step; where none follows right after,
        the mean of the frame), `batch`, `k`, `passes`, `tokens`, `prefill` (prompt tokens), `rows` (sampled),
        `context` (KV tokens of decoding and prompt sequences, this step's prompt tokens included), `decode_context`
        (the same without them; 0 without decoding sequences).

    Raises InputError: lengths differ, a column is missing, a value is impossible.
    """
    if len(frames) != len(drafter_loaded):
        raise InputError(f"{len(frames)} step tables, but drafter_loaded says so of {len(drafter_loaded)}")
    if block_size < 1:
        raise InputError(f"block_size is {block_size}; it must be at least 1 token")
    checked = [_checked(frame, number) for number, frame in enumerate(frames)]
    slots = (
        look_ahead if look_ahead is not None else max((f["k"].max() for f in checked if len(f)), default=0)
    )
    found = [_columns_of(_checked(_EMPTY, 0), False, block_size, 0.0).assign(pause=0.0)]
    for number, (frame, loaded) in enumerate(zip(checked, drafter_loaded, strict=True)):
        if not loaded and frame["k"].any():
            raise InputError(
                f"step table {number} verifies drafts (K up to {frame['k'].max():.0f}) without a drafter"
            )
        rows = _columns_of(frame, loaded, block_size, slots if loaded else 0.0)
        pause = _pause(frame)
        follows = np.nan_to_num(pause, nan=np.inf) <= np.maximum(BREAK_S, BREAK_SHARE * frame["seconds"])
        after = np.maximum(pause[follows], 0.0)
        rows["pause"] = after.mean() if len(after) else 0.0
        rows.loc[follows, "pause"] = after
        rows["seconds"] += rows["pause"]
        usable = (rows["tokens"] > 0) & (rows["passes"].notna() & follows if loaded else True)
        found.append(rows[usable].assign(frame=float(number)))
    return pd.concat([f for f in found if len(f)] or found[:1], ignore_index=True)


def _checked(frame: pd.DataFrame, number: int) -> pd.DataFrame:
    missing = [name for name in COLUMNS if name not in frame.columns]
    if missing:
        raise InputError(
            f"step table {number} lacks column {missing[0]!r}; it has {', '.join(frame.columns)}"
        )
    training = frame[TRAINING] if TRAINING in frame.columns else 0.0
    frame = frame[list(COLUMNS)].assign(training=training).astype(np.float64).reset_index(drop=True)
    for name in COLUMNS:
        low = np.finfo(float).tiny if name == "seconds" else 0.0
        bad = np.flatnonzero(~(np.isfinite(frame[name]) & (frame[name] >= low)))
        if name != "start" and len(bad):
            value = frame[name].iloc[bad[0]]
            rule = "positive" if low else "not negative"
            raise InputError(
                f"step table {number} row {bad[0]}: {name} is {value}; it must be finite and {rule}"
            )
    if not np.all(np.diff(frame["start"]) >= 0):
        raise InputError(f"step table {number} is not in order of time; start must be finite and never fall")
    return frame


_EMPTY = pd.DataFrame({name: np.zeros(0) for name in COLUMNS})


def _columns_of(f: pd.DataFrame, loaded: bool, block_size: int, slots: float) -> pd.DataFrame:
    decode, prefill = f["batch"] * (1 + f["k"]), f["prefill_tokens"]
    # Prompts that ended in this step: each gave one token, every decoding sequence 1 + accepted.
    ended = (f["output_tokens"] - f["batch"] - f["accepted"]).clip(0.0, (f["running"] - f["batch"]).clip(0.0))
    spare = f["running"] * ((block_size - 1) / 2 + slots)
    # A live log counts running requests and their blocks after those that ended gave theirs back.
    gone = (f["batch"] / f["running"].clip(1.0)).clip(1.0)
    context = ((f["kv_blocks"] * block_size - spare - decode / gone) * gone).clip(lower=prefill)
    following = f[["batch", "k"]].shift(-1)
    return pd.DataFrame(
        {
            "frame": 0.0,
            "start": f["start"],
            "training": f[TRAINING],
            "loaded": float(loaded),
            "seconds": f["seconds"],
            "batch": f["batch"],
            "k": f["k"],
            "passes": following["k"].where(following["batch"] > 0) if loaded else 0.0,
            "tokens": decode + prefill,
            "prefill": prefill,
            "rows": decode + ended.where(prefill > 0, 0.0),
            "context": context,
            "decode_context": (context - prefill).where(f["batch"] > 0, 0.0),
        },
        dtype=np.float64,
        index=f.index,
    )


def _pause(f: pd.DataFrame) -> np.ndarray:
    """float64[steps]: seconds from each step's end to the next one's start; NaN for the last."""
    return (f["start"].shift(-1) - f["start"] - f["seconds"]).to_numpy(np.float64)
