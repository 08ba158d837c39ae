"""Mixture of experts: how many experts a step wakes, and what expert parallelism sends."""

from __future__ import annotations

import numpy as np

from harness.latency.specs import BYTES, Gpu, ModelShape


def activated(tokens: np.ndarray, experts: int, per_token: int) -> np.ndarray:
    """Expected distinct experts woken by `tokens` tokens under uniform routing, each to `per_token` experts.

    E * (1 - (1 - k/E)^T): an expert sleeps when every token passes it by. float64, as `tokens`.
    """
    return experts * (1.0 - (1.0 - per_token / experts) ** np.asarray(tokens, dtype=np.float64))


def exchange_s(tokens: np.ndarray, shape: ModelShape, spec: Gpu, ep: int) -> np.ndarray:
    """Seconds of one layer's exchange over `ep` ranks holding `tokens` tokens together.

    vLLM's default (all-gather, reduce-scatter): every rank receives the others' hidden states and router
    logits before the experts and returns partial sums after; each ring moves (ep - 1)/ep of the buffer.
    """
    if ep == 1:
        return np.zeros(len(tokens))
    moved = np.asarray(tokens, dtype=np.float64) * (ep - 1) / ep * BYTES
    sent = moved * (2 * shape.hidden + shape.experts) / (spec.link_gbs * 1e9)
    return sent + 2 * spec.link_latency_us * 1e-6
