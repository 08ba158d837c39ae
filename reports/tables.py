"""Tables as plain data for the templates: what summary.json holds, rounded and labelled, nothing computed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

from reports.arms import Arm
from reports.numbers import common_digits, number

ARROWS = {
    "higher": ("↑", "higher is better"),
    "lower": ("↓", "lower is better"),
    "neither": ("", "neither direction is better"),
}


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a table."""

    title: str
    unit: str = ""
    better: str = "neither"
    group: str = ""
    """Heading over neighbouring columns of the same group; it then carries their unit and direction."""
    left: bool = False
    """Text, set to the left, rather than numbers."""

    @property
    def arrow(self) -> tuple[str, str]:
        return ARROWS[self.better]


@dataclass(frozen=True, slots=True)
class Cell:
    """Text of one cell; `share` (0..1) draws a bar behind it, `mark` flags it."""

    text: str
    share: float | None = None
    mark: str = ""
    data: Mapping[str, str] = field(default_factory=dict)
    """data-* attributes, for scripts that read the page back."""


@dataclass(frozen=True, slots=True)
class Row:
    """One row: an arm, or another label."""

    label: str
    cells: tuple[Cell, ...]
    arm: Arm | None = None


@dataclass(frozen=True, slots=True)
class Table:
    """Rows are arms unless `corner` says otherwise."""

    caption: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    corner: str = "arm"
    note: str = ""

    @property
    def groups(self) -> list[tuple[Column, int]]:
        """Runs of columns under one heading: (first column, how many); empty when no column has a heading."""
        runs = [(columns[0], len(columns)) for _, columns in self._runs()]
        return runs if any(column.group for column, _ in runs) else []

    def _runs(self) -> list[tuple[str, list[Column]]]:
        return [(name, list(columns)) for name, columns in groupby(self.columns, lambda c: c.group)]


@dataclass(frozen=True, slots=True)
class Source:
    """Where a column's values come from, and how they are shown."""

    column: Column
    read: Callable[[Mapping[str, Any]], float | None]
    """From one arm's entry of the summary."""
    factor: float = 1.0
    digits: int | None = None
    """Decimals; None: as many as the column's largest value needs."""


def arm_table(
    caption: str, sources: Sequence[Source], arms: Iterable[Arm], summary: Mapping[str, Any], note: str = ""
) -> Table:
    """One row per arm; an arm that the summary lacks has dashes."""
    arms = list(arms)
    columns = [_texts(source, [summary["arms"].get(arm.name) for arm in arms]) for source in sources]
    rows = tuple(
        Row(arm.name, tuple(Cell(column[i]) for column in columns), arm) for i, arm in enumerate(arms)
    )
    return Table(caption, tuple(s.column for s in sources), rows, note=note)


def _texts(source: Source, entries: Sequence[Mapping[str, Any] | None]) -> list[str]:
    values = [source.read(entry) if entry is not None else None for entry in entries]
    digits = source.digits if source.digits is not None else common_digits(values, source.factor)
    return [number(value, digits, source.factor) for value in values]
