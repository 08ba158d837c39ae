"""What arrives: scenarios, arrival processes, mixtures of domains, and traces.

Three files to start with: `scenario.py` (everything of a run that is not a policy or a seed), `generate.py`
(requests from it) and `traces/` (requests from recorded traffic). To add an arrival process, write its times
in `arrivals.py` and its table in `arrival_spec.py`; a trace format, one module in `traces/` and a line in
its `FORMATS`; a domain, a table in `domains.toml`; a scenario, a file in `scenarios/`.
`docs/workloads.md` describes them all.
"""

from workloads.generate import apply_trace, generate
from workloads.scenario import Scenario, load_scenario, scenario_names
from workloads.traces import read_trace, write_trace

__all__ = [
    "Scenario",
    "apply_trace",
    "generate",
    "load_scenario",
    "read_trace",
    "scenario_names",
    "write_trace",
]
