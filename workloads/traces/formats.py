"""The table of trace formats, and how a file's first line tells which it is."""

from __future__ import annotations

import os
from dataclasses import dataclass

from harness.errors import InputError, UnknownName
from workloads.traces import azure, burstgpt, mooncake, records, servegen
from workloads.traces.row import csv_cells, json_object
from workloads.traces.textfile import TextFile


@dataclass(frozen=True, slots=True)
class Format:
    """What sets one format apart; each entry of `needs` is a tuple of names of which one must be there."""

    needs: tuple[tuple[str, ...], ...]
    json: bool
    wall_clock: bool = False
    """Times are a clock's, so reading makes the first arrival 0; otherwise they are seconds since the run
    began."""
    ticks: bool = False
    """Times may be recorded in coarse ticks, within which arrivals are spread."""

    def lacks(self, names: set[str]) -> list[str]:
        return [options[0] for options in self.needs if not names.intersection(options)]


def _each(names: tuple[str, ...]) -> tuple[tuple[str, ...], ...]:
    return tuple((name,) for name in names)


FORMATS: dict[str, Format] = {
    "azure": Format(_each(azure.COLUMNS), json=False, wall_clock=True),
    "mooncake": Format(_each(mooncake.KEYS), json=True, ticks=True),
    "burstgpt": Format(_each(burstgpt.COLUMNS), json=False, ticks=True),
    "servegen": Format(_each(servegen.COLUMNS), json=False),
    "measured": Format(_each(records.MEASURED), json=True, wall_clock=True),
    "jsonl": Format((records.ARRIVAL, records.PROMPT, records.OUTPUT), json=True),
}


def format_named(name: str) -> Format:
    """The format of that name, or UnknownName."""
    if name not in FORMATS:
        raise UnknownName("trace format", name, FORMATS)
    return FORMATS[name]


def detect_format(path: str | os.PathLike[str]) -> str:
    """The format of the file, from the columns or keys of its first line; InputError naming the nearest if
    none."""
    file = TextFile(path)
    lines = file.lines()
    first = next(lines, None)
    lines.close()  # type: ignore[attr-defined]
    if first is None:
        raise InputError(f"trace {file.path} is empty")
    is_json = first.lstrip().startswith("{")
    names = {name.strip() for name in (json_object(file, first) if is_json else csv_cells(file, first))}
    missing = {name: form.lacks(names) for name, form in FORMATS.items() if form.json == is_json}
    found = [name for name, lacks in missing.items() if not lacks]
    if found:
        return found[0]
    nearest = min(missing, key=lambda name: len(missing[name]) / len(FORMATS[name].needs))
    raise file.error(
        f"the {'keys' if is_json else 'columns'} {', '.join(sorted(names))} fit no trace format; "
        f"nearest is {nearest}, which lacks {', '.join(missing[nearest])}"
    )
