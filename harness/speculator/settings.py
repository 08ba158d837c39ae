"""Every number of the learner, and the named sets of them that arms of a comparison use."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cache
from pathlib import Path
from typing import Any

from harness.errors import InputError, UnknownName

STORES = ("float32", "bfloat16", "float8_e4m3fn")
FILE = Path(__file__).with_name("learners.toml")

LR_WIDTH = 96
"""Width of the target that `lr` is meant for."""


@dataclass(frozen=True, slots=True)
class LearnerSettings:
    """One way to learn. The defaults are those of the learner named `default`."""

    drafter: str = "eagle3"
    """What drafts (`drafters/registry.py`): `eagle3` is the model's own pretrained drafter, also where that is an
    independent one; others begin from nothing."""
    objectives: Mapping[str, float] = field(default_factory=lambda: {"forward_kl": 0.5, "next_token": 0.5})
    """Weight of each objective; a plan that names its own overrides them. What the target would say and what it did
    say teach more together than either alone."""
    depth: int = 3
    """Draft steps that training unrolls: a fourth costs a quarter more time and teaches next to nothing."""
    decay: float = 0.8
    """Weight of a row is decay ** depth (Aurora: 0.8)."""
    lr: float = 4e-3
    """Of AdamW, at width `LR_WIDTH` and below; see `lr_at`."""
    warmup: int = 20
    """First optimiser steps, over which the learning rate rises: AdamW's first ones, of full length whatever the
    gradient, would spoil a head that knows something."""
    clip: float = 1.0
    """Largest norm of a gradient."""
    average: float = 0.95
    """Decay per step of the moving average of the weights that candidates are made of; 0: the last weights."""
    settle: int = 0
    """Steps after a shift or a new verifier over which the learning rate stays; from then on it falls as one over the
    root of their number. 0: it never falls."""
    batch: int = 2
    """Traces per optimiser step: of equal traces, more and smaller steps teach a small head more."""
    once: bool = False
    """Use each trace exactly once, in order of arrival (Aurora's released behaviour)."""
    reuse: float = 2.0
    """Times that a trace is trained on, on average, when `once` is off."""
    burst: int = 240
    """Extra traces allowed after a detected shift or a new verifier: old traces teach little there."""
    buffer_tokens: int = 43_690
    """What the buffer may take, in tokens of four hidden states each: 32 MiB at width 96, 1.4 GB at 4,096."""
    recent_share: float = 0.5
    """Share of the buffer for the most recent traces; the rest are reservoirs by domain."""
    replay_share: float = 0.3
    """Share of each batch drawn from the reservoirs."""
    keep_old: float = 0.05
    """Weight in each batch of a domain that is not in the traffic now, whatever the shares of the others."""
    priority: float = 0.5
    """0 samples traces evenly; 1 in proportion to their rejections."""
    branches: int = 0
    """Rejected verify steps per request whose counterfactual target states are kept, for `discard`."""
    store: str = "bfloat16"
    """Number format of stored hidden states."""
    heldout_share: float = 0.1
    heldout_traces: int = 64
    """Held-out traces kept in all."""
    heldout_per_group: int = 24
    """Of one domain and tenant."""
    gate: bool = True
    """Vet candidates before they are offered; off is Aurora's released behaviour, which holds nothing out."""
    tolerance: float = 0.25
    """Share of its accepted tokens that a candidate may lose on any domain or tenant, beyond noise."""
    coverage: float = 0.97
    """Choose the draft vocabulary anew when it covers less than this share of recent output tokens; 0 never."""
    checkpoint_steps: int = 20
    """Optimiser steps between candidates."""
    eval_k: int = 4
    """Draft positions of held-out figures."""

    def lr_at(self, width: int) -> float:
        """Learning rate beside a target `width` wide: the best one of Adam falls as one over the width (Yang et al.
        2022, "Tensor Programs V"). At 4,096 the default's is 9.4e-5; Aurora trains heads of that size at 1e-5 to
        1e-4."""
        return self.lr * min(1.0, LR_WIDTH / width)


def learner_names(path: Path = FILE) -> tuple[str, ...]:
    """The named sets of settings."""
    return tuple(_tables(path))


def learner(name: str, path: Path = FILE) -> LearnerSettings:
    """The settings of that name; UnknownName or InputError."""
    tables = _tables(path)
    if name not in tables:
        raise UnknownName("learner", name, tables)
    return settings_from(tables[name], f"learner {name!r}")


def settings_from(table: Mapping[str, Any], what: str) -> LearnerSettings:
    """Defaults with the table's values in their place."""
    known = {f.name: f for f in fields(LearnerSettings)}
    for key in table:
        if key not in known:
            raise UnknownName(f"setting of {what}", key, known)
    settings = replace(LearnerSettings(), **table)
    _check(settings, what)
    return settings


def _check(s: LearnerSettings, what: str) -> None:
    rules = (
        ("depth", 1 <= s.depth <= 16, "within 1..16"),
        ("decay", 0.0 < s.decay <= 1.0, "within 0..1, 0 excluded"),
        ("lr", s.lr > 0, "above 0"),
        ("batch", s.batch >= 1, "at least 1"),
        ("average", 0.0 <= s.average < 1.0, "within 0..1, 1 excluded"),
        ("settle", s.settle >= 0, "0 or more"),
        ("reuse", s.reuse > 0, "above 0"),
        ("burst", s.burst >= 0, "0 or more"),
        ("buffer_tokens", s.buffer_tokens > 0, "above 0"),
        ("recent_share", 0.0 < s.recent_share <= 1.0, "within 0..1, 0 excluded"),
        ("replay_share", 0.0 <= s.replay_share <= 1.0, "within 0..1"),
        ("store", s.store in STORES, f"one of {', '.join(STORES)}"),
        ("heldout_share", 0.0 < s.heldout_share < 1.0, "between 0 and 1"),
        ("coverage", 0.0 <= s.coverage <= 1.0, "within 0..1"),
        ("checkpoint_steps", s.checkpoint_steps >= 1, "at least 1"),
    )
    for name, kept, rule in rules:
        if not kept:
            raise InputError(f"{what}: {name} is {getattr(s, name)}; it must be {rule}")


@cache
def _tables(path: Path) -> dict[str, dict[str, Any]]:
    return tomllib.loads(path.read_text(encoding="utf-8"))
