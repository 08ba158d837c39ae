"""The analytic model: every kernel takes the longer of its memory traffic and its arithmetic.

t = max(bytes / (bandwidth * share), flops / (peak * share)), the roofline of Williams et al. (2009), with the
shares, kernel gaps and minimum kernel times of `specs.toml`, all assumed and none fitted to a serving run.
"""

from __future__ import annotations

import re

import numpy as np

from harness.errors import InputError
from harness.latency.buckets import CAPTURED, padded
from harness.latency.compiled import CompiledLatency, Grid, nothing
from harness.latency.draft import eagle3
from harness.latency.experts import activated
from harness.latency.model import LatencyModel
from harness.latency.specs import BYTES, Assumed, Gpu, ModelShape, assumed, gpu, kv_capacity, model

MAX_TOKENS = 16384
MAX_ROWS = 8192
MAX_K = 16
KERNELS_PER_LAYER = 10
"""qkv, rotary, KV write, attention, o, gate and up, activation, down, two norms."""
SMALL_KERNELS_PER_LAYER = 5
"""Those without a matrix: two norms, rotary, KV write, activation."""


def parse(name: str) -> tuple[str, str, int]:
    """`roofline:<gpu>:<model>[:tpN]` -> (gpu, model, N); raises InputError on another form."""
    match = re.fullmatch(r"roofline:([^:]+):([^:]+)(?::tp(\d+))?", name)
    if not match or match[3] == "0":
        raise InputError(f"latency model {name!r} does not read roofline:<gpu>:<model>[:tpN] with N >= 1")
    return match[1], match[2], int(match[3] or 1)


def smallest(gpu_name: str, model_name: str) -> str:
    """The roofline's name with the fewest GPUs (1, 2, 4, 8) whose memory holds the weights and some KV."""
    spec, shape = gpu(gpu_name), model(model_name)
    tp = next((n for n in (1, 2, 4) if kv_capacity(spec, shape, n)), 8)
    return f"roofline:{gpu_name}:{model_name}" + (f":tp{tp}" if tp > 1 else "")


def build(name: str, gap: float | None = None) -> LatencyModel:
    """The roofline called `name`; `gap` replaces the assumed seconds per step. Raises InputError."""
    gpu_name, model_name, tp = parse(name)
    spec, shape, a = gpu(gpu_name), model(model_name), assumed()
    if shape.heads % tp or shape.kv_heads % tp:
        raise InputError(f"tp{tp} does not divide the {shape.kv_heads} KV heads of {model_name}")
    capacity = kv_capacity(spec, shape, tp)
    if capacity is None:
        raise InputError(f"{model_name} does not fit into {tp} x {spec.name}; raise tpN")
    return LatencyModel(
        name=name,
        source="analytic roofline",
        note=f"Analytic roofline of {shape.name} on {tp} x {spec.name}: not measured; efficiencies assumed.",
        provenance={
            "gpu": f"published: {spec.source}",
            "model": f"published: config.json of {shape.name}",
            "efficiencies, kernel gaps, step gap": "assumed: harness/latency/specs.toml",
            "draft": "analytic EAGLE-3 head (one layer, fc, 32k LM head), per draft pass",
            "experts": "expected distinct experts under uniform routing" if shape.experts else "none",
            "graphs": "padded to vLLM's captured batch sizes up to 512 tokens",
            "kv_capacity": "memory * 0.9 - reserve - weights",
        },
        compiled=compile_roofline(spec, shape, a, tp, gap),
        max_k=MAX_K,
        max_tokens=MAX_TOKENS,
        kv_capacity_tokens=capacity,
        has_drafter=True,
        part_source={"gap": "assumed"},
    )


def compile_roofline(
    spec: Gpu, shape: ModelShape, a: Assumed, tp: int = 1, gap: float | None = None
) -> CompiledLatency:
    """Tables and slopes of `shape` split over `tp` GPUs."""
    bandwidth, flops = spec.bytes_s * a.bandwidth_share, spec.flops_s * a.compute_share
    kv_bytes = shape.kv_bytes_token / tp
    qk_flops = 4 * shape.layers * shape.heads * shape.head_dim / tp
    return CompiledLatency(
        token_s=_token_table(spec, shape, a, tp),
        expert_s=_expert_table(spec, shape, a, tp) if shape.experts else nothing(),
        head_s=_head_table(spec, shape, a, tp),
        **eagle3(shape, spec, a, MAX_TOKENS, tp)._asdict(),
        **Grid()._asdict(),
        attn_fixed_s=shape.layers * a.small_kernel_us * 1e-6,
        kv_s=kv_bytes / bandwidth,
        query_key_s=qk_flops / flops,
        prefix_s=kv_bytes / bandwidth,
        pair_s=qk_flops / (spec.flops_s * a.attention_compute_share),
        skew_pure=np.array([a.attention_skew]),
        skew_mixed=np.array([a.attention_skew]),
        gap_s=a.step_gap_us * 1e-6 if gap is None else gap,
    )


def gemm_s(weights: float, rows: np.ndarray, spec: Gpu, a: Assumed) -> np.ndarray:
    """Seconds to multiply `rows` rows by matrices of `weights` elements; float64 as `rows`."""
    read = weights * BYTES / (spec.bytes_s * a.bandwidth_share)
    return np.maximum(read, 2 * weights * rows / (spec.flops_s * a.compute_share))


def all_reduce_s(rows: np.ndarray, hidden: int, spec: Gpu, tp: int) -> np.ndarray:
    """Ring all-reduce of rows x hidden bf16 over `tp` GPUs: 2 (tp - 1)/tp of the buffer, and a latency."""
    if tp == 1:
        return np.zeros(len(rows))
    moved = rows * hidden * BYTES * 2 * (tp - 1) / tp
    return moved / (spec.link_gbs * 1e9) + spec.link_latency_us * 1e-6


def gaps_s(tokens: np.ndarray, kernels: int, a: Assumed) -> np.ndarray:
    """Launch gaps of a step: shorter inside a captured graph."""
    each = np.where(tokens <= CAPTURED[-1], a.graph_gap_us, a.eager_gap_us)
    return kernels * each * 1e-6


def _token_table(spec: Gpu, shape: ModelShape, a: Assumed, tp: int) -> np.ndarray:
    sizes = np.arange(MAX_TOKENS + 1)
    rows = padded(sizes).astype(np.float64)
    matrices = [shape.qkv_weights, shape.o_weights]
    if not shape.experts:
        matrices += [shape.mlp_weights * 2 // 3, shape.mlp_weights // 3]
    layer = sum(gemm_s(w / tp, rows, spec, a) for w in matrices)
    width = 8 * shape.hidden + 3 * shape.intermediate * max(shape.experts_per_token, 1)
    touched = rows * width * BYTES / tp / (spec.bytes_s * a.bandwidth_share)
    small = np.maximum(SMALL_KERNELS_PER_LAYER * a.small_kernel_us * 1e-6, touched)
    layer = layer + small + 2 * all_reduce_s(rows, shape.hidden, spec, tp)
    seconds = shape.layers * layer + gaps_s(sizes, shape.layers * KERNELS_PER_LAYER, a)
    return np.maximum.accumulate(np.where(sizes == 0, 0.0, seconds))


def _expert_table(spec: Gpu, shape: ModelShape, a: Assumed, tp: int) -> np.ndarray:
    rows = padded(np.arange(MAX_TOKENS + 1)).astype(np.float64)
    awake = activated(rows, shape.experts, shape.experts_per_token)
    read = awake * shape.mlp_weights / tp * BYTES / (spec.bytes_s * a.bandwidth_share)
    work = 2 * rows * shape.experts_per_token * shape.mlp_weights / tp
    router = gemm_s(shape.hidden * shape.experts, rows, spec, a)
    return shape.layers * (np.maximum(read, work / (spec.flops_s * a.compute_share)) + router)


def _head_table(spec: Gpu, shape: ModelShape, a: Assumed, tp: int) -> np.ndarray:
    rows = np.arange(MAX_ROWS + 1, dtype=np.float64)
    logits = rows * shape.vocab / tp * 4 * 3 / (spec.bytes_s * a.bandwidth_share)
    seconds = gemm_s(shape.hidden * shape.vocab / tp, rows, spec, a) + logits + 10 * a.small_kernel_us * 1e-6
    return np.where(rows == 0, 0.0, seconds)
