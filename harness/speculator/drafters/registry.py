"""Names to drafters: the one place that lists them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch

from harness.errors import InputError, UnknownName
from harness.rng import stream_key
from harness.speculator.drafters.base import Drafter
from harness.speculator.drafters.eagle3 import Eagle3
from harness.speculator.drafters.llama import LlamaConfig, LlamaDrafter
from harness.speculator.drafters.medusa import Medusa, MedusaConfig
from harness.speculator.drafters.ngram import Ngram
from harness.speculator.drafters.sizes import layer_sizes
from harness.speculator.target import Target
from harness.speculator.vocabulary import DraftVocabulary


def drafter_names() -> tuple[str, ...]:
    """Registered names, sorted."""
    return tuple(sorted(_DRAFTERS))


def trains(kind: str) -> bool:
    """Whether drafters of that name have weights to learn; UnknownName if there is none."""
    return _known(kind)[0].trains


def make_drafter(kind: str, target: Target, vocabulary: DraftVocabulary, seed: int) -> Drafter:
    """An untrained drafter of that name for the target, its heads and embeddings begun as the target's own.

    It gets a copy of `vocabulary`: a learner may choose it anew. UnknownName, or InputError when the
    vocabulary is another target's.
    """
    _, make = _known(kind)
    if vocabulary.target_size != target.config.vocab_size:
        raise InputError(
            f"the draft vocabulary is for a target of {vocabulary.target_size} tokens; "
            f"this one has {target.config.vocab_size}"
        )
    own = DraftVocabulary(vocabulary.ids.clone(), vocabulary.target_size)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream_key(seed, "drafter", kind))
        return make(target, own)


def _eagle3(target: Target, vocabulary: DraftVocabulary) -> Drafter:
    from harness.speculator.tiny.make import new_head

    return new_head(target, vocabulary)


def _medusa(target: Target, vocabulary: DraftVocabulary) -> Drafter:
    drafter = Medusa(MedusaConfig(target.config.hidden_size), vocabulary, target.embedding)
    return _with_rows(drafter, target)


def _llama(target: Target, vocabulary: DraftVocabulary) -> Drafter:
    drafter = LlamaDrafter(LlamaConfig(**layer_sizes(target.config)), vocabulary)
    with torch.no_grad():
        drafter.embed_tokens.weight.copy_(target.embedding)
    return _with_rows(drafter, target)


def _ngram(target: Target, vocabulary: DraftVocabulary) -> Drafter:
    return Ngram(vocabulary.target_size)


@torch.no_grad()
def _with_rows(drafter: Drafter, target: Target) -> Drafter:
    """The drafter, each of its heads holding the target's own rows."""
    for head in drafter.heads():
        head.copy_(target.head[drafter.vocabulary.ids])
    return drafter


def _known(kind: str) -> tuple[type[Drafter], Callable[[Target, DraftVocabulary], Drafter]]:
    if kind not in _DRAFTERS:
        raise UnknownName("drafter", kind, _DRAFTERS)
    return _DRAFTERS[kind]


_DRAFTERS: Mapping[str, tuple[type[Drafter], Callable[[Target, DraftVocabulary], Drafter]]] = (
    MappingProxyType(
        {
            Eagle3.kind: (Eagle3, _eagle3),
            Medusa.kind: (Medusa, _medusa),
            LlamaDrafter.kind: (LlamaDrafter, _llama),
            Ngram.kind: (Ngram, _ngram),
        }
    )
)
