"""An EAGLE-3 head as a folder that vLLM loads as a speculative model, and back."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from harness.errors import InputError
from harness.speculator import checkpoint
from harness.speculator.checkpoint import (
    WEIGHTS,
    Snapshot,
    is_ours,
    load_foreign,
    load_into,
    snapshot,
    write_json,
)
from harness.speculator.checkpoint import load as load_snapshot
from harness.speculator.drafters.eagle3 import Eagle3, Eagle3Config
from harness.speculator.drafters.sizes import layer_sizes
from harness.speculator.target import Ends, Target

FOREIGN_FORMS = ("norm_before_fc", "fc_norm", "norm_output")
"""Switches of published heads that change what the layer computes, and that ours has not."""
SIZES = (
    "hidden_size",
    "num_attention_heads",
    "num_key_value_heads",
    "intermediate_size",
    "rms_norm_eps",
)


def geometry(config: Any) -> Eagle3Config:
    """The head's sizes, from the configuration of its target (or its own)."""
    return Eagle3Config(
        **layer_sizes(config), norm_before_residual=bool(getattr(config, "norm_before_residual", False))
    )


def save_config(head: Eagle3, target: Target, folder: Path) -> None:
    """`config.json` as vLLM reads it."""
    c = head.config
    folder.mkdir(parents=True, exist_ok=True)
    write_json(
        folder / "config.json",
        {
            "architectures": ["LlamaForCausalLMEagle3"],
            "model_type": "llama",
            "hidden_size": c.hidden,
            "intermediate_size": c.intermediate,
            "num_attention_heads": c.heads,
            "num_key_value_heads": c.kv_heads,
            "head_dim": c.head_dim,
            "num_hidden_layers": 1,
            "rms_norm_eps": c.eps,
            "rope_theta": c.rope_theta,
            "hidden_act": "silu",
            "max_position_embeddings": target.config.max_position_embeddings,
            "vocab_size": head.vocabulary.target_size,
            "draft_vocab_size": len(head.vocabulary),
            "tie_word_embeddings": False,
            **({"norm_before_residual": True} if c.norm_before_residual else {}),
            "torch_dtype": "float32",
            "eagle_config": {"eagle_aux_hidden_state_layer_ids": list(target.layers)},
        },
    )


def save(head: Eagle3, target: Target, folder: Path) -> None:
    """Weights and configuration."""
    save_config(head, target, folder)
    save_weights(snapshot(head), folder)


def save_weights(found: Snapshot, folder: Path) -> None:
    """The weights of a published version into a folder that has its configuration."""
    checkpoint.save(found, folder / WEIGHTS)


def load(folder: Path, target: Target | Ends) -> Eagle3:
    """The head of a folder, ours or one that others published, for this target.

    InputError when it was made for another, or is of a form that the learner does not have.
    """
    found = _snapshot(folder, int(target.config.vocab_size))
    vocabulary = found.vocabulary
    if vocabulary.target_size != target.config.vocab_size:
        raise InputError(
            f"the head in {folder} is for a vocabulary of {vocabulary.target_size}; "
            f"the target has {target.config.vocab_size}"
        )
    head = Eagle3(_geometry_of(folder, target), vocabulary, target.embedding)
    load_into(head, found)
    return head


def _snapshot(folder: Path, target_size: int) -> Snapshot:
    path = folder / WEIGHTS
    return load_snapshot(path) if is_ours(path) else load_foreign(folder, target_size)


def _geometry_of(folder: Path, target: Target | Ends) -> Eagle3Config:
    """By the head's own configuration; sizes that it leaves out are the target's. InputError for a form of head that we
    cannot train."""
    said = _config(folder)
    for key in FOREIGN_FORMS:
        if said.get(key) or (said.get("eagle_config") or {}).get(key):
            raise InputError(
                f"the head in {folder} is of a form with {key!r}, which the learner does not have"
            )
    if all(key in said for key in SIZES):
        return geometry(SimpleNamespace(**said))
    before = bool(said.get("norm_before_residual", False))
    return replace(geometry(target.config), norm_before_residual=before)


def _config(folder: Path) -> dict[str, Any]:
    """What a head says of itself; nothing without a configuration. In the format of vllm-project/speculators the
    layer's sizes stand by themselves, and the norm comes before the residual unless it says otherwise."""
    path = folder / "config.json"
    if not path.is_file():
        return {}
    said: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if "speculators_model_type" not in said:
        return said
    return {"norm_before_residual": True, **(said.get("transformer_layer_config") or {}), **said}


__all__ = ["geometry", "load", "save", "save_weights"]
