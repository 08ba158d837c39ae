"""Paged attention of decode and verify steps: 1 to 16 query tokens per sequence over its paged KV.

The K + 1 query tokens of a sequence, times the query heads that share a KV head, are the rows of
one tile, so the KV is read once however many tokens are verified. Each sequence's KV is cut into
chunks of equal length (not into equal numbers of parts): a long sequence in a skewed batch gets
more programs, not slower ones. A second kernel merges the chunks by their log-sum-exp (the
FlashDecoding scheme, Dao et al. 2023). Query tokens are causal, or follow a tree given as bit masks.
"""

# Kernel arguments are Triton values, without Python types.
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from kernels.common import Cost, Inputs, Op, cdiv, chip_of, launch, multiprocessors, pow2, randn
from kernels.models import Model

PAGE = 16
LOG2E = 1.4426950408889634


@dataclass(frozen=True, slots=True)
class AttentionShape:
    batch: int
    query_tokens: int
    """1 + K, the same for every sequence; their KV is already in the cache."""
    context: int
    """Mean tokens of KV per sequence, query tokens included."""
    q_heads: int
    kv_heads: int
    head_dim: int = 128
    skew: int = 1
    """Longest over mean context: one sequence in `skew` has nearly all the tokens, the others few."""
    tree: bool = False

    def lengths(self) -> list[int]:
        """KV tokens of each sequence: every `skew`-th long, the rest 1/8 of the mean, same total."""
        if self.skew == 1:
            return [self.context] * self.batch
        short = max(self.query_tokens, self.context // 8)
        long = self.context * self.skew - short * (self.skew - 1)
        return [long if i % self.skew == 0 else short for i in range(self.batch)]


@dataclass(frozen=True, slots=True)
class AttentionConfig:
    chunk: int
    """KV tokens per program, a multiple of `bn`."""
    bn: int
    warps: int
    stages: int


TILES = {16: (32, 4, 7), 32: (32, 4, 7), 64: (64, 4, 3), 128: (64, 8, 3)}
"""Rows of a tile: (KV tokens per iteration, warps, stages)."""
PARTS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128)
"""Chunks that the longest sequence may be cut into."""


def config(
    rows: int, kv_heads: int, lengths_sum: int, lengths_max: int, batch: int, sms: int
) -> AttentionConfig:
    """The committed configuration: the chunk length that fills the chip with the least waste."""
    bn, warps, stages = TILES[pow2(rows, 16)]
    slots, level = 2 * sms, lengths_sum == batch * lengths_max
    candidates = {cdiv(cdiv(lengths_max, parts), bn) * bn for parts in PARTS}

    def time(chunk: int) -> float:
        each = cdiv(lengths_max, chunk) if level else max(1.0, lengths_sum / batch / chunk + 0.5)
        programs = kv_heads * batch * each
        merge = 0 if chunk >= lengths_max else 256 + 4 * cdiv(lengths_max, chunk)
        return cdiv(int(programs), slots) * (chunk + 96) + merge

    return AttentionConfig(min(sorted(candidates, reverse=True), key=time), bn, warps, stages)


@triton.jit(do_not_specialize=["query_tokens", "chunk", "chunks"])
def attention_kernel(
    q, k_cache, v_cache, block_table, lengths, tree, out, part, lse, scale,
    query_tokens, table_stride, chunk, chunks,
    KV_HEADS: tl.constexpr, GROUP: tl.constexpr, D: tl.constexpr, PAGE: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, SPLIT: tl.constexpr, TREE: tl.constexpr,
):  # fmt: skip
    split, kv_head, seq = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    length = tl.load(lengths + seq)
    start = split * chunk
    stop = min(length, start + chunk)
    if SPLIT and start >= stop:
        return

    row = tl.arange(0, BM)
    token = row // GROUP
    head = kv_head * GROUP + row % GROUP
    valid = token < query_tokens
    d = tl.arange(0, D)
    q_row = (seq * query_tokens + token).to(tl.int64) * (KV_HEADS * GROUP) + head
    qs = tl.load(q + q_row[:, None] * D + d[None, :], mask=valid[:, None], other=0.0)
    first = length - query_tokens  # position of the first query token
    if TREE:
        allowed = tl.load(tree + seq * query_tokens + token, mask=valid, other=0)

    highest = tl.full([BM], float("-inf"), tl.float32)
    total = tl.zeros([BM], tl.float32)
    acc = tl.zeros([BM, D], tl.float32)
    for n in range(start, stop, BN):
        position = n + tl.arange(0, BN)
        inside = position < stop
        page = tl.load(block_table + seq * table_stride + position // PAGE, mask=inside, other=0)
        slot = (page.to(tl.int64) * PAGE + position % PAGE) * KV_HEADS + kv_head
        address = slot[:, None] * D + d[None, :]
        k = tl.load(k_cache + address, mask=inside[:, None], other=0.0)
        scores = tl.dot(qs, k.T, input_precision="ieee") * scale
        if TREE:
            ahead = position - first
            bit = (allowed[:, None] >> tl.minimum(tl.maximum(ahead, 0), 31)[None, :]) & 1
            seen = (ahead < 0)[None, :] | (bit != 0)
        else:
            seen = position[None, :] <= (first + token)[:, None]
        scores = tl.where(seen & inside[None, :], scores, float("-inf"))
        new = tl.maximum(highest, tl.max(scores, 1))
        shift = tl.where(new == float("-inf"), 0.0, new)
        p = tl.exp2(scores - shift[:, None])
        keep = tl.exp2(highest - shift)
        total = total * keep + tl.sum(p, 1)
        v = tl.load(v_cache + address, mask=inside[:, None], other=0.0)
        acc = tl.dot(p.to(v.dtype), v, acc * keep[:, None], input_precision="ieee")
        highest = new

    acc = acc / tl.where(total > 0, total, 1.0)[:, None]
    if SPLIT:
        cell = q_row * chunks + split
        tl.store(part + cell[:, None] * D + d[None, :], acc, mask=valid[:, None])
        tl.store(lse + cell, highest + tl.log2(total), mask=valid)
    else:
        tl.store(out + q_row[:, None] * D + d[None, :], acc.to(out.dtype.element_ty), mask=valid[:, None])


@triton.jit(do_not_specialize=["query_tokens", "chunk", "chunks"])
def merge_kernel(
    part, lse, lengths, out, query_tokens, chunk, chunks,
    D: tl.constexpr, CHUNKS: tl.constexpr, STEP: tl.constexpr,
):  # fmt: skip
    """out[row, head] = sum over its chunks, weighted by their share of the softmax total."""
    row, head = tl.program_id(0), tl.program_id(1)
    active = tl.cdiv(tl.load(lengths + row // query_tokens), chunk)
    cell = (row.to(tl.int64) * tl.num_programs(1) + head) * chunks
    d = tl.arange(0, D)
    c = tl.arange(0, CHUNKS)
    logs = tl.load(lse + cell + c, mask=c < active, other=float("-inf"))
    highest = tl.max(logs, 0)
    highest = tl.where(highest == float("-inf"), 0.0, highest)
    total = tl.sum(tl.exp2(logs - highest), 0)
    acc = tl.zeros([D], tl.float32)
    for i in range(0, active, STEP):
        s = i + tl.arange(0, STEP)
        weight = tl.exp2(tl.load(lse + cell + s, mask=s < active, other=float("-inf")) - highest)
        values = tl.load(part + (cell + s)[:, None] * D + d[None, :], mask=(s < active)[:, None], other=0.0)
        acc += tl.sum(weight[:, None] * values, 0)
    acc = acc / tl.where(total > 0, total, 1.0)
    tl.store(out + (row.to(tl.int64) * tl.num_programs(1) + head) * D + d, acc.to(out.dtype.element_ty))


def attention(
    q: torch.Tensor,  # [batch * query_tokens, q_heads, head_dim]
    k_cache: torch.Tensor,  # [pages, PAGE, kv_heads, head_dim]
    v_cache: torch.Tensor,  # like k_cache
    block_table: torch.Tensor,  # int32[batch, pages per sequence]
    lengths: torch.Tensor,  # int32[batch], KV tokens, query tokens included
    lengths_sum: int,
    lengths_max: int,
    tree: torch.Tensor | None = None,  # int32[batch, query_tokens]: bit j = may see query token j
    cfg: AttentionConfig | None = None,
) -> torch.Tensor:
    """Attention of each query token over its sequence's KV -> like q.

    `lengths_sum` and `lengths_max` (known to the scheduler) only choose the split and must bound
    the lengths. A sequence of length 0 (padding of a CUDA graph) gives zeros.
    """
    batch = lengths.shape[0]
    tokens, q_heads, dim = q.shape
    kv_heads, page = k_cache.shape[2], k_cache.shape[1]
    query_tokens, group = tokens // batch, q_heads // kv_heads
    bm = pow2(query_tokens * group, 16)
    if bm > max(TILES):
        raise ValueError(f"{query_tokens} query tokens x {group} heads exceed a tile of {max(TILES)} rows")
    cfg = cfg or config(query_tokens * group, kv_heads, lengths_sum, lengths_max, batch, multiprocessors(q))
    chunks, chip = cdiv(lengths_max, cfg.chunk), chip_of(q)
    out = torch.empty_like(q)
    cells = (tokens * q_heads * chunks,) if chunks > 1 else (1,)
    lse = torch.empty(cells, dtype=torch.float32, device=q.device)
    part = torch.empty((cells[0], dim) if chunks > 1 else (1,), dtype=torch.float32, device=q.device)
    launch(
        attention_kernel,
        (chunks, kv_heads, batch),
        q, k_cache, v_cache, block_table, lengths, lengths if tree is None else tree, out, part, lse,
        dim**-0.5 * LOG2E, query_tokens, block_table.stride(0), cfg.chunk, chunks,
        KV_HEADS=kv_heads, GROUP=group, D=dim, PAGE=page,
        BM=bm, BN=cfg.bn, SPLIT=chunks > 1, TREE=tree is not None,
        num_warps=cfg.warps if chip.wgmma or bm < 64 else 8, num_stages=min(cfg.stages, chip.stages),
    )  # fmt: skip
    if chunks > 1:
        launch(
            merge_kernel,
            (tokens, q_heads),
            part, lse, lengths, out, query_tokens, cfg.chunk, chunks,
            D=dim, CHUNKS=pow2(chunks, 64), STEP=8, num_warps=1, num_stages=1,
        )  # fmt: skip
    return out


def run(**kwargs: object) -> tuple[torch.Tensor]:
    return (attention(**kwargs),)  # type: ignore[arg-type]


def reference(
    q: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    block_table: torch.Tensor,
    lengths: torch.Tensor,
    lengths_sum: int,
    lengths_max: int,
    tree: torch.Tensor | None = None,
) -> tuple[torch.Tensor]:
    """Sequence by sequence, the softmax written out in fp64."""
    batch = lengths.shape[0]
    dim, page = q.shape[2], k_cache.shape[1]
    queries = q.double().view(batch, -1, *q.shape[1:])
    group = q.shape[1] // k_cache.shape[2]
    out = torch.zeros_like(queries)
    for b, length in enumerate(lengths.tolist()):
        pages = block_table[b, : cdiv(length, page)].long()
        k, v = (
            c[pages].flatten(0, 1)[:length].double().repeat_interleave(group, 1) for c in (k_cache, v_cache)
        )
        scores = torch.einsum("qhd,nhd->hqn", queries[b], k) * dim**-0.5
        scores = scores.masked_fill(
            ~_seen(queries.shape[1], length, None if tree is None else tree[b], q), -torch.inf
        )
        out[b] = torch.einsum("hqn,nhd->qhd", scores.softmax(-1), v)
    return (out.view_as(q),)


def _seen(query_tokens: int, length: int, bits: torch.Tensor | None, like: torch.Tensor) -> torch.Tensor:
    """bool[query_tokens, length]: which position a query token attends to."""
    position = torch.arange(length, device=like.device)
    ahead = position - (length - query_tokens)
    if bits is None:
        return ahead[None, :] <= torch.arange(query_tokens, device=like.device)[:, None]
    return (ahead < 0)[None, :] | (((bits[:, None] >> ahead.clamp_min(0)[None, :]) & 1) != 0)


def inputs(shape: AttentionShape, device: str, dtype: torch.dtype, seed: int) -> Inputs:
    """Pages in random order, two spare ones at each sequence's end filled with NaN, as are unused slots."""
    lengths = shape.lengths()
    per_seq = cdiv(max(lengths), PAGE)
    used = [cdiv(length, PAGE) for length in lengths]
    pages = sum(used) + 2
    cache = (pages, PAGE, shape.kv_heads, shape.head_dim)
    k, v = randn(cache, device, dtype, seed), randn(cache, device, dtype, seed + 1)
    table = torch.zeros((shape.batch, per_seq), dtype=torch.int32)
    order = torch.randperm(pages, generator=torch.Generator().manual_seed(seed))
    spare, order = order[:2], order[2:].split(used)
    for b, own in enumerate(order):
        table[b, : used[b]] = own
        table[b, used[b] :] = int(spare[0])
    if device != "meta":
        k[spare.to(device)] = v[spare.to(device)] = float("nan")
        for b, length in enumerate(lengths):
            if length % PAGE:
                k[int(order[b][-1]), length % PAGE :] = v[int(order[b][-1]), length % PAGE :] = float("nan")
    tokens = shape.batch * shape.query_tokens
    return {
        "q": randn((tokens, shape.q_heads, shape.head_dim), device, dtype, seed + 2),
        "k_cache": k,
        "v_cache": v,
        "block_table": table.to(device),
        "lengths": torch.tensor(lengths, dtype=torch.int32, device=device),
        "lengths_sum": sum(lengths),
        "lengths_max": max(lengths),
        "tree": tree_masks(shape.batch, shape.query_tokens).to(device) if shape.tree else None,
    }


def tree_masks(batch: int, query_tokens: int) -> torch.Tensor:
    """int32[batch, query_tokens] of a binary tree, j under (j - 1) // 2; each sees its ancestors."""
    bits = [1]
    for j in range(1, query_tokens):
        bits.append(bits[(j - 1) // 2] | 1 << j)
    return torch.tensor([bits] * batch, dtype=torch.int32)


def cost(shape: AttentionShape) -> Cost:
    """4 * query_tokens * q_heads * head_dim per KV token; K and V read once, cold; q and out warm."""
    kv = sum(shape.lengths())
    queries = shape.batch * shape.query_tokens * shape.q_heads * shape.head_dim
    flops = 4.0 * shape.query_tokens * shape.q_heads * shape.head_dim * kv
    return Cost(flops, 2.0 * 2 * kv * shape.kv_heads * shape.head_dim, 2.0 * 2 * queries)


BATCHES = (64, 1, 128, 8, 32, 256)
QUERIES = (1, 5, 8, 4, 2, 16)
CONTEXTS = (4096, 1024, 16384, 256)
MAX_KV_BYTES = 24e9


def shapes(model: Model) -> list[AttentionShape]:
    """The grid, then skewed batches and trees; what exceeds MAX_KV_BYTES is left out."""
    heads = (model.q_heads, model.kv_heads, model.head_dim)
    grid = [AttentionShape(b, q, c, *heads) for c in CONTEXTS for q in QUERIES for b in BATCHES]
    special = [
        AttentionShape(b, q, c, *heads, skew=8) for c in (4096, 1024) for q in (1, 5) for b in (16, 64, 128)
    ]
    special += [AttentionShape(b, 8, 4096, *heads, tree=True) for b in (1, 16, 64)]
    return [s for s in special + grid if cost(s).cold_bytes < MAX_KV_BYTES]


def specimens() -> list[AttentionShape]:
    """Each row tile with and without a split, a tree, both group sizes."""
    split = [AttentionShape(1, q, 4096, 32, 8) for q in (1, 5, 16)] + [AttentionShape(1, 16, 4096, 64, 8)]
    whole = [AttentionShape(256, q, 256, 32, 8) for q in (1, 5, 16)] + [AttentionShape(256, 16, 256, 64, 8)]
    return [*split, *whole, AttentionShape(64, 8, 4096, 32, 8, tree=True), AttentionShape(64, 8, 4096, 8, 1)]


SPOT = 8
"""Sequences that `spot_check` compares."""


def spot_check(op: Op, inputs: Inputs) -> float:
    """The error of a launch over the whole batch, on its first SPOT sequences and its last."""
    batch = len(inputs["lengths"])
    chosen = sorted({*range(min(SPOT, batch)), batch - 1})
    out = op.run(**inputs)[0]
    per = len(out) // batch
    rows = [b * per + i for b in chosen for i in range(per)]
    few = dict(inputs, q=inputs["q"][rows], block_table=inputs["block_table"][chosen])
    few["lengths"] = inputs["lengths"][chosen]
    few["tree"] = None if inputs["tree"] is None else inputs["tree"][chosen]
    return op.error(few, (out[rows],), op.reference(**few))


OP = Op(
    "attention", inputs, run, reference, cost, shapes, specimens, ("k_cache", "v_cache"), check=spot_check
)
