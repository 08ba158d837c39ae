"""Steps of a model from its kernels: what a layer runs, how often, and what was not measured.

A step is `layers` times (two norms, qkv, rotary with KV write, attention, o, gate-up, SwiGLU, down), plus
embedding, final norm, LM head and sampler. A draft pass is one layer whose attention input is 2 x hidden,
the fusion of three hidden states when it follows a verify step, and the LM head of the pruned vocabulary.
All sizes are those of one rank; the all-reduce of several is analytic. Nothing here is padded.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from harness.errors import InputError, MissingPart
from harness.latency.kernels import Dims, Kernels
from harness.latency.roofline import all_reduce_s
from harness.latency.rows import pairs
from harness.latency.specs import ModelShape, assumed

SAMPLER_K = 4
"""The rejection kernel of plain rows is asked for at this K: it moves token ids only."""


@dataclass(frozen=True, slots=True)
class Rank:
    """Sizes of one of `tp` ranks."""

    shape: ModelShape
    tp: int

    def __post_init__(self) -> None:
        s = self.shape
        if s.experts:
            raise InputError(f"{s.name} is a mixture of experts; kernel rows hold dense layers only")
        if self.tp < 1 or any(size % self.tp for size in (s.heads, s.kv_heads, s.intermediate, s.vocab)):
            raise InputError(f"tp{self.tp} does not divide the {s.kv_heads} KV heads of {s.name}")

    @property
    def heads(self) -> Dims:
        s = self.shape
        return {"q_heads": s.heads // self.tp, "kv_heads": s.kv_heads // self.tp, "head_dim": s.head_dim}

    def matrices(self, draft: bool = False) -> list[Dims]:
        """(n, k) of a layer's projections; a draft head's first reads 2 x hidden."""
        s, tp = self.shape, self.tp
        wide = s.head_dim * (s.heads + 2 * s.kv_heads) // tp
        own, inner = s.head_dim * s.heads // tp, s.intermediate // tp
        sizes = [(wide, s.hidden * (1 + draft)), (s.hidden, own), (2 * inner, s.hidden), (s.hidden, inner)]
        return [{"n": n, "k": k} for n, k in sizes]


class Composition:
    """Seconds of the parts of a step, each at any size (float64 arrays).

    `analytic` names the operations without rows, `converted` those taken from another model's sizes.
    Raises MissingPart where a matrix or attention of the model cannot be had from the rows.
    """

    def __init__(self, kernels: Kernels, rank: Rank) -> None:
        self.kernels, self.rank = kernels, rank
        self.analytic: set[str] = set()
        self.converted: set[str] = set()
        name, source = rank.shape.name, kernels.rows.name
        for dims in rank.matrices():
            if not kernels.has("gemm", dims):
                raise MissingPart(f"{source} has no rows of the {dims['n']} x {dims['k']} matrix of {name}")
        self._attention, self._scale = self._heads("attention")
        has_prompts = "prefill" in kernels.rows.tables
        self._prompts = self._heads("prefill")[0] if has_prompts else None

    def _heads(self, op: str) -> tuple[Dims, float]:
        """Heads to ask `op` for, and by how much the batch grows when they are another model's.

        b sequences with 8 KV heads are asked for as 2b with 4: the same bytes in as many parts.
        """
        wanted = self.rank.heads
        if self.kernels.has(op, wanted):
            return wanted, 1.0
        table = self.kernels.rows.tables.get(op)
        if table is not None:
            table = table[table["head_dim"] == wanted["head_dim"]]
            if len(table):
                off = np.abs(table["q_heads"].to_numpy(float) - wanted["q_heads"])
                row = table.iloc[int(off.argmin())]
                found: Dims = {name: float(row[name]) for name in wanted}
                self.converted.add(f"{op} from {found['q_heads']:.0f}/{found['kv_heads']:.0f} heads")
                return found, float(wanted["kv_heads"]) / float(row["kv_heads"])
        raise MissingPart(
            f"{self.kernels.rows.name} has no {op} rows for the heads of {self.rank.shape.name}"
        )

    def _price(self, op: str, dims: Dims, **steps: np.ndarray) -> np.ndarray:
        if self.kernels.has(op, dims):
            return self.kernels.us(op, dims, **steps)
        self.analytic.add(op)
        return self.kernels.analytic_us(op, dims, **steps)

    def _layer_us(self, rows: np.ndarray, draft: bool = False) -> np.ndarray:
        """Everything of a layer but attention; a draft head has one norm more."""
        s = self.rank.shape
        total = (2 + draft) * self._price("rmsnorm", {"hidden": s.hidden}, rows=rows)
        for dims in self.rank.matrices(draft):
            total = total + self._price("gemm", dims, m=rows)
        total = total + self._price("rotary", self.rank.heads | {"qk_norm": float(s.qk_norm)}, tokens=rows)
        return total + self._price("swiglu", {"intermediate": s.intermediate // self.rank.tp}, rows=rows)

    def reduced_s(self, rows: np.ndarray) -> np.ndarray:
        """Two all-reduces of a layer, analytic: in no other part, as profiles hold one rank's own work."""
        gpu = self.kernels.rows.gpu
        if self.rank.tp == 1 or gpu is None:
            return np.zeros(len(rows))
        return 2 * all_reduce_s(rows, self.rank.shape.hidden, gpu, self.rank.tp)

    def layer_s(self, rows: np.ndarray) -> np.ndarray:
        """One layer without its attention."""
        return self._layer_us(rows) * 1e-6

    def tokens_s(self, rows: np.ndarray) -> np.ndarray:
        """Embedding, layers without attention, final norm."""
        s = self.rank.shape
        once = self._price("rmsnorm", {"hidden": s.hidden}, rows=rows)
        once = once + self._price("embedding", {"hidden": s.hidden}, tokens=rows)
        return s.layers * self.layer_s(rows) + once * 1e-6

    def attention_s(self, query: np.ndarray, batch: np.ndarray, context: np.ndarray) -> np.ndarray:
        """Decoding attention of all layers; `context` counts the query tokens too."""
        us = self.kernels.us(
            "attention", self._attention, batch=batch * self._scale, query_tokens=query, context=context
        )
        return self.rank.shape.layers * us * 1e-6

    def measured_attention(self, size: str) -> np.ndarray:
        """Values of `size` at which the attention of these heads was measured (batches as this model's)."""
        found = self.kernels.measured("attention", self._attention, size)
        return np.unique(np.ceil(found / self._scale)) if size == "batch" else found

    def measured_prompts(self, size: str) -> np.ndarray:
        """Values of `size` at which the prompt attention of these heads was measured; 0 if it was not."""
        return np.zeros(1) if self._prompts is None else self.kernels.measured("prefill", self._prompts, size)

    def skewed(self) -> pd.DataFrame | None:
        """Measured attention over unequal contexts beside level batches, as `skew.alphas` takes it.

        The profiler's skewed batch has one sequence in `skew` long and the rest at an eighth of the mean
        (kernels/attention.py); `t_max` is a level batch at its mean plus deviation.
        """
        rows = self.kernels.rows.skewed
        if rows is None:
            return None
        own = rows[np.all([rows[name] == value for name, value in self.rank.heads.items()], axis=0)]
        if own.empty:
            return None
        query, batch, mean, s = (own[n].to_numpy(float) for n in ("query_tokens", "batch", "context", "skew"))
        short = np.maximum(query, mean // 8)
        long = mean * s - short * (s - 1)
        deviation = np.sqrt(((long - mean) ** 2 + (s - 1) * (short - mean) ** 2) / s)

        def level(context: np.ndarray) -> np.ndarray:
            return self.kernels.us(
                "attention", self._attention, batch=batch, query_tokens=query, context=context
            )

        return pd.DataFrame(
            {
                "regime": "pure",
                "n": batch,
                "t_mean_us": level(mean),
                "t_max_us": level(np.minimum(mean + deviation, long)),
                "t_skew_us": own["us"].to_numpy(float),
            }
        )

    def between(self) -> tuple[str, ...]:
        """Parts of a step (`compiled.PARTS`) that rest on another model's sizes."""
        s, k = self.rank.shape, self.kernels
        vocab = s.vocab // self.rank.tp
        head: Dims = {"vocab": vocab, "hidden": s.hidden, "top": 1.0, "mapped": 0.0}
        exact = {
            "tokens": all(k.exact("gemm", dims) for dims in self.rank.matrices()),
            "attention": k.exact("attention", self.rank.heads),
            "head": k.exact("lm_head", head) or k.exact("gemm", {"n": vocab, "k": s.hidden}),
        }
        return tuple(part for part, is_exact in exact.items() if not is_exact)

    @property
    def has_prompts(self) -> bool:
        return self._prompts is not None

    def prompt_s(self, chunk: np.ndarray, prefix: np.ndarray) -> np.ndarray:
        """Attention of one prompt chunk, all layers; a prefix nobody measured is priced by its pairs."""
        assert self._prompts is not None
        alone = np.ones(len(chunk))
        if len(self.kernels.measured("prefill", self._prompts, "prefix")) < 2:
            chunk = (np.sqrt(1 + 8 * pairs(chunk, prefix)) - 1) / 2
            prefix = np.zeros(len(chunk))
        us = self.kernels.us("prefill", self._prompts, batch=alone, chunk=chunk, prefix=prefix)
        return self.rank.shape.layers * us * 1e-6

    def head_s(self, rows: np.ndarray) -> np.ndarray:
        """LM head and sampler."""
        s = self.rank.shape
        us = self._head_us(rows, s.vocab // self.rank.tp, mapped=0.0)
        dims: Dims = {"vocab": float(s.vocab), "mode": "greedy"}
        if self.kernels.has("rejection", dims):
            batch = rows / (SAMPLER_K + 1)
            return (
                us + self.kernels.us("rejection", dims, batch=batch, k=np.full(len(rows), SAMPLER_K))
            ) * 1e-6
        return us * 1e-6 + self._sampler_s(rows)

    def _head_us(self, rows: np.ndarray, vocab: int, mapped: float) -> np.ndarray:
        hidden = self.rank.shape.hidden
        dims: Dims = {"vocab": vocab, "hidden": hidden, "top": 1.0, "mapped": mapped}
        plain: Dims = {"n": vocab, "k": hidden}
        if not self.kernels.has("lm_head", dims) and self.kernels.has("gemm", plain):
            return self.kernels.us("gemm", plain, m=rows)
        return self._price("lm_head", dims, rows=rows)

    def _sampler_s(self, rows: np.ndarray) -> np.ndarray:
        """Analytic: float32 logits touched three times, ten small kernels (as in `roofline`)."""
        if self.kernels.floors_only:
            return np.zeros(len(rows))
        self.analytic.add("sampler")
        a, logits = assumed(), rows * self.rank.shape.vocab / self.rank.tp * 4 * 3
        return logits / (self.kernels.rows.bytes_s * a.bandwidth_share) + 10 * a.small_kernel_us * 1e-6

    @property
    def has_draft(self) -> bool:
        """Whether the kernels of a draft head were measured."""
        s, k = self.rank.shape, self.kernels
        head: Dims = {"vocab": self.draft_vocab, "hidden": s.hidden, "top": 1.0, "mapped": 1.0}
        return (
            k.has("gemm", self.rank.matrices(True)[0])
            and k.has("fusion", {"hidden": s.hidden})
            and k.has("lm_head", head)
        )

    @property
    def draft_vocab(self) -> int:
        return assumed().draft_vocab // self.rank.tp

    def draft_layer_s(self, rows: np.ndarray, first: bool) -> np.ndarray:
        """A draft pass without attention, final norm and LM head; the first pass fuses hidden states."""
        us = self._layer_us(rows, draft=True)
        us = us + self._price("embedding", {"hidden": self.rank.shape.hidden}, tokens=rows)
        if first:
            us = us + self._price("fusion", {"hidden": self.rank.shape.hidden}, tokens=rows)
        return us * 1e-6

    def draft_head_s(self, rows: np.ndarray) -> np.ndarray:
        """Final norm and LM head of a draft pass, by sequences."""
        us = self._price("rmsnorm", {"hidden": self.rank.shape.hidden}, rows=rows)
        return (us + self._head_us(rows, self.draft_vocab, mapped=1.0)) * 1e-6
