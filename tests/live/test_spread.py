"""A model that two worker processes hold together (tensor parallelism) is served, tapped and swapped as any other."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("vllm")
import torch

from harness.contract import constant_k
from harness.live.assemble import Assembler
from harness.live.cell import Station
from harness.live.link import STEP, STEP_ROW, Link
from harness.live.load import Ask, drive
from harness.live.models import ModelSpec, model_spec
from harness.live.prompts import Generated
from harness.live.server import Server, ServerConfig, Worker
from harness.live.workload import Workload
from harness.speculator import checkpoint
from harness.speculator.texts import load_tokenizer
from harness.speculator.tiny.make import _make
from harness.speculator.tiny.spec import TinySpec
from workloads.scenario import load_scenario

pytestmark = [pytest.mark.slow, pytest.mark.live]

EVEN = TinySpec("even", 8, 128, 4, 2, 128, 512, 320, 60, 20, 48, 2, batch=8, length=96, lr=6e-3)
"""As `micro`, of sizes that two workers share evenly, and layers enough for three different ones to feed the head."""


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> ModelSpec:
    folder = tmp_path_factory.mktemp("even")
    _make(EVEN, 0, folder, lambda *_: None)
    return replace(model_spec(str(folder)), successor=folder / "successor")


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


def both_targets(station: Station, asks: list[Ask]) -> list[list[tuple[int, ...]]]:
    worker, model = Worker(station.server.link), station.server.config.model
    texts = [texts_of(station, asks)]
    for folder, version in ((model.successor, 1), (Path(model.target), 0)):
        answer = worker.swap(folder, version, "verifier")
        assert answer["ok"], answer
        texts.append(texts_of(station, asks))
    return texts


def test_two_workers_say_draft_and_change_as_one_does(model, tmp_path):
    asks = asks_of(model, 8)
    with served(model, tmp_path / "one") as one:
        alone, alone_length = both_targets(one, asks), length(one, asks)
    with served(replace(model, tensor_parallel=2), tmp_path / "two") as two:
        together = both_targets(two, asks)
        for mine, others in zip(alone, together, strict=True):
            assert (
                sum(a == b for a, b in zip(mine, others, strict=True)) >= 7
            )  # sums in another order: near ties
        assert together[0] == together[2] != together[1]
        assert length(two, asks) == pytest.approx(alone_length, rel=0.1)
        drafters_change_under_load(two, asks, tmp_path)
        whole_traces(two, asks)


def drafters_change_under_load(station: Station, asks: list[Ask], folder: Path) -> None:
    """Back and forth between the head and one of noise while texts are written; then each by itself."""
    head = checkpoint.load(Path(station.server.config.model.head) / "model.safetensors")
    torch.manual_seed(0)
    noise = {name: 0.02 * torch.randn_like(tensor) for name, tensor in head.weights.items()}
    paths = [folder / "head.safetensors", folder / "noise.safetensors"]
    checkpoint.save(head, paths[0])
    checkpoint.save(replace(head, weights=noise, weights_print=checkpoint.fingerprint(noise)), paths[1])
    worker, over, answers = Worker(station.server.link), threading.Event(), []

    def swap_on() -> None:
        while not over.is_set():
            answers.append(worker.swap(paths[len(answers) % 2], len(answers) + 1))

    before = texts_of(station, asks)
    swapping = threading.Thread(target=swap_on)
    swapping.start()
    try:
        during = texts_of(station, asks)
    finally:
        over.set()
        swapping.join()
    assert len(answers) >= 4
    assert all(a["ok"] for a in answers), answers
    assert sum(a == b for a, b in zip(before, during, strict=True)) >= 7
    lengths = []
    for path in (paths[1], paths[0]):
        assert worker.swap(path, 100 + len(lengths))["ok"]
        lengths.append(length(station, asks))
    assert lengths[0] < 1.1 < lengths[1]
    cut = folder / "cut.safetensors"
    cut.write_bytes(paths[0].read_bytes()[:2000])
    assert not worker.swap(cut, 200)["ok"]
    assert length(station, asks) == pytest.approx(lengths[1], rel=0.1)


def whole_traces(station: Station, asks: list[Ask]) -> None:
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


@pytest.mark.parametrize("name", ["pipeline_parallel_size", "data_parallel_size"])
def test_workers_that_hold_other_layers_or_copies_are_refused(name: str):
    from harness.live.worker import _check

    sizes = {"pipeline_parallel_size": 1, "data_parallel_size": 1, "tensor_parallel_size": 4}
    _check(SimpleNamespace(**sizes))
    with pytest.raises(RuntimeError, match=f"{name} is 2"):
        _check(SimpleNamespace(**sizes | {name: 2}))
