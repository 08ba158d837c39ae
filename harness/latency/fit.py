"""From measured kernel rows to a `LatencyModel`: the rows of our profiler, or of a public table.

Order of work: surfaces through the rows (`kernels`), composition of a step (`compose`), gap from whole
steps (`gap`), then the arrays of `CompiledLatency`, monotone and never under the roofline floor. Without
whole steps the gap is the assumed one of `specs.toml`; with them the assumed input preparation is added to
the fitted gap, since a whole step under a CUDA graph holds none, and the assumed host work of a draft pass to
its measured kernels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from harness.errors import InputError, MissingPart
from harness.latency import describe, skew, specs
from harness.latency import gap as gaps
from harness.latency.arrays import MAX_ROWS, MAX_TOKENS, Attention, attention_grid, table
from harness.latency.buckets import padded
from harness.latency.compiled import CompiledLatency, nothing
from harness.latency.compose import Composition, Rank
from harness.latency.describe import Basis
from harness.latency.draft import MAX_SEQS, DraftTables, eagle3
from harness.latency.kernels import Floors, Kernels
from harness.latency.model import LatencyModel
from harness.latency.roofline import KERNELS_PER_LAYER, gaps_s
from harness.latency.rowerror import op_errors
from harness.latency.rows import KernelRows
from harness.latency.specs import assumed, kv_capacity

MAX_K = 16
"""Where only decode attention was measured; else the most query tokens that were, less one."""


@dataclass(frozen=True, eq=False)
class Fit:
    """A model fitted to kernel rows, and what it is made of."""

    model: LatencyModel
    of: str
    """`<model>[:tpN]` that was composed."""
    rows_name: str
    """The same as the rows of whole passes call it."""
    basis: Basis


def parse_model(text: str) -> tuple[str, int]:
    """`<model>[:tpN]` -> (model, N). Raises InputError, UnknownName."""
    name, _, split = text.partition(":")
    specs.model(name)
    if split and not (split.startswith("tp") and split[2:].isdigit() and int(split[2:]) > 0):
        raise InputError(f"model {text!r} does not read <model>[:tpN] with N >= 1")
    return name, int(split[2:]) if split else 1


def composable(rows: KernelRows) -> list[str]:
    """Models (`<model>[:tpN]`) that these rows hold matrices and attention of."""
    found = []
    for name in specs.model_names():
        for tp in (1, 2, 4, 8):
            try:
                parts = Composition(Kernels(rows), Rank(specs.model(name), tp))
            except (InputError, MissingPart):
                continue
            if not (parts.converted and rows.ceilings_measured):
                found.append(name + (f":tp{tp}" if tp > 1 else ""))
    return found


def fit(
    rows: KernelRows,
    name: str,
    model: str = "llama3-8b",
    draft: str | None = None,
    gap: float | None = None,
) -> Fit:
    """The model of `model` (`<model>[:tpN]`) on the GPU of `rows`, called `name`.

    draft: "roofline" gives rows without a draft head an analytic EAGLE-3 one. gap: seconds per step beyond
    kernels, instead of the fitted or assumed figure. Raises InputError, MissingPart, UnknownName.
    """
    spec_name, tp = parse_model(model)
    rank = Rank(specs.model(spec_name), tp)
    parts, floors = Composition(Kernels(rows), rank), Composition(Floors(rows), rank)
    _check(rows, parts, draft)
    row_name = spec_name + (f"-tp{tp}" if tp > 1 else "")
    steps = gaps.steps_of(rows.tables.get("verify_step"), row_name)
    passes = gaps.steps_of(rows.tables.get("draft_pass"), row_name)
    basis = Basis(
        parts,
        floors,
        gaps.fit_steps(parts, steps),
        gaps.fit_draft(parts, passes) if parts.has_draft else None,
        draft,
        gap,
        op_errors(rows),
        gaps.whole_errors(parts, floors, row_name),
    )
    compiled = _compile(basis, attention_grid(parts, floors, basis.step_gap.factor))
    built = LatencyModel(
        name=name,
        source="measured kernels",
        note=describe.note(basis),
        provenance=describe.provenance(basis),
        compiled=compiled,
        max_k=_max_k(basis),
        max_tokens=MAX_TOKENS,
        kv_capacity_tokens=kv_capacity(rows.gpu, rank.shape, tp) if rows.gpu else None,
        has_drafter=basis.has_drafter,
        part_source=describe.part_source(basis),
        coverage=describe.coverage(parts),
    )
    return Fit(built, model, row_name, basis)


def _check(rows: KernelRows, parts: Composition, draft: str | None) -> None:
    if draft not in (None, "roofline"):
        raise InputError(f"draft is {draft!r}; it must be None or 'roofline'")
    if draft and parts.has_draft:
        raise InputError(f"{rows.name} holds a measured draft head; draft='roofline' would replace it")
    if rows.gpu is None and (draft or parts.rank.tp > 1):
        raise MissingPart(
            f"{rows.device} is no card of specs.toml, so neither an analytic draft head nor an exchange "
            "between ranks has a price"
        )


def _max_k(b: Basis) -> int:
    if not b.has_drafter:
        return 0
    most = int(b.parts.measured_attention("query_tokens")[-1])
    return most - 1 if most > 1 else MAX_K


def _compile(b: Basis, attention: Attention) -> CompiledLatency:
    parts, floors, step_gap = b.parts, b.floors, b.step_gap
    rows, rank, a = parts.kernels.rows, parts.rank, assumed()
    sizes = np.arange(MAX_TOKENS + 1)
    at = padded(sizes).astype(np.float64)
    tokens = np.maximum(step_gap.factor * parts.tokens_s(at), floors.tokens_s(at)) + step_gap.row_s * at
    tokens = tokens + rank.shape.layers * parts.reduced_s(at)
    if not rows.launches_included:
        tokens = tokens + gaps_s(sizes, rank.shape.layers * KERNELS_PER_LAYER, a)
    heads = np.arange(MAX_ROWS + 1, dtype=np.float64)
    sampled = np.maximum(step_gap.factor * parts.head_s(heads), floors.head_s(heads))
    work = 4 * rank.shape.layers * rank.shape.heads * rank.shape.head_dim / rank.tp
    alphas = skew.alphas(parts.skewed(), attention.seqs, "pure")
    return CompiledLatency(
        token_s=table(tokens),
        expert_s=nothing(),
        head_s=table(sampled),
        **_draft(b)._asdict(),
        grid=attention.grid,
        grid_chunk=attention.chunk,
        grid_prefix=attention.prefix,
        grid_query=attention.query,
        grid_seqs=attention.seqs,
        grid_context=attention.context,
        attn_fixed_s=0.0,
        kv_s=attention.kv_s,
        query_key_s=float(work / rows.flops_s),
        prefix_s=0.0,
        pair_s=attention.pair_s,
        skew_pure=alphas,
        skew_mixed=alphas,
        gap_s=float(step_gap.step_s + a.step_gap_us * 1e-6 if b.gap is None else b.gap),
    )


def _draft(b: Basis) -> DraftTables:
    """Draft tables: measured with the fitted gap and the assumed host work of a pass, or analytic."""
    parts, draft_gap, a = b.parts, b.draft_gap, assumed()
    gpu = parts.kernels.rows.gpu
    if draft_gap is None and (b.draft is None or gpu is None):
        return DraftTables(nothing(), nothing(), nothing(), nothing(), 0.0)
    if draft_gap is None:
        assert gpu is not None
        return eagle3(parts.rank.shape, gpu, a, MAX_TOKENS, parts.rank.tp)
    each = draft_gap.pass_s + a.draft_pass_us * 1e-6
    at = padded(np.arange(MAX_TOKENS + 1)).astype(np.float64)
    few = at[: MAX_SEQS + 1]
    first = table(parts.draft_layer_s(at, True) + parts.reduced_s(at) + each)
    following = table(parts.draft_layer_s(few, False) + parts.reduced_s(few) + each)
    return DraftTables(first, following, table(parts.draft_head_s(few)), first, draft_gap.kv_s)
