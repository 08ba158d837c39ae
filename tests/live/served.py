"""One real server for a test: started, asked for greedy texts at K = 3, tapped."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np

from harness.contract import constant_k
from harness.live.assemble import Assembler
from harness.live.cell import Station
from harness.live.link import STEP, STEP_ROW, Link
from harness.live.load import Ask, drive
from harness.live.models import ModelSpec
from harness.live.prompts import Generated
from harness.live.server import Server, ServerConfig, Worker
from harness.live.workload import Workload
from harness.speculator.texts import load_tokenizer
from harness.speculator.traces import Trace
from workloads.scenario import load_scenario


@contextmanager
def served(model: ModelSpec, folder: Path) -> Iterator[Station]:
    folder.mkdir()
    link = Link.create(traces_bytes=1 << 23)
    station = Station(Server.start(ServerConfig(model, link.folder), link, folder / "server.log"), folder)
    try:
        station.server.wait_ready()
        link.control.write_schedule(constant_k(3))
        yield station
    finally:
        station.close()


def asks_of(model: ModelSpec, n: int) -> list[Ask]:
    workload = Workload(
        load_scenario("domain-shift"), n, 1.0, Generated(load_tokenizer(Path(model.target)), n)
    )
    return replace(workload, load=8.0 / workload.rate()).asks(0)


def texts_of(station: Station, asks: list[Ask]) -> list[tuple[int, ...]]:
    model = station.server.config.model
    answers = asyncio.run(
        drive(
            station.server.url,
            model.name,
            asks,
            began=time.monotonic(),
            most_tokens=48,
            timeout=60.0,
            temperature=0.0,
        )
    )
    assert all(a.status == "finished" for a in answers), [a for a in answers if a.status != "finished"][:1]
    return [tuple(a.tokens) for a in answers]


def length(station: Station, asks: list[Ask]) -> float:
    """Acceptance length at K = 3."""
    list(station.server.link.steps.take())
    texts_of(station, asks)
    rows = [np.frombuffer(c, STEP_ROW)[0] for kind, c in station.server.link.steps.take() if kind == STEP]
    verified = [r for r in rows if r["k"]]
    return sum(int(r["output_tokens"]) for r in verified) / sum(int(r["batch"]) for r in verified)


def whole_traces(station: Station, asks: list[Ask]) -> list[Trace]:
    """Of these requests, checked against their texts."""
    link = station.server.link
    list(link.traces.take())
    link.control.set("sample", 1.0)
    texts = texts_of(station, asks)
    link.control.set("sample", 0.0)
    texts_of(station, asks[:1])  # the end of the last request is told in the step after it
    traces = list(Assembler([], 0).feed(link.traces.take()))
    assert len(traces) == len(asks), "one worker taps"
    for trace in traces:
        text = texts[trace.request_id]
        assert tuple(trace.tokens[trace.prompt_tokens :][: len(text)].tolist()) == text
    assert Worker(link).state()["tap_error"] == ""
    return traces
