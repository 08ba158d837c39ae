"""What the server's scheduler writes, gathered by tick."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest

from harness.contract import PositionCounts, Slo
from harness.live.feed import Feed
from harness.live.link import BEGIN, END, STEP, STEP_ROW, VERIFIED, VERIFY_ROW

Record = tuple[int, bytes]


def step(**fields: float) -> Record:
    row = np.zeros(1, STEP_ROW)
    for name, value in fields.items():
        row[name] = value
    return STEP, row.tobytes()


def verified(*rows: tuple[int, int, int, int]) -> Record:
    """(number, at, k, accepted) of each request."""
    return VERIFIED, np.array([(*row, 0) for row in rows], VERIFY_ROW).tobytes()


def begin(number: int, domain: str = "code", tenant: str = "acme", arrival: float = 0.0) -> Record:
    said = {"number": number, "arrival": arrival, "prompt_tokens": 9, "request_id": 100 + number}
    return BEGIN, json.dumps(said | {"domain": domain, "tenant": tenant}).encode()


def end(number: int, **fields: Any) -> Record:
    said = {
        "number": number,
        "scheduled": 1.0,
        "first_token": 2.0,
        "finish": 5.0,
        "output_tokens": 4,
        "ok": True,
    }
    return END, json.dumps(said | fields).encode()


def fed(*records: Record, slo: dict[str, Slo] | None = None) -> Feed:
    feed = Feed(slo or {})
    feed.read(records)
    return feed


def test_steps_are_kept_in_order_and_handed_over_once():
    feed = fed(step(start=1.0, batch=2), step(start=2.0, batch=3))
    assert feed.steps == 2
    assert feed.take().rows["batch"].tolist() == [2, 3]
    assert feed.steps == 0
    assert len(feed.take().rows) == 0
    feed.read([step(batch=4)])
    assert feed.take().rows["batch"].tolist() == [4]


def test_positions_count_what_was_offered_by_domain_and_tenant():
    """Up to and with the first rejection, under changing K."""
    feed = fed(
        begin(1), begin(2), begin(3, domain="chat"),
        verified((1, 0, 3, 0), (2, 0, 3, 3)), verified((1, 1, 1, 1), (3, 0, 2, 1)), verified((2, 4, 5, 3)),
    )  # fmt: skip
    tick = feed.take()
    assert tick.positions() == {
        ("code", "acme"): PositionCounts((4, 2, 2, 1, 0), (3, 2, 2, 0, 0)),
        ("chat", "acme"): PositionCounts((1, 1), (1, 0)),
    }
    assert sum(map(len, tick.verified)) == 5
    assert feed.take().positions() == {}


def test_verify_steps_of_an_unknown_request_are_recorded_but_not_counted():
    feed = fed(verified((7, 0, 3, 2)))
    tick = feed.take()
    assert tick.positions() == {}
    assert tick.verified[0]["number"].tolist() == [7]
    assert feed.request_of(7) == -1


def test_a_request_is_known_until_its_last_tick_is_dealt_with():
    feed = fed(begin(1), begin(2), verified((1, 0, 2, 1)), end(1))
    tick = feed.take()
    assert [live.request_id for live in tick.ended] == [101]
    assert (feed.request_of(1), feed.request_of(2)) == (101, 102)
    feed.forget(tick)
    assert (feed.request_of(1), feed.request_of(2)) == (-1, 102)
    feed.read([end(1)])
    assert feed.take().ended == [], "nobody ends twice"


@pytest.mark.parametrize(
    ("slo", "met"),
    [
        (Slo(), True),
        (Slo(ttft=1.5, tpot=1.0), True),
        (Slo(ttft=1.4), False),
        (Slo(tpot=0.9), False),
    ],
)
def test_slo_of_a_tenant(slo: Slo, met: bool):
    """Arrival 0.5, first token at 2, end at 5, four tokens: 1.5 s, then 1 s a token."""
    feed = fed(
        begin(1, arrival=0.5), begin(2, tenant="other", arrival=0.5), end(1), end(2), slo={"acme": slo}
    )
    assert feed.take().met == [met, True]


def test_aborted_requests_end_but_meet_nothing():
    feed = fed(begin(1), begin(2), end(1, ok=False, output_tokens=0), end(2, first_token=None))
    tick = feed.take()
    assert (len(tick.ended), tick.met) == (2, [])


def test_one_token_has_no_time_per_token():
    feed = fed(begin(1), end(1, output_tokens=1, finish=2.0), slo={"acme": Slo(tpot=0.001)})
    assert feed.take().met == [True]


def test_gauges_are_those_of_the_last_step():
    feed = fed(
        step(batch=9), step(batch=4, running=5, waiting=2, kv_blocks=30, kv_total=120, context_tokens=1000)
    )
    feed.take()
    gauges = feed.gauges(7.5)
    assert (gauges.time, gauges.running, gauges.waiting) == (7.5, 5, 2)
    assert (gauges.kv_use, gauges.mean_context) == (0.25, 250.0)


def test_gauges_of_a_server_that_did_nothing_yet_or_has_nothing_left():
    gauges = fed().gauges(0.0)
    assert (gauges.running, gauges.waiting, gauges.kv_use, gauges.mean_context) == (0, 0, 0.0, 0.0)
    assert not math.isnan(fed(step(running=0, kv_blocks=1, kv_total=100)).gauges(1.0).kv_use)
    assert fed(step(running=0, kv_blocks=1, kv_total=100)).gauges(1.0).kv_use == 0.0
