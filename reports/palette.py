"""Colours, for light and dark, in one place.

Figures are drawn with the light colours; `svg.py` turns each into `var(--name)`, so that the page's own
style decides. Arms take Okabe and Ito's hues (safe for the common colour blindnesses), darkened until
they reach 3:1 on white and lightened for dark; line style tells the kind of arm apart as well.
"""

from __future__ import annotations

INKS = {
    "paper": ("#ffffff", "#14171b"),
    "ink": ("#1b1f24", "#e6e8eb"),
    "muted": ("#5c6670", "#9aa4ae"),
    "grid": ("#dfe3e7", "#30363d"),
    "bad": ("#b42318", "#ff8a7a"),
}
"""Role -> (light, dark)."""

ARMS = (
    ("#0068a8", "#5cb3f0"),
    ("#c24a00", "#ff9452"),
    ("#007d5a", "#3ecf9f"),
    ("#a8457f", "#e796c4"),
    ("#8f6400", "#e8b83a"),
    ("#3b4bc8", "#9aa5ff"),
    ("#6b4a2b", "#c9a27c"),
)
NO_SPECULATION = ("#6e7781", "#a7b0b9")
"""The arm without a drafter is the backdrop: grey."""

DOMAINS = (
    ("#cfe3f3", "#1f3b52"),
    ("#f6dcc8", "#553320"),
    ("#cdeadd", "#1c4637"),
    ("#f0d5e5", "#4d2b41"),
    ("#efe3b9", "#4a3d16"),
    ("#d9dbf6", "#2e3266"),
    ("#e6dacd", "#43342a"),
    ("#dbe0e4", "#363d44"),
)

K_ZERO = ("#c3c9cf", "#4a525a")
K_STEPS = ("#e9f2a8", "#bfe0a5", "#83cbb0", "#45b1c0", "#2a8fc0", "#2b6ab0", "#2f4696", "#2a2a6b")
"""K = 1, 2, ...: light to dark, the same on both backgrounds; the last serves every deeper K."""


def tokens() -> dict[str, tuple[str, str]]:
    """CSS variable name -> (light, dark). Every light colour is unique: `svg.py` looks names up by it."""
    named = dict(INKS) | {"arm-none": NO_SPECULATION, "k-0": K_ZERO}
    named |= {f"arm-{i}": pair for i, pair in enumerate(ARMS)}
    named |= {f"domain-{i}": pair for i, pair in enumerate(DOMAINS)}
    return named | {f"k-{k}": (colour, colour) for k, colour in enumerate(K_STEPS, start=1)}


def k_token(k: int) -> str:
    """The CSS variable of draft length `k`."""
    return f"k-{min(k, len(K_STEPS))}"


def domain_token(index: int) -> str:
    """The CSS variable of the `index`-th domain; they repeat after the eighth."""
    return f"domain-{index % len(DOMAINS)}"


def light(token: str) -> str:
    """The colour to draw with, which `svg.py` replaces by the variable."""
    return tokens()[token][0]
