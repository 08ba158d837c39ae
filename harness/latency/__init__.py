"""The latency (cost) model: `load(name)` gives one, `predict(StepShape)` asks it.

Read in order: `shape` (what a step is), `model` (what an answer is), `compiled` (how it is computed).
Sources: `published` (a fit), `roofline` (specification sheets, `specs.toml`), `measured` (kernel tables).
Checks: `sanity` (published speedups), `heldout` (error of tables where they were not measured).
To add a source, build a `LatencyModel` whose `CompiledLatency` is filled from it, and name it in `load`.
"""

from __future__ import annotations

from pathlib import Path

from harness.errors import InputError, UnknownName
from harness.latency import measured, published, roofline, specs
from harness.latency.model import LatencyModel, Prediction
from harness.latency.shape import StepShape, decode_shape

__all__ = ["LatencyModel", "Prediction", "StepShape", "decode_shape", "load", "names"]


def names() -> list[str]:
    """The names `load` knows: the published fit, and each roofline on as few GPUs as hold the model.

    A roofline takes any `:tpN` that divides the KV heads; besides names, `load` takes a folder of tables.
    """
    pairs = [(gpu, model) for gpu in specs.gpu_names() for model in specs.model_names()]
    return [published.NAME] + [roofline.smallest(gpu, model) for gpu, model in pairs]


def load(name_or_path: str, ep: int = 1, draft: str | None = None, gap: float | None = None) -> LatencyModel:
    """The latency model of a name (see `names`) or of a folder of measured tables.

    Args:
        ep: ranks over which a folder's experts are spread (tables of a mixture of experts only).
        draft: "roofline" gives a folder's model an analytic EAGLE-3 head; folders only.
        gap: seconds per step beyond kernels, instead of the model's own figure.

    Raises:
        InputError, UnknownName, MissingPart.
    """
    if gap is not None and not 0.0 <= gap < 1.0:
        raise InputError(f"gap is {gap}; it must be seconds per step, in 0..1")
    gap = None if gap is None else float(gap)
    if _is_folder(name_or_path):
        return measured.build(name_or_path, ep, draft, gap)
    if ep != 1 or draft is not None:
        raise InputError(f"ep and draft apply to folders of tables; {name_or_path!r} is a named model")
    if name_or_path == published.NAME:
        return published.build(gap)
    if name_or_path.startswith("roofline:"):
        return roofline.build(name_or_path, gap)
    raise UnknownName("latency model", name_or_path, names())


def _is_folder(name: str) -> bool:
    return Path(name).exists() or "/" in name or "\\" in name
