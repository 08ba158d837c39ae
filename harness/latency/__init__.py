"""The latency (cost) model: `load(name)` gives one, `predict(StepShape)` asks it.

Read in order: `shape` (what a step is), `model` (what an answer is), `compiled` (how it is computed).
Sources: `published` (a fit), `roofline` (specification sheets, `specs.toml`), `measured` (whole layers in
tables), `fit` (kernels: our own profile, or public tables through `importers`), `recorded` (whole steps of
an engine that ran).
Checks: `sanity` (published speedups), `heldout`, `rowerror` and `gap` (error where nothing was measured),
`crosscheck` (two sources against each other); `specdrift calibrate` prints them.
To add a source, build a `LatencyModel` whose `CompiledLatency` is filled from it, and name it in `load`.
"""

from __future__ import annotations

from harness.latency.catalog import load, names
from harness.latency.model import LatencyModel, Prediction
from harness.latency.shape import StepShape, decode_shape

__all__ = ["LatencyModel", "Prediction", "StepShape", "decode_shape", "load", "names"]
