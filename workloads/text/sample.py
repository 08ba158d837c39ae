"""What the six generators share: the sample, templates with choice points, and recipes made of them.

A template is a `str.format` text with choice points `<this|that>`, drawn anew for each sample; they may
nest. A recipe draws its facts first, then the prompt, then the completion: the style of the completion
therefore never moves the prompt.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

T = TypeVar("T")
Facts = Mapping[str, object]
"""What prompt and completion have in common, by slot name."""

STYLES: tuple[str, ...] = ("plain", "formal")
"""How completions are worded; the prompts are the same ones."""

PROMPT_CHARS = (80, 200)
COMPLETION_CHARS = (150, 350)

_TRIES = 60
_CHOICE = re.compile(r"<([^<>]*\|[^<>]*)>")


@dataclass(frozen=True, slots=True)
class Sample:
    """One prompt and the text that answers it."""

    prompt: str
    completion: str
    domain: str


@dataclass(frozen=True, slots=True)
class Recipe:
    """One kind of question of a domain: its facts, its wordings, and its answers in either style."""

    facts: Callable[[np.random.Generator], Facts]
    asks: tuple[str, ...]
    plain: tuple[str, ...]
    formal: tuple[str, ...]

    def sample(self, rng: np.random.Generator, domain: str, style: str) -> Sample:
        """One sample; both texts keep to their lengths wherever any wording of the facts does."""
        facts = self.facts(rng)
        answers = self.plain if style == "plain" else self.formal
        prompt = _fitting(rng, self.asks, facts, PROMPT_CHARS)
        return Sample(prompt, _fitting(rng, answers, facts, COMPLETION_CHARS), domain)


def slots(**options: Sequence[object]) -> Callable[[np.random.Generator], Facts]:
    """Facts that are one independent draw from each list."""
    return lambda rng: {name: pick(rng, values) for name, values in options.items()}


def words(text: str) -> tuple[str, ...]:
    """The entries of a list written with bars between them."""
    return tuple(text.split("|"))


def pick(rng: np.random.Generator, options: Sequence[T]) -> T:
    """One of `options`, each as likely."""
    return options[int(rng.integers(len(options)))]


def expand(rng: np.random.Generator, template: str, facts: Facts) -> str:
    """`template` with its choice points drawn, innermost first, and its slots filled."""
    drawn = 1
    while drawn:
        template, drawn = _CHOICE.subn(lambda found: pick(rng, found[1].split("|")), template)
    return template.format(**facts)


def _fitting(
    rng: np.random.Generator, templates: tuple[str, ...], facts: Facts, chars: tuple[int, int]
) -> str:
    """The first drawn text whose length lies in `chars`; if none of many does, the nearest to it."""
    lo, hi = chars
    best, best_off = "", float("inf")
    for _ in range(_TRIES):
        text = expand(rng, pick(rng, templates), facts)
        off = max(lo - len(text), len(text) - hi, 0)
        if off < best_off:
            best, best_off = text, off
        if not off:
            break
    return best
