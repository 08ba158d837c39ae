"""What a fitted model says of itself: where each part comes from, and how wrong it is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from harness.latency.compose import Composition
from harness.latency.gap import DraftGap, StepGap
from harness.latency.model import Coverage
from harness.latency.rowerror import OpError


@dataclass(frozen=True, eq=False)
class Basis:
    """What a fitted model is made of."""

    parts: Composition
    floors: Composition
    step_gap: StepGap
    """All as it starts where no whole steps were measured."""
    draft_gap: DraftGap | None
    """None without measured kernels of a draft head."""
    draft: str | None
    """`roofline` where the draft head is analytic."""
    gap: float | None
    """Seconds per step that the caller set."""
    kernel_errors: list[OpError]
    whole_errors: list[OpError]

    @property
    def has_gap(self) -> bool:
        return self.step_gap != StepGap()

    @property
    def has_drafter(self) -> bool:
        return self.draft_gap is not None or self.draft is not None


def coverage(parts: Composition) -> Coverage:
    """The sizes at which the parts were measured."""
    k, rank = parts.kernels, parts.rank
    sizes = {n: parts.measured_attention(n) for n in ("batch", "context", "query_tokens")}
    prompts = [parts.measured_prompts(n) for n in ("chunk", "prefix")]
    dims = {"vocab": rank.shape.vocab // rank.tp, "hidden": rank.shape.hidden, "top": 1.0, "mapped": 0.0}
    rows = k.measured("lm_head", dims, "rows")
    tokens = k.measured("gemm", rank.matrices()[0], "m")
    seqs = np.concatenate([[0.0], sizes["batch"]])
    return Coverage(
        tokens=tuple(tokens.tolist()),
        rows=tuple((rows if len(rows) else tokens).tolist()),
        attention=(
            *(tuple(p.tolist()) for p in prompts),
            tuple(seqs.tolist()),
            tuple(sizes["context"].tolist()),
        ),
        query_tokens=tuple(sizes["query_tokens"].tolist()),
        converted=parts.between(),
    )


def part_source(b: Basis) -> dict[str, str]:
    """What gap and draft rest on; the other parts are told by the coverage."""
    gap = "fitted on whole steps, plus assumed input preparation" if b.has_gap else "assumed"
    draft = "analytic roofline" if b.draft else "none"
    return {
        "gap": gap if b.gap is None else "set by the caller",
        "draft": draft if b.draft_gap is None else "measured kernels, plus assumed host work",
    }


def note(b: Basis) -> str:
    """One sentence for every output."""
    rows, rank = b.parts.kernels.rows, b.parts.rank
    ranks = f"{rank.tp} x " if rank.tp > 1 else ""
    said = [f"Composed from measured kernels of {rank.shape.name} on {ranks}{rows.device}"]
    said.append(f"held-out error {_percent(b.kernel_errors, 'all') or 'unknown'} by kernel")
    if (steps := _percent(b.whole_errors, "verify_step")) is not None:
        said.append(f"{steps} by whole step")
    if b.parts.converted:
        said.append("attention converted from another model's heads")
    if not b.parts.has_prompts:
        said.append("prompt attention analytic")
    if b.draft_gap is None:
        said.append("analytic (not measured) EAGLE-3 head" if b.draft else "without draft passes")
    return ", ".join(said) + "."


def _percent(errors: list[OpError], op: str) -> str | None:
    found = next((e for e in errors if e.op == op), None)
    return None if found is None else f"{100 * found.mean:.1f}%"


def provenance(b: Basis) -> dict[str, str]:
    """Each input: measured, fitted, published or assumed, and its source."""
    rows, errors = b.parts.kernels.rows, [*b.kernel_errors, *b.whole_errors]
    sheet = rows.gpu.source if rows.gpu else ""
    verified = len(b.parts.measured_attention("query_tokens")) > 1
    own_ceilings = "measured: this device's bandwidth and matrix rate"
    analytic_pairs = "analytic: assumed share of the matrix rate"
    found = {
        "kernels": rows.source,
        "held-out error": ", ".join(f"{e.op} {100 * e.mean:.1f}%" for e in errors),
        "floor": own_ceilings if rows.ceilings_measured else f"published: {sheet}",
        "verify attention": rows.source if verified else "measured decode attention, arithmetic floor",
        "prompt attention": rows.source if b.parts.has_prompts else analytic_pairs,
        "skew": rows.source if rows.skewed is not None else "none: no skewed rows, so no correction",
        "gap": _gap(b),
        "draft": _draft(b),
        "analytic, not measured": ", ".join(sorted(b.parts.analytic)) or "nothing",
        "converted from other heads": ", ".join(sorted(b.parts.converted)) or "nothing",
        "graphs": "padded to vLLM's captured batch sizes up to 512 tokens",
        "kv_capacity": "memory * 0.9 - reserve - weights" if rows.gpu else "unknown",
    }
    return found | ({"all-reduce": f"analytic: {sheet}, link assumed"} if b.parts.rank.tp > 1 else {})


def _gap(b: Basis) -> str:
    if b.gap is not None:
        return "set by the caller"
    if not b.has_gap:
        return "assumed: harness/latency/specs.toml"
    step, row = b.step_gap.step_s * 1e6, b.step_gap.row_s * 1e6
    return (
        f"fitted on whole steps: {step:.0f} us, {row:.3f} us a row, kernels times {b.step_gap.factor:.3f}; "
        "input preparation assumed (specs.toml)"
    )


def _draft(b: Basis) -> str:
    if b.draft_gap is None:
        return "analytic EAGLE-3 head" if b.draft else "none"
    return (
        f"measured kernels; fitted {b.draft_gap.pass_s * 1e6:.0f} us a pass; host work assumed (specs.toml)"
    )
