"""The terms of a recorded step: non-negative weights of them make a monotone `CompiledLatency`.

    step = gap + tokens(T) + head * rows + kv * context
         + [drafter loaded] idle(T) + [P >= 1] once + P each(B) + (P - 1) next(B) + P draft_kv * context

T tokens, B decoding sequences, P draft passes; each function is linear between `knots` and rises by a
weight from one to the next. Terms that the log cannot tell apart are not both in (`drafting`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pandas as pd

from harness.latency.compiled import CompiledLatency, Grid, nothing

FINE, COARSE = 2, 4
"""Ratio of one knot to the next: in tokens, and of the drafter's parts."""
FEWEST, FEWEST_SHARE = 20, 0.005
"""Steps, and share of all steps, that must lie between two knots, or have a K that is taken as seen."""


@dataclass(frozen=True, eq=False)
class Basis:
    """Which terms there are. Knots are whole sizes; a single one means that the size never changed."""

    tokens: np.ndarray
    draft_tokens: np.ndarray
    sequences: np.ndarray
    drafting: tuple[str, ...]
    """Of `idle`, `once`, `each`, `next`: those that the log can tell apart."""
    passes: tuple[int, ...]
    """Draft passes per step with a drafter loaded that were seen often enough to count."""

    def columns(self, s: pd.DataFrame) -> Iterator[tuple[str, np.ndarray]]:
        """(term, float64[steps]) of every weight for rows of `recorded_steps.step_rows`, one at a time."""
        tokens, batch, passes = (s[name].to_numpy() for name in ("tokens", "batch", "passes"))
        yield "gap", np.ones(len(s))
        yield from _named("tokens", ramps(tokens, self.tokens), 1.0)
        yield "head", s["rows"].to_numpy()
        yield "kv", s["context"].to_numpy()
        if "idle" in self.drafting:
            loaded = s["loaded"].to_numpy()
            yield "idle", loaded
            yield from _named("idle", ramps(tokens, self.draft_tokens), loaded)
        if "once" in self.drafting:
            yield "once", np.minimum(passes, 1.0)
        for term, times in (("each", passes), ("next", np.maximum(passes - 1.0, 0.0))):
            if term in self.drafting:
                yield term, times
                yield from _named(term, ramps(batch, self.sequences), times)
        if "each" in self.drafting:
            yield "draft_kv", passes * s["decode_context"].to_numpy()

    def compiled(self, terms: list[str], weights: np.ndarray) -> CompiledLatency:
        """The tables of these weights, `terms` naming each."""
        of = {term: weights[[t == term for t in terms]] for term in dict.fromkeys(terms)}
        idle = of.get("idle")
        idle_s = nothing() if idle is None else table(idle[0], idle[1:], self.draft_tokens)
        return CompiledLatency(
            token_s=table(0.0, of["tokens"] if "tokens" in of else np.zeros(0), self.tokens),
            expert_s=nothing(),
            head_s=np.array([0.0, of["head"][0]]),
            draft_first_s=idle_s + (of["once"][0] if "once" in of else 0.0),
            draft_next_s=self._by_sequences(of.get("next")),
            draft_head_s=self._by_sequences(of.get("each")),
            draft_idle_s=idle_s,
            draft_kv_s=float(of["draft_kv"][0]) if "draft_kv" in of else 0.0,
            **Grid()._asdict(),
            attn_fixed_s=0.0,
            kv_s=float(of["kv"][0]),
            query_key_s=0.0,
            prefix_s=float(of["kv"][0]),
            pair_s=0.0,
            skew_pure=np.zeros(1),
            skew_mixed=np.zeros(1),
            gap_s=float(of["gap"][0]),
        )

    def _by_sequences(self, weights: np.ndarray | None) -> np.ndarray:
        return nothing() if weights is None else table(weights[0], weights[1:], self.sequences)


def basis_of(steps: pd.DataFrame) -> Basis:
    """Knots where there are steps enough, and the drafting terms that these steps can tell apart."""
    loaded = steps[steps["loaded"] > 0]
    drafts = loaded[loaded["passes"] > 0]
    seen, count = np.unique(loaded["passes"].to_numpy(), return_counts=True)
    passes = tuple(int(p) for p in seen[count >= _few(len(loaded))])
    return Basis(
        tokens=knots(steps["tokens"], FINE),
        draft_tokens=knots(loaded["tokens"], COARSE) if len(loaded) else np.zeros(1),
        sequences=knots(drafts["batch"], COARSE) if len(drafts) else np.zeros(1),
        drafting=_drafting(passes, told_apart=0 < len(loaded) < len(steps)),
        passes=passes,
    )


def _drafting(passes: tuple[int, ...], told_apart: bool) -> tuple[str, ...]:
    """Without steps of another kind to tell it from, a cost goes where it makes no step cheaper than seen."""
    terms = ("idle",) if told_apart else ()
    if 0 in passes:
        return terms + {1: (), 2: ("each",)}.get(len(passes), ("once", "each", "next"))
    return (*terms, "each") if len(passes) > 1 else terms


def knots(sizes: pd.Series, ratio: int) -> np.ndarray:
    """float64: the smallest size, then in steps of `ratio` to the largest, leaving out gaps with few steps."""
    ordered = np.sort(sizes.to_numpy(np.float64))
    found, few, edge = [ordered[0]], _few(len(ordered)), ratio * max(ordered[0], 1.0)
    while edge < ordered[-1]:
        below, up_to = np.searchsorted(ordered, (found[-1], edge), side="right")
        if min(up_to - below, len(ordered) - up_to) >= few:
            found.append(edge)
        edge *= ratio
    return np.array(found if ordered[-1] == found[-1] else [*found, ordered[-1]])


def _few(steps: int) -> float:
    return max(FEWEST, FEWEST_SHARE * steps)


def ramps(size: np.ndarray, at: np.ndarray) -> Iterator[np.ndarray]:
    """Between each two knots a rise from 0 to 1; the last goes on rising beyond its knot."""
    for low, high in pairwise(at):
        rise = np.maximum((size - low) / (high - low), 0.0)
        yield rise if high == at[-1] else np.minimum(rise, 1.0)


def table(base: float, rises: np.ndarray, at: np.ndarray) -> np.ndarray:
    """float64[last knot + 2]: seconds by size; its last slope, which goes on beyond, is that of the last rise
    or of the last half of the sizes, whichever is steeper: a flat end is no promise of a flat continuation."""
    sizes = np.arange(int(at[-1]) + 2, dtype=np.float64)
    seconds = np.full(len(sizes), float(base))
    for rise, ramp in zip(rises, ramps(sizes, at), strict=True):
        seconds += rise * ramp
    last = len(sizes) - 2
    half = last // 2
    chord = (seconds[last] - seconds[half]) / (last - half) if last > half else 0.0
    seconds[-1] = seconds[last] + max(seconds[-1] - seconds[last], chord)
    return seconds


def _named(
    term: str, columns: Iterator[np.ndarray], times: np.ndarray | float
) -> Iterator[tuple[str, np.ndarray]]:
    yield from ((term, column * times) for column in columns)
