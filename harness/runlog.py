"""The only door between stages: write, read and validate a run directory.

A run directory, whoever made it (the simulator or a live server):

- `run.json`: what was run. Required: `mode` (`sim` or `live`), `scenario` (its name), `seeds`
  (whole numbers), `arms` (name -> settings of that arm, in the order of display).
  Known to readers as well:
  `configuration`, the resolved settings that make two runs comparable (workload, engine, latency
  model, acceptance source: not the arms' own); `latency` and `acceptance`, where those numbers come
  from; per arm `policy` (its name, default: the arm's), `kind` (`static`, `adaptive` or `oracle`,
  default: by the policy's name), `accelerators` (serving, default 1) and `trainer_accelerators` (held
  beside them for training, default 0; a trainer that shares the server's accelerator costs through
  the step times instead), `context` (what its policy was told beforehand: fields of `PolicyContext`).
  A replay also reads `configuration.scenario` (a dump of it) and `configuration.engine` (fields of
  `sim.engine.EngineConfig`, as far as the server told them).
  `schema_version`, `time_unit` and `provenance` are added on writing.
- `steps.parquet`, `requests.parquet`, `events.parquet`: the columns of `contract.StepRecord`,
  `RequestRecord` and `Event` (detail as JSON), behind `arm` and `seed`. Times are seconds since the
  run began.
  Event details that readers use: `swap` has `version`, `stall` (seconds) and `ok`; `trainer` has
  `busy_seconds`, the seconds its accelerators worked so far (the last one counts); `trained`, in live runs,
  has `spans`, from when to when it worked; `replay` has `exact`, `censored` and `absent`, the verify steps
  that a replay knew and those it had to draw.
- `verify.parquet`, only in runs that recorded it (live ones): the columns of `contract.VerifyRecord`
  behind `arm` and `seed`, the verify steps of a request in order. `--acceptance replay:RUN` reads it.
- `believed-latency.json.gz`, only in live runs: the fitted latency model that policies were told (`latency.store`).
- `summary.json`: written by `compare.summarise`; `report.html`: written by `reports`;
  `side-by-side.json`, beside a live run that was simulated as well: written by `compare.side_by_side`.

Bytes of the tables depend on the configuration and the seeds only, never on worker timing.
"""

from __future__ import annotations

from harness.runlog_read import Run, read_json, read_run
from harness.runlog_schema import OPTIONAL, SCHEMA_VERSION, SCHEMAS
from harness.runlog_write import CellWriter, RunWriter, write_json

__all__ = [
    "OPTIONAL",
    "SCHEMAS",
    "SCHEMA_VERSION",
    "CellWriter",
    "Run",
    "RunWriter",
    "read_json",
    "read_run",
    "write_json",
]
