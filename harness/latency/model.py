"""`LatencyModel`: what a step costs, where the answer comes from, and what lies outside it."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from harness.errors import InputError
from harness.latency.buckets import padded
from harness.latency.compiled import PARTS, CompiledLatency, equivalent_chunk, step_parts, step_seconds
from harness.latency.shape import StepShape

MEASURED, INTERPOLATED, EXTRAPOLATED = "measured", "interpolated", "extrapolated"


@dataclass(frozen=True, slots=True)
class Coverage:
    """Sizes at which measured tables have rows, by part; empty for a model without tables."""

    tokens: tuple[float, ...]
    rows: tuple[float, ...]
    attention: tuple[tuple[float, ...], ...]
    """Axes of the attention grid: chunk, prefix, sequences, context."""
    query_tokens: tuple[float, ...] = (1.0,)
    """Query tokens per sequence at which attention was measured."""
    experts: tuple[float, ...] = ()
    """Tokens per rank of the expert table."""
    ep: int = 1
    converted: tuple[str, ...] = ()
    """Parts composed of another model's sizes: interpolated at best."""

    def basis(self, shape: StepShape) -> dict[str, str]:
        """Where each part's value for `shape` comes from."""
        prefix, seqs = shape.prefill_kv, shape.decode_seqs
        chunk = equivalent_chunk(shape.prefill_pairs, prefix)
        at = (chunk, prefix, float(seqs), shape.kv_sum / seqs if seqs else self.attention[3][0])
        attention = _worst([_place(axis, value) for axis, value in zip(self.attention, at, strict=True)])
        verified = float(shape.query_tokens) in self.query_tokens
        if attention == MEASURED and (not verified or shape.prefill_seqs > 1):
            attention = INTERPOLATED
        found = {
            "tokens": _place(self.tokens, float(padded(np.array([shape.tokens]))[0])),
            "attention": attention,
            "head": _place(self.rows, shape.sampled_rows),
        }
        if self.experts:
            found["experts"] = _place(self.experts, (shape.expert_tokens or shape.tokens) / self.ep)
        return found | {part: _worst([INTERPOLATED, found[part]]) for part in self.converted}


def _place(axis: tuple[float, ...], value: float) -> str:
    if value == 0 or any(abs(value - known) < 1e-6 for known in axis):
        return MEASURED
    return INTERPOLATED if axis[0] <= value <= axis[-1] else EXTRAPOLATED


def _worst(found: list[str]) -> str:
    return max(found, key=(MEASURED, INTERPOLATED, EXTRAPOLATED).index)


@dataclass(frozen=True, slots=True)
class Prediction:
    """Seconds of one step by part, and what each rests on."""

    seconds: float
    parts: dict[str, float]
    basis: dict[str, str]
    """Per part: measured, interpolated, extrapolated, none (costs nothing), or the model's own source."""
    note: str


@dataclass(frozen=True, eq=False)
class LatencyModel:
    """A named cost model. `compiled` with `compiled.step_seconds` is the fast path, with the same numbers.

    Invariant: no part falls when the step grows (more tokens, longer contexts, more sequences at or above
    the mean context), and none lies under the roofline floor where the GPU's specification is known.
    """

    name: str
    source: str
    """`measured kernels`, `published fit`, `analytic roofline`, ..."""
    note: str
    """One sentence for every output: what the numbers come from."""
    provenance: dict[str, str]
    """Each input: measured, fitted, published or assumed, and its source."""
    compiled: CompiledLatency
    max_k: int
    max_tokens: int
    """Largest number of tokens in a step it can answer."""
    kv_capacity_tokens: int | None
    """Default KV cache, from memory minus weights; None where unknown."""
    has_drafter: bool
    """Whether draft passes have a price here."""
    part_source: dict[str, str] = field(default_factory=dict)
    """What a part rests on where that is not `source`."""
    coverage: Coverage | None = None
    interference: float = 1.0
    """Factor on a step while a trainer works on the server's cores, as measured there; 1: none, or not known."""

    def predict(self, shape: StepShape) -> float:
        """Seconds of one step. Raises InputError for a K or a step larger than the model can answer."""
        self.check(shape)
        return float(step_seconds(self.compiled, shape.vector()))

    def explain(self, shape: StepShape) -> Prediction:
        """The same seconds by part, and what each part rests on. Raises as `predict`."""
        self.check(shape)
        parts = dict(zip(PARTS, step_parts(self.compiled, shape.vector()).tolist(), strict=True))
        basis = {part: self.part_source.get(part, self.source) for part in PARTS}
        if self.coverage is not None:
            basis |= self.coverage.basis(shape)
        basis |= {part: "none" for part, seconds in parts.items() if seconds == 0.0}
        return Prediction(sum(parts.values()), parts, basis, self.note)

    def check(self, shape: StepShape) -> None:
        """Raise InputError unless the model can answer `shape`."""
        k = max(shape.query_tokens - 1, shape.draft_passes)
        if k > self.max_k:
            why = "" if self.has_drafter else " (it has no price for draft passes)"
            raise InputError(f"K = {k} exceeds the largest K of latency model {self.name}, {self.max_k}{why}")
        if shape.drafter_loaded and not self.has_drafter:
            raise InputError(f"latency model {self.name} has no drafter, but the step says one is loaded")
        if shape.tokens > self.max_tokens:
            raise InputError(
                f"a step of {shape.tokens} tokens exceeds the {self.max_tokens} that latency model "
                f"{self.name} can answer"
            )
        if not np.all(np.isfinite(shape.vector())) or (shape.vector() < 0).any():
            raise InputError(f"step shape {shape} must hold finite sizes that are not negative")
