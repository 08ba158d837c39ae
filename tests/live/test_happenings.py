"""What a scenario has in store happens in a live cell at the request that it names."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

from harness.live import cell
from workloads.scenario import load_scenario


def test_a_shift_is_of_the_moment_that_its_first_request_was_due():
    """Noted later, that request would count to the traffic before it."""
    scenario = load_scenario("domain-shift")
    asks = [SimpleNamespace(request=SimpleNamespace(arrival=0.1 * i)) for i in range(100)]
    noted = []
    late = SimpleNamespace(now=60.0, note=lambda kind, at=None, **detail: noted.append((kind, at)))
    asyncio.run(cell._happen(late, None, scenario, asks))
    due = [("shift", 0.1 * int(s.at * 100)) for s in scenario.shifts()]
    assert due
    assert noted == due
