"""What `make-model` makes: sizes and training of the tiny targets and their heads.

`micro` is for tests and for trying commands: seconds to make, too small to learn much.
"""

from __future__ import annotations

from dataclasses import dataclass

from harness.errors import UnknownName

ALONE = "+llama"
"""Behind the name of a model: with a small Llama of its own as drafter (`alone.py`)."""


@dataclass(frozen=True, slots=True)
class TinySpec:
    """A deep, narrow Llama: many layers keep a one-layer draft pass cheap relative to a verify pass."""

    name: str
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    intermediate: int
    vocab: int
    draft_vocab: int
    steps: int
    """Optimiser steps of the target."""
    successor_steps: int
    """Further ones, on text of another style: the fine-tuned successor."""
    head_requests: int
    """Greedy texts of the first domain that the head is pretrained on."""
    head_epochs: int
    batch: int = 16
    length: int = 160
    """Tokens of a training row."""
    lr: float = 3e-3
    max_position: int = 1024

    @property
    def head_dim(self) -> int:
        return self.hidden // self.heads


_SPECS = {
    spec.name: spec
    for spec in (
        TinySpec("tiny", 20, 96, 3, 1, 256, 1024, 512, 250, 40, 256, 4, batch=8, lr=4e-3),
        TinySpec("micro", 6, 48, 2, 1, 96, 512, 320, 60, 20, 48, 2, batch=8, length=96, lr=6e-3),
        TinySpec("small", 20, 256, 8, 4, 640, 4096, 2048, 400, 60, 320, 5, batch=8, lr=2e-3),
    )
}


def made_names() -> tuple[str, ...]:
    """Names that `make-model` knows: each also with an independent drafter in place of the head (`tiny+llama`)."""
    return (*_SPECS, *(name + ALONE for name in _SPECS))


def tiny_spec(name: str) -> TinySpec:
    """The sizes of that name, or UnknownName."""
    try:
        return _SPECS[name]
    except KeyError:
        raise UnknownName("model to make", name, _SPECS) from None
