"""What each request says: a prompt of its domain and the target's greedy continuation of it."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from harness.contract import Request
from harness.rng import stream
from harness.speculator.rollouts import Rollouts, roll_out
from harness.speculator.target import Target
from harness.speculator.tiny.make import TinyModel
from harness.speculator.tiny.pretrain import prompt_text
from workloads.text import sample, text_domain

OUTPUT_TOKENS = 64
"""Most output tokens of a text."""

POOL_SEED = 20_260


@dataclass(frozen=True, slots=True)
class Place:
    """Which text a request has."""

    verifier: int
    """The verifier that serves when it arrives; its text is that one's."""
    domain: str
    """Text domain."""
    index: int


def deal(requests: Iterable[Request], updates: Sequence[int], size: int, seed: int) -> list[Place]:
    """A text for each request. Each seed deals a pool of `size` texts in an order of its own, without repeats
    while it lasts; `updates` are the requests at which the target changes."""
    dealt: Counter[str] = Counter()
    orders: dict[str, np.ndarray] = {}
    places = []
    for i, request in enumerate(requests):
        domain = text_domain(request.domain)
        if domain not in orders:
            orders[domain] = stream(seed, "texts", domain).permutation(size)
        index = int(orders[domain][dealt[domain] % size])
        dealt[domain] += 1
        places.append(Place(sum(at <= i for at in updates), domain, index))
    return places


def pool_size(total: int) -> int:
    """Texts per domain: a power of two, so that runs of like size share pools."""
    return int(min(4096, max(64, 2 ** np.ceil(np.log2(max(1, total) / 1.5)))))


def prompts(tokenizer: Any, domain: str, size: int) -> list[list[int]]:
    """The prompts of a domain's pool, as token ids."""
    rng = stream(POOL_SEED, "pool", domain)
    return [tokenizer.encode(prompt_text(sample(domain, rng))) for _ in range(size)]


class Pools:
    """Texts by (verifier, domain), rolled out once and kept beside the model."""

    def __init__(self, model: TinyModel, size: int) -> None:
        self._folder = model.folder / "rollouts"
        self.model = model
        self.size = size
        self._targets: dict[int, Target] = {}
        self._pools: dict[tuple[int, str], Rollouts] = {}

    def target(self, verifier: int) -> Target:
        """The target of that version: an update alternates between the model and its successor."""
        which = verifier % 2
        if which not in self._targets:
            self._targets[which] = Target.load(self.model.successor if which else self.model.target)
        return self._targets[which]

    def pool(self, verifier: int, domain: str) -> Rollouts:
        """At least `size` texts."""
        key = verifier % 2, domain
        if key not in self._pools:
            path = self._folder / f"{domain}-{key[0]}-{self.size}-{OUTPUT_TOKENS}.safetensors"
            if not path.is_file():
                self._make(verifier, domain).save(path)
            self._pools[key] = Rollouts.load(path)
        return self._pools[key]

    def _make(self, verifier: int, domain: str) -> Rollouts:
        tell(f"rolling out {self.size} texts of domain {domain}, once for this model")
        tokenizer = load_tokenizer(self.model.target)
        asked = prompts(tokenizer, domain, self.size)
        return roll_out(self.target(verifier), asked, OUTPUT_TOKENS, tokenizer.eos_token_id)


def tell(what: str) -> None:
    """One line on standard error while it is a terminal: first runs take minutes."""
    if sys.stderr.isatty():
        print(f"specdrift: {what}", file=sys.stderr)


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer of a made target."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)


class Texts:
    """The texts of one run."""

    def __init__(self, pools: Pools, requests: Iterator[Request], updates: Sequence[int], seed: int) -> None:
        self._pools = pools
        listed = list(requests)
        self._places = deal(listed, updates, pools.size, seed)
        self.requests = [self._with_lengths(r, p) for r, p in zip(listed, self._places, strict=True)]
        """The scenario's, with the lengths of their texts."""

    def _with_lengths(self, request: Request, place: Place) -> Request:
        pool = self._pools.pool(place.verifier, place.domain)
        prompt, output = int(pool.prompt_tokens[place.index]), pool.output_tokens(place.index)
        return replace(request, prompt_tokens=prompt, output_tokens=output, prefix_hashes=())

    def __len__(self) -> int:
        return len(self._places)

    def verifier(self, request_id: int) -> int:
        return self._places[request_id].verifier

    def tokens(self, request_id: int) -> torch.Tensor:
        """int64[T]."""
        place = self._places[request_id]
        return self._pools.pool(place.verifier, place.domain).text(place.index)

    def states(self, request_id: int) -> tuple[torch.Tensor, torch.Tensor]:
        """(fused, last), float16."""
        place = self._places[request_id]
        return self._pools.pool(place.verifier, place.domain).states(place.index)


def known_texts(pools: Pools, requests: Iterator[Request], n: int, seed: int) -> Texts:
    """The texts of traffic known before the run: of another seed."""
    return Texts(pools, islice(requests, n), (), seed)
