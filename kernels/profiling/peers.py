"""Peers measured beside our kernels, in the same run and on the same bytes.

Always: torch SDPA (on dense KV) and torch.matmul (cuBLAS). Where importable: FlashInfer's paged
prefill kernel and vLLM's flash attention, both on the paged cache itself. The last two are
written after their documentation and have not run here yet.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch

from kernels.attention import AttentionShape
from kernels.attention import reference as attention_reference
from kernels.common import Inputs, Op, randn, relative_error
from kernels.registry import OPS

Kernel = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
"""(q, k_cache, v_cache) -> out."""


@dataclass(frozen=True, slots=True)
class Peer:
    """`make` turns our op into the peer's; `supports` says which shapes it can do."""

    make: Callable[[Op], Op]
    supports: Callable[[Any], bool] = lambda shape: True


def _matmul(op: Op) -> Op:
    return replace(op, run=lambda x, w: (torch.matmul(x, w.T),))


def _fusion(op: Op) -> Op:
    return replace(op, run=lambda features, w: (torch.matmul(torch.cat(tuple(features), -1), w.T),))


def _head(op: Op) -> Op:
    """matmul, then argmax over the written logits (no top-k, no log-sum-exp: what greedy decoding needs)."""

    def run(x: torch.Tensor, w: torch.Tensor, top: int, d2t: Any = None) -> tuple[torch.Tensor, torch.Tensor]:
        if top != 1:
            values, ids = torch.matmul(x, w.T).topk(top)
        else:
            values, ids = torch.matmul(x, w.T).max(-1, keepdim=True)
        return (ids if d2t is None else ids + d2t[ids]), values

    def error(inputs: Inputs, out: Any, ref: Any) -> float:
        return relative_error(inputs, (out[1], ref[3].gather(1, out[0])), (ref[1], ref[1]))

    return replace(op, run=run, error=error)


def _kl(op: Op) -> Op:
    """Logits materialised in bf16, log-softmax in fp32."""

    def run(direction: str, x_s: Any, w_s: Any, x_t: Any, w_t: Any) -> tuple[torch.Tensor]:
        log_q, log_p = ((x @ w.T).float().log_softmax(-1) for x, w in ((x_s, w_s), (x_t, w_t)))
        a, b = (log_p, log_q) if direction == "forward" else (log_q, log_p)
        return ((a.exp() * (a - b)).sum(-1),)

    return replace(op, run=run)


def _sdpa(op: Op) -> Op:
    """Dense KV [batch, kv_heads, context, head_dim]; query tokens causal from the end. Equal lengths only."""

    def inputs(shape: AttentionShape, device: str, dtype: torch.dtype, seed: int) -> Inputs:
        kv = (shape.batch, shape.kv_heads, shape.context, shape.head_dim)
        q = (shape.batch, shape.q_heads, shape.query_tokens, shape.head_dim)
        made = [randn(s, device, dtype, seed + i) for i, s in enumerate((q, kv, kv))]
        return dict(zip(("q", "k_cache", "v_cache"), made, strict=True))

    def run(q: torch.Tensor, k_cache: torch.Tensor, v_cache: torch.Tensor) -> tuple[torch.Tensor]:
        from torch.nn.attention.bias import causal_lower_right

        mask = None if q.shape[2] == 1 else causal_lower_right(q.shape[2], k_cache.shape[2])
        sdpa = torch.nn.functional.scaled_dot_product_attention
        return (sdpa(q, k_cache, v_cache, attn_mask=mask, enable_gqa=True),)

    def check(op: Op, made: Inputs) -> float:
        few = {name: t[:4].contiguous() for name, t in made.items()}
        out = op.run(**made)[0][:4]
        return relative_error(made, (out,), (dense_reference(**few),))

    return replace(op, inputs=inputs, run=run, check=check)


def dense_reference(q: torch.Tensor, k_cache: torch.Tensor, v_cache: torch.Tensor) -> torch.Tensor:
    """fp64 attention on dense KV, query tokens causal from the end: [batch, q_heads, tokens, head_dim]."""
    group = q.shape[1] // k_cache.shape[1]
    k, v = (t.double().repeat_interleave(group, 1) for t in (k_cache, v_cache))
    tokens, context = q.shape[2], k.shape[2]
    seen = torch.ones(tokens, context, dtype=torch.bool, device=q.device).tril(context - tokens)
    scores = (q.double() @ k.transpose(-1, -2) * q.shape[-1] ** -0.5).masked_fill(~seen, -torch.inf)
    return scores.softmax(-1) @ v


def _paged(op: Op, call: Callable[[Inputs], Kernel]) -> Op:
    """A peer on our own paged inputs: `call(inputs)` prepares (outside the timing) and returns the kernel."""
    prepared: dict[int, Kernel] = {}

    def run(**kwargs: Any) -> tuple[torch.Tensor]:
        table = kwargs["block_table"].data_ptr()
        if table not in prepared:
            prepared.clear()
            prepared[table] = call(kwargs)
        return (prepared[table](kwargs["q"], kwargs["k_cache"], kwargs["v_cache"]),)

    return replace(op, run=run, reference=attention_reference)


def _flashinfer(op: Op) -> Op:
    def call(made: Inputs) -> Kernel:
        flashinfer = importlib.import_module("flashinfer")
        q, k, lengths = made["q"], made["k_cache"], made["lengths"]
        page = k.shape[1]
        pages = (lengths + page - 1) // page
        indptr = torch.nn.functional.pad(pages.cumsum(0), (1, 0)).to(torch.int32)
        indices = torch.cat([row[:n] for row, n in zip(made["block_table"], pages.tolist(), strict=True)])
        per = len(q) // len(lengths)
        starts = torch.arange(0, len(q) + 1, per, dtype=torch.int32, device=q.device)
        workspace = torch.zeros(256 << 20, dtype=torch.uint8, device=q.device)
        wrapper = flashinfer.BatchPrefillWithPagedKVCacheWrapper(workspace, "NHD")
        wrapper.plan(
            starts, indptr, indices, ((lengths - 1) % page + 1).to(torch.int32),
            q.shape[1], k.shape[2], q.shape[2], page, causal=True, q_data_type=q.dtype,
        )  # fmt: skip
        return lambda q, k, v: wrapper.run(q, (k, v))

    return _paged(op, call)


def _vllm(op: Op) -> Op:
    def call(made: Inputs) -> Kernel:
        flash_attn_varlen_func = importlib.import_module("vllm.vllm_flash_attn").flash_attn_varlen_func

        q, lengths = made["q"], made["lengths"]
        per = len(q) // len(lengths)
        starts = torch.arange(0, len(q) + 1, per, dtype=torch.int32, device=q.device)

        def kernel(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            return flash_attn_varlen_func(
                q=q, k=k, v=v, max_seqlen_q=per, cu_seqlens_q=starts, max_seqlen_k=made["lengths_max"],
                seqused_k=lengths, softmax_scale=q.shape[-1] ** -0.5, causal=True,
                block_table=made["block_table"],
            )  # fmt: skip

        return kernel

    return _paged(op, call)


def _dense(shape: AttentionShape) -> bool:
    return shape.skew == 1 and not shape.tree


_ALWAYS: dict[tuple[str, str], Peer] = {
    ("attention", "torch-sdpa"): Peer(_sdpa, _dense),
    ("gemm", "torch-matmul"): Peer(_matmul),
    ("lm_head", "torch-matmul"): Peer(_head),
    ("fusion", "torch-matmul"): Peer(_fusion),
    ("kl_forward", "torch-matmul"): Peer(_kl),
}
_OPTIONAL: dict[str, tuple[tuple[str, str], Peer]] = {
    "flashinfer": (("attention", "flashinfer"), Peer(_flashinfer, lambda shape: not shape.tree)),
    "vllm": (("attention", "vllm-flash-attn"), Peer(_vllm, lambda shape: not shape.tree)),
}


def present() -> dict[tuple[str, str], Peer]:
    """(op, impl) -> peer, for what can be imported here."""
    found = dict(_ALWAYS)
    for module, (name, peer) in _OPTIONAL.items():
        if importlib.util.find_spec(module) is not None:
            found[name] = peer
    return found


def variant(op: str, impl: str) -> Op:
    """The op as a peer implements it."""
    return present()[op, impl].make(OPS[op])
