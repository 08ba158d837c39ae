"""An EAGLE-3 head as a folder that vLLM loads as a speculative model, and back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from harness.errors import InputError, MissingPart
from harness.speculator import checkpoint
from harness.speculator.checkpoint import WEIGHTS, Snapshot, load_into, snapshot, write_json
from harness.speculator.checkpoint import load as load_snapshot
from harness.speculator.drafters.eagle3 import Eagle3, Eagle3Config
from harness.speculator.target import Ends, Target


def geometry(config: Any) -> Eagle3Config:
    """The head's sizes, from the configuration of its target (or its own)."""
    rope = getattr(config, "rope_parameters", None) or {}
    return Eagle3Config(
        hidden=config.hidden_size,
        heads=config.num_attention_heads,
        kv_heads=config.num_key_value_heads,
        head_dim=getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads,
        intermediate=config.intermediate_size,
        rope_theta=rope.get("rope_theta", getattr(config, "rope_theta", 10000.0)),
        eps=config.rms_norm_eps,
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
    """The head of a folder, for this target. InputError when it was made for another."""
    if not (folder / WEIGHTS).is_file():
        raise MissingPart(f"{folder} holds no head (no {WEIGHTS})")
    found = load_snapshot(folder / WEIGHTS)
    vocabulary = found.vocabulary
    if vocabulary.target_size != target.config.vocab_size:
        raise InputError(
            f"the head in {folder} is for a vocabulary of {vocabulary.target_size}; "
            f"the target has {target.config.vocab_size}"
        )
    head = Eagle3(geometry(target.config), vocabulary, target.embedding)
    load_into(head, found)
    return head


__all__ = ["geometry", "load", "save", "save_weights"]
