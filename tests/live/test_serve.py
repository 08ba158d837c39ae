"""`specdrift serve` without a server: what it tells of events, and what it refuses beforehand."""

from __future__ import annotations

import io
import json

import pytest

pytest.importorskip("torch")
pytest.importorskip("aiohttp")

from harness.contract import Event
from harness.errors import InputError
from harness.live.models import ModelSpec
from harness.live.serve import ServeJob, Teller, serve

SPEC = ModelSpec("m", "/no/target", "/no/head", "float32", 1, 512, 16, "cpu")


def test_events_go_to_the_file_to_listeners_and_but_for_ticks_to_the_terminal(tmp_path):
    path, heard, out = tmp_path / "events.jsonl", [], io.StringIO()
    teller = Teller(path, [heard.extend], out)
    events = [Event(1.0, "tick", {"tokens": 5}), Event(2.0, "swap", {"version": 1, "ok": True})]
    teller.events(events)
    teller.close()
    assert heard == events
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert lines == [
        {"time": 1.0, "kind": "tick", "tokens": 5},
        {"time": 2.0, "kind": "swap", "version": 1, "ok": True},
    ]
    assert out.getvalue() == "specdrift [    2.0 s] swap: version 1, ok True\n"


def test_a_file_of_events_is_added_to(tmp_path):
    path = tmp_path / "events.jsonl"
    for kind in ("publish", "swap"):
        teller = Teller(path, out=io.StringIO())
        teller.events([Event(0.0, kind, {})])
        teller.close()
    assert [json.loads(line)["kind"] for line in path.read_text().splitlines()] == ["publish", "swap"]


def test_metrics_need_a_port_of_their_own():
    with pytest.raises(InputError, match="metrics port 8000 is the server's own"):
        serve(ServeJob(SPEC, "bandit", port=8000, metrics_port=8000))
