"""A draft model that needs nothing of its target but tokens is served, tapped and swapped as a head is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("vllm")
from served import asks_of, length, served, texts_of, whole_traces

from harness.contract import constant_k
from harness.live.cell import Station
from harness.live.models import model_spec
from harness.live.server import Worker
from harness.speculator import checkpoint, draft_model
from harness.speculator.rows import sequences_of
from harness.speculator.target import Ends
from harness.speculator.tiny.make import made_model

pytestmark = [pytest.mark.slow, pytest.mark.live]

REQUESTS = 10


@pytest.fixture(scope="module")
def station(tmp_path_factory) -> Iterator[Station]:
    made_model("tiny+llama")
    with served(model_spec("tiny+llama"), tmp_path_factory.mktemp("alone") / "server") as found:
        yield found


def test_texts_are_the_targets_own(station: Station):
    asks = asks_of(station.server.config.model, REQUESTS)
    drafted = texts_of(station, asks)
    station.server.link.control.write_schedule(constant_k(0))
    assert sum(a == b for a, b in zip(drafted, texts_of(station, asks), strict=True)) >= REQUESTS - 1
    station.server.link.control.write_schedule(constant_k(3))


def test_new_weights_serve_and_the_server_accepts_what_the_learner_says(station: Station, tmp_path: Path):
    """One that knows nothing, then the first again: each is proven by its probe, and drafts what our own sums say."""
    model = station.server.config.model
    asks, ends = asks_of(model, REQUESTS), Ends.load(Path(model.target))
    knowing, fresh = draft_model.load(Path(model.head), ends), draft_model.untrained(Path(model.head), ends)
    worker, lengths = Worker(station.server.link), [length(station, asks)]
    for version, drafter in enumerate((fresh, knowing), 1):
        path = tmp_path / f"{version}.safetensors"
        checkpoint.save(checkpoint.snapshot(drafter), path)
        answer = worker.swap(path, version)
        assert answer["ok"], answer
        lengths.append(length(station, asks))
        traces = whole_traces(station, asks)
        assert {t.drafter_version for t in traces} == {version}
        batch = sequences_of(traces)
        accepted = drafter.accepted(batch, 3)
        for row, trace in zip(accepted, traces, strict=True):
            assert trace.fused.shape == (len(trace), 0)
            said = row[trace.at - batch.start].clamp(max=(trace.drafted >= 0).sum(-1))
            near = (said == trace.accepted).float().mean()
            assert near > 0.95, "the learner drafts as the server does"
    assert lengths[1] < 1.1 < lengths[0]
    assert lengths[2] == pytest.approx(lengths[0], rel=0.1)
