"""Short texts in six domains, made from a seed: what a tiny model is trained on and then asked.

`sample("sql", rng)` gives a prompt and its answer, `corpus` many. Prompts have 80 to 200 characters and
completions 150 to 350, all ASCII. Each domain has its own words, layout and some ten kinds of question, so a
drafter trained on one does badly on another. Completions copy from their prompts, and have choice points
that no prompt decides. `style="formal"` words the same prompts' completions otherwise: the data of a target's
fine-tuned successor. A domain of a scenario (`workloads/domains.toml`) may stand wherever a text domain does.

To add a domain: a module with `sample(rng, style)`, a line in `_GENERATORS`, and its names in `_TEXT_OF`.
"""

from __future__ import annotations

import numpy as np

from harness.errors import UnknownName
from workloads.text.code import sample as _code
from workloads.text.dialogue import sample as _dialogue
from workloads.text.finance import sample as _finance
from workloads.text.logs import sample as _logs
from workloads.text.sample import COMPLETION_CHARS, PROMPT_CHARS, STYLES, Sample
from workloads.text.sql import sample as _sql
from workloads.text.word_problems import sample as _word_problems

__all__ = [
    "COMPLETION_CHARS",
    "PROMPT_CHARS",
    "STYLES",
    "TEXT_DOMAINS",
    "Sample",
    "corpus",
    "sample",
    "text_domain",
]

_GENERATORS = {
    "math": _word_problems,
    "sql": _sql,
    "code": _code,
    "chat": _dialogue,
    "finance": _finance,
    "logs": _logs,
}

TEXT_DOMAINS: tuple[str, ...] = tuple(_GENERATORS)

_TEXT_OF = {
    **{name: name for name in TEXT_DOMAINS},
    "aurora-1": "math",
    "gsm8k": "math",
    "aurora-2": "sql",
    "spider-sql": "sql",
    "aurora-3": "code",
    "codesearchnet": "code",
    "code-edit": "code",
    "aurora-4": "finance",
    "finance-alpaca": "finance",
    "summarisation": "finance",
    "rag": "finance",
    "roleplay": "chat",
    "multilingual": "chat",
    "translation": "chat",
}
"""The text domain of every name that a scenario may use. `logs` has no scenario domain: it is the one
that nothing in a scenario was calibrated on."""


def text_domain(name: str) -> str:
    """The text domain of a scenario domain (or of itself); UnknownName offers the nearest valid name."""
    try:
        return _TEXT_OF[name]
    except KeyError:
        raise UnknownName("text domain", name, _TEXT_OF) from None


def sample(domain: str, rng: np.random.Generator, style: str = "plain") -> Sample:
    """One sample of `domain`. It takes one draw of `rng`, whatever the domain and the style are."""
    generator = _GENERATORS[text_domain(domain)]
    if style not in STYLES:
        raise UnknownName("text style", style, STYLES)
    return generator(np.random.default_rng(int(rng.integers(1 << 63))), style)


def corpus(domain: str, n: int, rng: np.random.Generator, style: str = "plain") -> list[Sample]:
    """`n` samples of `domain`; under one seed the styles have the same prompts, in the same order."""
    return [sample(domain, rng, style) for _ in range(n)]
