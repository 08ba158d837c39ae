"""One row of a trace, and the conversions that every format shares."""

from __future__ import annotations

import csv
import difflib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from harness.contract import UNKNOWN
from workloads.traces.textfile import TextFile


class Row(NamedTuple):
    """Ordered by arrival, then by line."""

    arrival: float
    """Seconds, on the trace's own clock."""
    line: int
    prompt: int
    output: int
    domain: str = UNKNOWN
    tenant: str = UNKNOWN
    hashes: tuple[int, ...] = ()


def csv_rows(file: TextFile, columns: Sequence[str]) -> Iterator[list[str]]:
    """The named columns of each data row, in the order asked for; the first line is the header."""
    reader = csv.reader(file.lines())
    try:
        header = [name.strip() for name in next(reader, [])]
        places = [_place(file, name, header) for name in columns]
        for cells in reader:
            if len(cells) != len(header):
                raise file.error(f"{len(cells)} cells where the header has {len(header)}")
            yield [cells[i] for i in places]
    except csv.Error as error:
        raise file.error(f"this is not CSV ({error})") from error


def csv_cells(file: TextFile, text: str) -> list[str]:
    """The cells of one line."""
    try:
        return next(csv.reader([text]), [])
    except csv.Error as error:
        raise file.error(f"this is not CSV ({error})") from error


def _place(file: TextFile, name: str, header: list[str]) -> int:
    if name in header:
        return header.index(name)
    near = difflib.get_close_matches(name, header, n=1)
    hint = f"; nearest is {near[0]!r}" if near else ""
    raise file.error(
        f"column {name!r} is missing; the header has {', '.join(header) or 'no column'}{hint}", 1
    )


def json_rows(file: TextFile) -> Iterator[Mapping[str, Any]]:
    """The object on each line."""
    for text in file.lines():
        yield json_object(file, text)


def json_object(file: TextFile, text: str) -> Mapping[str, Any]:
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise file.error(f"this is not JSON ({error.msg} at character {error.pos})") from error
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, thousands of brackets
        raise file.error(f"this is not JSON that we read ({error})") from error
    if not isinstance(value, dict):
        raise file.error(f"a {type(value).__name__} where a JSON object must stand")
    return value


def member(file: TextFile, row: Mapping[str, Any], names: Sequence[str]) -> Any:
    """The value under the first of `names` that the object has; InputError if it has none."""
    for name in names:
        if name in row:
            return row[name]
    raise file.error(f"key {names[0]!r} is missing; the object has {', '.join(sorted(row)) or 'no key'}")


def seconds(file: TextFile, value: Any, column: str, unit: float = 1.0) -> float:
    """A time in seconds, finite and not negative; `unit` is that of `value` in seconds."""
    time = file.parse(_number, value, column, "a number") * unit
    if not (math.isfinite(time) and time >= 0):
        raise file.error(f"{column} is {value}; it must be finite and not negative")
    return time


def tokens(file: TextFile, value: Any, column: str) -> int:
    """A whole number of tokens, not negative ("374.0" counts as whole)."""
    if type(value) is not int:
        number = file.parse(_number, value, column, "a whole number of tokens")
        if not number.is_integer():
            raise file.error(f"{column} is {value}; it must be a whole number of tokens")
        value = int(number)
    if not 0 <= value < 2**31:
        raise file.error(f"{column} is {value}; it must lie in 0..{2**31 - 1}")
    return value


def _number(value: Any) -> float:
    if isinstance(value, bool) or value is None:
        raise ValueError("not a number")
    return float(value)
