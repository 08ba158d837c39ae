"""A model that two worker processes hold together (tensor parallelism) is served, tapped and swapped as any other."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("vllm")
import torch
from served import asks_of, length, served, texts_of, whole_traces

from harness.live.cell import Station
from harness.live.load import Ask
from harness.live.models import ModelSpec, model_spec
from harness.live.server import Worker
from harness.speculator import checkpoint
from harness.speculator.tiny.make import _make
from harness.speculator.tiny.spec import TinySpec

pytestmark = [pytest.mark.slow, pytest.mark.live]

EVEN = TinySpec("even", 8, 128, 4, 2, 128, 512, 320, 60, 20, 48, 2, batch=8, length=96, lr=6e-3)
"""As `micro`, of sizes that two workers share evenly, and layers enough for three different ones to feed the head."""


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> ModelSpec:
    folder = tmp_path_factory.mktemp("even")
    _make(EVEN, 0, folder, lambda *_: None)
    return replace(model_spec(str(folder)), successor=folder / "successor")


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


@pytest.mark.parametrize("name", ["pipeline_parallel_size", "data_parallel_size"])
def test_workers_that_hold_other_layers_or_copies_are_refused(name: str):
    from harness.live.worker import _check

    sizes = {"pipeline_parallel_size": 1, "data_parallel_size": 1, "tensor_parallel_size": 4}
    _check(SimpleNamespace(**sizes))
    with pytest.raises(RuntimeError, match=f"{name} is 2"):
        _check(SimpleNamespace(**sizes | {name: 2}))
