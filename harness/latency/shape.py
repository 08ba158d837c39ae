"""What one engine step has to compute: the argument of every latency model.

A `StepShape` is a sufficient summary of the batch, not the batch: the context lengths enter by
their sum, sum of squares and maximum, so a skewed batch costs more than a level one.
The compiled engine fills the same numbers into a vector (`FIELDS` is its order), so simulator
and Python callers share one truth.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np


@dataclass(frozen=True, slots=True)
class StepShape:
    """One step on one rank. Token counts are whole numbers, held as floats in the vector form."""

    decode_seqs: int = 0
    """Sequences that decode (each contributes `query_tokens` rows)."""
    query_tokens: int = 1
    """1 + K: the verified drafts and the token before them."""
    kv_sum: float = 0.0
    """Sum over decoding sequences of context tokens already in KV."""
    kv_sq: float = 0.0
    """Sum of their squares."""
    kv_max: float = 0.0
    prefill_seqs: int = 0
    """Sequences with a prompt chunk in this step."""
    prefill_tokens: int = 0
    prefill_kv: float = 0.0
    """Sum over those sequences of prompt tokens computed before this step."""
    prefill_pairs: float = 0.0
    """Sum over chunks of query-key pairs: chunk * prefix + chunk * (chunk + 1) / 2."""
    sampled_rows: int = 0
    """Rows that go through the LM head: decode_seqs * query_tokens + prompts that end in this step."""
    draft_passes: int = 0
    """Draft passes run after verification (K of a chain drafter; 0 when K = 0)."""
    drafter_loaded: bool = False
    """Whether the engine carries a drafter at all; K = 0 with one loaded still costs."""
    expert_tokens: float = 0.0
    """Tokens that reach this rank's experts: all ranks' under expert parallelism; 0 means its own
    `tokens`."""

    def vector(self) -> np.ndarray:
        """float64[len(FIELDS)], in the order of `FIELDS`."""
        return np.array([getattr(self, name) for name in FIELDS], dtype=np.float64)

    @property
    def tokens(self) -> int:
        """Rows through the linear layers."""
        return self.decode_seqs * self.query_tokens + self.prefill_tokens


FIELDS: tuple[str, ...] = tuple(f.name for f in fields(StepShape))

(
    DECODE_SEQS,
    QUERY_TOKENS,
    KV_SUM,
    KV_SQ,
    KV_MAX,
    PREFILL_SEQS,
    PREFILL_TOKENS,
    PREFILL_KV,
    PREFILL_PAIRS,
    SAMPLED_ROWS,
    DRAFT_PASSES,
    DRAFTER_LOADED,
    EXPERT_TOKENS,
) = range(len(FIELDS))


def decode_shape(batch: int, k: int, context: float, drafter_loaded: bool = True) -> StepShape:
    """A decode-only step: `batch` sequences of `context` tokens each, verifying K = `k` drafts."""
    return StepShape(
        decode_seqs=batch,
        query_tokens=1 + k,
        kv_sum=batch * context,
        kv_sq=batch * context**2,
        kv_max=context,
        sampled_rows=batch * (1 + k),
        draft_passes=k,
        drafter_loaded=drafter_loaded,
    )
