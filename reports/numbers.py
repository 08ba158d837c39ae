"""Numbers as text: one place for decimals, units and what is shown where nothing was measured."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

ABSENT = "–"
RATIO_DIGITS = 3


def number(value: float | None, digits: int, factor: float = 1.0) -> str:
    """`value * factor` with `digits` decimals and thousands separators; a dash where it is None."""
    if value is None:
        return ABSENT
    text = f"{value * factor:,.{digits}f}"
    return text.removeprefix("-") if float(text.replace(",", "")) == 0 else text


def common_digits(values: Iterable[float | None], factor: float = 1.0, significant: int = 4) -> int:
    """Decimals, 0 to 3, that give the largest of `values` that many significant digits."""
    sizes = [abs(v * factor) for v in values if v is not None]
    top = max(sizes, default=0.0)
    if top <= 0:
        return 0
    return min(3, max(0, significant - 1 - math.floor(math.log10(top))))


def interval(found: Mapping[str, Any]) -> str:
    """The 95% interval of a ratio of summary.json, or a dash."""
    if found["low"] is None:
        return ABSENT
    return f"{found['low']:.{RATIO_DIGITS}f} to {found['high']:.{RATIO_DIGITS}f}"


def estimate(found: Mapping[str, Any]) -> str:
    return number(found["estimate"], RATIO_DIGITS)


def ratio_text(found: Mapping[str, Any]) -> str:
    """`1.234 (1.200 to 1.270)`, or the estimate and why it has no interval."""
    if found["estimate"] is None:
        return f"not measured: {found['reason']}"
    if found["low"] is None:
        return f"{estimate(found)} ({found['reason']})"
    return f"{estimate(found)} ({interval(found)})"
