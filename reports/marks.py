"""The events of a run as marks on the time axis: what all arms share, and what each arm did itself."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from reports.palette import light

SHARED = ("shift", "verifier_update", "fault")
"""Kinds that the scenario causes: one mark for all arms where all arms have it."""


@dataclass(frozen=True, slots=True)
class Mark:
    """One event as drawn."""

    time: float
    glyph: str
    """Key of GLYPHS."""
    label: str


@dataclass(frozen=True, slots=True)
class Glyph:
    """A matplotlib marker, where it sits in an arm's lane (rows above the middle), and its legend."""

    marker: str
    size: float
    offset: float
    token: str
    """CSS variable of its colour; empty: the arm's own."""
    filled: bool
    legend: str
    sign: str
    """The same in text, for the HTML legend."""

    def colour(self, own: str) -> str:
        return light(self.token) if self.token else own


GLYPHS = {
    "swap": Glyph("|", 6.5, 0.0, "", True, "swap: new drafter weights serve", "┃"),
    "publish": Glyph("|", 2.5, -0.3, "muted", True, "publish: a candidate was sent to the server", "╷"),
    "to static": Glyph("o", 4.0, 0.0, "", False, "swap back to the static drafter", "○"),
    "rollback": Glyph("D", 3.4, 0.0, "", False, "rollback to an earlier version", "◇"),
    "failed swap": Glyph("x", 4.5, 0.0, "bad", True, "failed swap", "×"),
    "quarantine": Glyph("P", 4.0, 0.0, "bad", True, "quarantine: a candidate was refused", "✚"),
    "verifier_update": Glyph("v", 4.5, 0.0, "ink", True, "verifier update", "▼"),
    "fault": Glyph("^", 4.5, 0.0, "bad", True, "fault", "▲"),
    "shift": Glyph(">", 3.5, 0.0, "muted", True, "shift of the traffic (dashed line)", "┆"),
    "other": Glyph("s", 3.0, 0.0, "ink", False, "other event (see the list of events)", "□"),
}


def read_mark(event: Mapping[str, Any]) -> Mark:
    """A mark of `series.marks`: kinds that this page has no sign for are shown as `other`, never dropped."""
    kind, detail = str(event["kind"]), event["detail"] or {}
    time = float(event["time"])
    if kind == "swap":
        return Mark(time, _swap(detail), f"version {detail.get('version', '?')}")
    if kind == "shift":
        return Mark(time, kind, str(detail.get("to", "")))
    if kind == "verifier_update":
        return Mark(time, kind, f"verifier {detail.get('version', '')}".strip())
    if kind == "fault":
        return Mark(time, kind, str(detail.get("fault", "fault")).replace("_", " "))
    if kind == "quarantine":
        return Mark(time, kind, str(detail.get("reason", "")))
    return Mark(time, kind if kind == "publish" else "other", kind)


def split_marks(
    by_arm: Mapping[str, Sequence[Mapping[str, Any]]],
) -> tuple[list[Mark], dict[str, list[Mark]]]:
    """(shared by all arms, own marks of each arm).

    A shift, fault or verifier update reaches every arm at the same request, so at slightly different
    times: where all arms have it, the first arm's time stands for all.
    """
    marks = {arm: [read_mark(e) for e in events] for arm, events in by_arm.items()}
    named = {arm: list(_numbered(found)) for arm, found in marks.items()}
    sets = [{key for key, _ in found if key[0] in SHARED} for found in named.values()]
    common = set.intersection(*sets) if sets else set()
    first = next(iter(named.values()), [])
    shared = [mark for key, mark in first if key in common]
    return shared, {arm: [m for key, m in found if key not in common] for arm, found in named.items()}


def _numbered(marks: Sequence[Mark]) -> Iterator[tuple[tuple[str, str, int], Mark]]:
    """Each mark behind (glyph, label, how many of these came before)."""
    seen: Counter[tuple[str, str]] = Counter()
    for mark in marks:
        key = (mark.glyph, mark.label)
        yield (*key, seen[key]), mark
        seen[key] += 1


def _swap(detail: Mapping[str, Any]) -> str:
    if not detail.get("ok", True):
        return "failed swap"
    drafter = str(detail.get("drafter", ""))
    if drafter == "static":
        return "to static"
    return "rollback" if drafter.startswith("version:") else "swap"
