"""An independent draft model, a folder in Hugging Face format, as a drafter that learns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from harness.errors import InputError
from harness.rng import stream_key
from harness.speculator.checkpoint import Snapshot, fingerprint, foreign_tensors, load_into
from harness.speculator.drafters.llama import LlamaConfig, LlamaDrafter
from harness.speculator.drafters.sizes import layer_sizes
from harness.speculator.target import Ends, Target
from harness.speculator.vocabulary import DraftVocabulary

QK_NORM = ("qwen3",)
"""Model types that normalise queries and keys."""


def load(folder: Path, ends: Ends | Target) -> LlamaDrafter:
    """The draft model of a folder, for this target; its vocabulary must be the target's.

    InputError when it is another one's, or is built of what the learner does not have (biases, say).
    """
    drafter = untrained(folder, ends)
    left_out = ("rotary_emb.inv_freq", *(["lm_head.weight"] if drafter.config.tied else []))
    weights = {
        name.removeprefix("model."): weight.float()
        for name, weight in foreign_tensors(folder).items()
        if not name.endswith(left_out)
    }
    vocabulary = drafter.vocabulary
    load_into(
        drafter,
        Snapshot(drafter.kind, weights, vocabulary, vocabulary.fingerprint(), fingerprint(weights)),
    )
    return drafter


def untrained(folder: Path, ends: Ends | Target, seed: int = 0) -> LlamaDrafter:
    """One of the same sizes that knows nothing."""
    config = _config(folder)
    size = int(ends.config.vocab_size)
    if config.vocab_size != size:
        raise InputError(
            f"the draft model in {folder} has a vocabulary of {config.vocab_size}; the target has {size}"
        )
    sizes = LlamaConfig(
        **layer_sizes(config),
        qk_norm=config.model_type in QK_NORM,
        layers=config.num_hidden_layers,
        tied=bool(getattr(config, "tie_word_embeddings", False)),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream_key(seed, "drafter", "llama"))
        return LlamaDrafter(sizes, DraftVocabulary.full(size))


def _config(folder: Path) -> Any:
    from transformers import AutoConfig

    return AutoConfig.from_pretrained(folder)


__all__ = ["load", "untrained"]
