"""ServeGen tables: per client and window a rate and a gap law, per client and longer window length
histograms.

Rates: CSV `client,timestamp,rate,cv,pattern,param1,param2` (Gamma: shape, scale; Weibull: c, scale), in the
file `..._rates.csv[.gz]`. Lengths: JSONL `client,timestamp,input_tokens,output_tokens`, each histogram the
text "{tokens: probability, ...}", in `..._lengths.jsonl[.gz]` beside it. The tables are laws, not requests:
requests are drawn from them with a seed. Input and output lengths are drawn independently, as the tables hold
no more. Source: github.com/alibaba/ServeGen (Xiang et al., arXiv 2505.09999).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from harness.errors import InputError
from harness.rng import stream
from workloads.arrivals import ClientWindow, Gaps, superpose
from workloads.traces.row import Row, csv_rows, json_rows, member, seconds, tokens
from workloads.traces.stream import TraceReport
from workloads.traces.textfile import TextFile

COLUMNS = ("client", "timestamp", "rate", "cv", "pattern", "param1", "param2")
_IDLE = ClientWindow(0.0)
Histogram = tuple[NDArray[np.int64], NDArray[np.float64]]


def lengths_path(rates: Path) -> Path:
    """Where the length table of a rate table lies."""
    if "_rates.csv" not in rates.name:
        raise InputError(f"ServeGen rate table {rates} must be named ..._rates.csv or ..._rates.csv.gz")
    return rates.with_name(rates.name.replace("_rates.csv", "_lengths.jsonl"))


def rows(file: TextFile, report: TraceReport, seed: int, scale: float) -> Iterator[Row]:
    """Requests drawn from the tables until their last window ends; every client's rate times `scale`.

    The row's line is the number of the request: there is no line to point at.
    """
    rates = _read_rates(file)
    lengths = _read_lengths(TextFile(lengths_path(file.path)))
    lengths.cover(sorted(rates.clients), stream(seed, "servegen", "borrow"))
    draws = stream(seed, "servegen", "lengths")
    names = sorted(rates.clients)
    rngs = [stream(seed, "servegen", "client", name) for name in names]
    number = 0
    for times, owners in superpose(rngs, rates.windows(names, scale), rates.window):
        # in groups by client, so that a window's requests cost one draw per client
        prompts, outputs = np.empty(len(times), dtype=np.int64), np.empty(len(times), dtype=np.int64)
        for owner in np.unique(owners):
            mine = np.flatnonzero(owners == owner)
            tables = lengths.at(names[owner], float(times[0]))
            prompts[mine], outputs[mine] = (_draw(table, draws, len(mine)) for table in tables)
            report.borrowed += len(mine) if names[owner] in lengths.borrowed else 0
        for time, prompt, output in zip(times.tolist(), prompts.tolist(), outputs.tolist(), strict=True):
            number += 1
            yield Row(time, number, prompt, output)


@dataclass(slots=True)
class _Rates:
    window: float
    count: int
    """Windows from the first to the last, those without a row included."""
    clients: dict[int, dict[int, ClientWindow]]
    """Per client, by the window's number."""

    def windows(self, names: Sequence[int], scale: float) -> Iterator[list[ClientWindow]]:
        for number in range(self.count):
            laws = [self.clients[name].get(number, _IDLE) for name in names]
            yield [ClientWindow(law.rate * scale, law.gaps) for law in laws]


def _read_rates(file: TextFile) -> _Rates:
    clients: dict[int, dict[float, ClientWindow]] = {}
    for client, start, rate, _, pattern, shape, _ in csv_rows(file, COLUMNS):
        name = file.parse(int, client, "client", "a whole number")
        speed = seconds(file, rate, "rate")
        law = ClientWindow(speed, _gaps(file, pattern, shape)) if speed > 0 else _IDLE
        clients.setdefault(name, {})[seconds(file, start, "timestamp")] = law
    stamps = sorted({stamp for table in clients.values() for stamp in table})
    if len(stamps) < 2:
        raise file.error(f"{len(stamps)} windows; at least two are needed to know how long one is")
    window = min(b - a for a, b in itertools.pairwise(stamps))
    numbers = {stamp: round((stamp - stamps[0]) / window) for stamp in stamps}
    for stamp, number in numbers.items():
        if abs(stamps[0] + number * window - stamp) > 1e-6 * window:
            raise file.error(
                f"timestamp {stamp:g} is not a whole number of {window:g} s windows after the first"
            )
    by_number = {
        name: {numbers[stamp]: law for stamp, law in table.items()} for name, table in clients.items()
    }
    return _Rates(window, numbers[stamps[-1]] + 1, by_number)


def _gaps(file: TextFile, pattern: str, shape: str) -> Gaps:
    """The table's rate column is the rate: the fitted scale is left aside, as its mean often differs from
    it."""
    if pattern not in ("Gamma", "Weibull"):
        raise file.error(f"pattern is {pattern!r}; it must be 'Gamma' or 'Weibull' where the rate is not 0")
    value = seconds(file, shape, "param1")
    if not value > 0:
        raise file.error(f"param1 is {shape}; the shape of a {pattern} law must be positive")
    return Gaps("gamma" if pattern == "Gamma" else "weibull", value)


@dataclass(slots=True)
class _Lengths:
    texts: dict[int, list[tuple[float, str, str]]]
    """Per client, in order of time; parsed only when reached, since most of a long table never is."""
    file: TextFile
    borrowed: dict[int, int] = field(default_factory=dict)
    """Lender of each client that has no table."""
    _cache: dict[int, tuple[float, tuple[Histogram, Histogram]]] = field(default_factory=dict)

    def cover(self, names: Sequence[int], rng: np.random.Generator) -> None:
        """Let each client without a table borrow that of one drawn at random."""
        lenders = sorted(self.texts)
        for name in names:
            if name not in self.texts:
                self.borrowed[name] = lenders[int(rng.integers(len(lenders)))]

    def at(self, client: int, time: float) -> tuple[Histogram, Histogram]:
        """The client's input and output histograms at `time`: the latest that has begun, else its first."""
        owner = self.borrowed.get(client, client)
        tables = self.texts[owner]
        start, prompt, output = next((t for t in reversed(tables) if t[0] <= time), tables[0])
        held = self._cache.get(owner)
        if held is None or held[0] != start:
            held = (start, (_histogram(self.file, prompt), _histogram(self.file, output)))
            self._cache[owner] = held
        return held[1]


def _read_lengths(file: TextFile) -> _Lengths:
    texts: dict[int, list[tuple[float, str, str]]] = {}
    for row in json_rows(file):
        client, stamp, prompt, output = (
            member(file, row, (key,)) for key in ("client", "timestamp", "input_tokens", "output_tokens")
        )
        entry = (seconds(file, stamp, "timestamp"), str(prompt), str(output))
        texts.setdefault(tokens(file, client, "client"), []).append(entry)
    if not texts:
        raise file.error("the length table is empty", 1)
    for entries in texts.values():
        entries.sort(key=lambda entry: entry[0])
    return _Lengths(texts, file)


def _histogram(file: TextFile, text: str) -> Histogram:
    """Values and cumulative shares of "{tokens: probability, ...}"."""
    try:
        cells = np.array(text.strip("{} ").replace(":", ",").split(","), dtype=np.float64)
        values, shares = cells.reshape(-1, 2).T
    except ValueError as error:
        raise InputError(
            f"{file.path}: {text[:40]!r}... is not a histogram {{tokens: probability}}"
        ) from error
    if not (np.isfinite(cells).all() and (cells >= 0).all() and shares.sum() > 0):
        raise InputError(f"{file.path}: histogram {text[:40]!r}... has a negative or no probability")
    return values.astype(np.int64), np.cumsum(shares) / shares.sum()


def _draw(table: Histogram, rng: np.random.Generator, n: int) -> NDArray[np.int64]:
    values, cumulative = table
    picks = np.searchsorted(cumulative, rng.random(n), side="right")
    return values[np.minimum(picks, len(values) - 1)]
