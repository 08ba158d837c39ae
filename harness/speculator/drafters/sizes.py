"""Sizes of a decoder layer, from a configuration in Hugging Face's words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from harness.errors import InputError
from harness.speculator.drafters.layers import Llama3Rope


def layer_sizes(config: Any) -> dict[str, Any]:
    """Fields of `layers.Geometry`. InputError for rotary positions that the learner does not have."""
    rope = _rope(config)
    return {
        "hidden": config.hidden_size,
        "heads": config.num_attention_heads,
        "kv_heads": config.num_key_value_heads,
        "head_dim": getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads,
        "intermediate": config.intermediate_size,
        "rope_theta": rope.get("rope_theta", getattr(config, "rope_theta", 10000.0)),
        "eps": config.rms_norm_eps,
        "rope": _stretched(rope),
    }


def _rope(config: Any) -> Mapping[str, Any]:
    """`rope_parameters` since transformers 5, `rope_scaling` beside `rope_theta` before."""
    return getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}


def _stretched(rope: Mapping[str, Any]) -> Llama3Rope | None:
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind == "default":
        return None
    if kind != "llama3":
        raise InputError(
            f"the drafter's rotary positions are of type {kind!r}; the learner has 'default' and 'llama3'"
        )
    return Llama3Rope(
        factor=float(rope["factor"]),
        low_freq_factor=float(rope["low_freq_factor"]),
        high_freq_factor=float(rope["high_freq_factor"]),
        original_max_position_embeddings=int(rope["original_max_position_embeddings"]),
    )
