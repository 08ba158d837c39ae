"""From a run directory to a verdict: reads run logs and nothing else.

`summarise` condenses each cell (`cell.py`), pairs the arms over seeds (`pairs.py`, `interval.py`),
bins time series for the report (`series.py`), decides once (`verdict.py`) and writes summary.json.
`side_by_side` holds a live run against its own simulation. `docs/statistics.md` defines every metric and
argues each choice.
"""

from __future__ import annotations

from harness.compare.pairs import find_pair
from harness.compare.side_by_side import side_by_side
from harness.compare.summary import summarise
from harness.compare.verdict import best_static, verdict

__all__ = ["best_static", "find_pair", "side_by_side", "summarise", "verdict"]
