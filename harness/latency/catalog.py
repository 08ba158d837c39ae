"""From a name or path to a latency model."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from harness.errors import InputError, MissingPart, UnknownName
from harness.latency import fit as fitting
from harness.latency import importers, measured, published, recorded, roofline, specs, store
from harness.latency.importers import profile
from harness.latency.model import LatencyModel
from harness.latency.rows import KernelRows

DEFAULT_MODEL = "llama3-8b"
COMPOSED = ("AIConfigurator", "Vidur")
"""Layouts whose kernels are composed here; the rest are folders of whole-layer tables (`measured`)."""


def names() -> list[str]:
    """The names `load` knows: the published fit, the profiles that came with the package (each followed by
    `:<model>[:tpN]` for the models it holds), and each roofline on as few GPUs as hold the model.

    A roofline takes any `:tpN` that divides the KV heads; besides names, `load` takes files and folders.
    """
    profiled = [
        f"{name}:{model}"
        for name, path in profile.committed().items()
        for model in fitting.composable(_rows(path, path.stat().st_mtime_ns)[0])
    ]
    pairs = [(gpu, model) for gpu in specs.gpu_names() for model in specs.model_names()]
    return [published.NAME, *profiled] + [roofline.smallest(gpu, model) for gpu, model in pairs]


def load(
    name_or_path: str,
    ep: int = 1,
    draft: str | None = None,
    gap: float | None = None,
    model: str | None = None,
) -> LatencyModel:
    """The latency model of a name (see `names`), a folder of measured tables, a profile file (`.jsonl.gz`),
    a fitted model (`.json`, `.json.gz`) or a run directory, whose steps are then what is fitted.

    Args:
        ep: ranks over which a folder's experts are spread (tables of a mixture of experts only).
        draft: "roofline" gives tables without draft passes an analytic EAGLE-3 head; folders only.
        gap: seconds per step beyond kernels, instead of the model's own figure.
        model: which model to compose of kernels, `<model>[:tpN]`; profiles, AIConfigurator and Vidur only
            (default: llama3-8b).

    Raises:
        InputError, UnknownName, MissingPart.
    """
    if gap is not None and not 0.0 <= gap < 1.0:
        raise InputError(f"gap is {gap}; it must be seconds per step, in 0..1")
    gap = None if gap is None else float(gap)
    if _is_path(name_or_path):
        return _of_path(Path(name_or_path), name_or_path, ep, draft, gap, model)
    if ep != 1 or draft is not None:
        raise InputError(f"ep and draft apply to folders of tables; {name_or_path!r} is a named model")
    stem, _, wanted = name_or_path.partition(":")
    if stem in (found := profile.committed()):
        if wanted and model not in (None, wanted):
            raise InputError(f"{name_or_path!r} already names a model; model={model!r} contradicts it")
        return kernels(found[stem], name_or_path, wanted or model, None, gap)
    if model is not None:
        raise InputError(f"model applies to kernel profiles and tables; {name_or_path!r} is a named model")
    if name_or_path == published.NAME:
        return published.build(gap)
    if name_or_path.startswith("roofline:"):
        return roofline.build(name_or_path, gap)
    raise UnknownName("latency model", name_or_path, names())


def _is_path(name: str) -> bool:
    return (
        Path(name).exists() or "/" in name or "\\" in name or name.endswith((profile.SUFFIX, *store.SUFFIXES))
    )


def _of_path(
    path: Path, name: str, ep: int, draft: str | None, gap: float | None, model: str | None
) -> LatencyModel:
    if store.is_store(path):
        if ep != 1 or draft is not None or gap is not None or model is not None:
            raise InputError(
                f"{name!r} is a fitted model: ep, draft, gap and model were settled when it was fitted"
            )
        return store.read(path)
    if recorded.is_run(path):
        if ep != 1 or draft is not None or gap is not None or model is not None:
            raise InputError(f"{name!r} is a run: its steps hold what ep, draft, gap and model would settle")
        return recorded_run(path).model
    profiled = path.is_file() or path.name.endswith(profile.SUFFIX)
    if profiled or (path.is_dir() and importers.layout(path) in COMPOSED):
        if ep != 1:
            raise InputError(f"ep is {ep}, but the kernels of {name} are of dense layers")
        return kernels(path, name, model, draft, gap)
    if model is not None:
        raise InputError(f"model is {model!r}, but a folder of whole-layer tables holds one model")
    return measured.build(name, ep, draft, gap)


def kernels(
    path: Path, name: str, model: str | None = None, draft: str | None = None, gap: float | None = None
) -> LatencyModel:
    """The model composed of the kernels of a profile file or folder. Raises as `load`."""
    return fit(path, name, model, draft, gap).model


def fit(
    path: Path, name: str, model: str | None = None, draft: str | None = None, gap: float | None = None
) -> fitting.Fit:
    """As `kernels`, with its errors. The same call on an unchanged file is answered from memory."""
    if not path.exists():
        raise InputError(f"{str(path)!r} is neither a profile file nor a folder of kernel tables")
    changed = max(
        (p.stat().st_mtime_ns for p in ([path, *path.iterdir()] if path.is_dir() else [path])), default=0
    )
    return _fit(path, changed, name, model or DEFAULT_MODEL, draft, gap)


def recorded_run(path: Path) -> recorded.Recorded:
    """`recorded.fit_run`, answered from memory while the run is unchanged. Raises as that."""
    files = [path / "run.json", path / "steps.parquet"]
    return _recorded(path, max((p.stat().st_mtime_ns for p in files if p.exists()), default=0))


@lru_cache(maxsize=8)
def _recorded(path: Path, changed: int) -> recorded.Recorded:
    return recorded.fit_run(path)


@lru_cache(maxsize=8)
def _fit(
    path: Path, changed: int, name: str, model: str, draft: str | None, gap: float | None
) -> fitting.Fit:
    found: list[tuple[KernelRows, list[str]]] = []
    fitting.parse_model(model)
    for rows in _rows(path, changed):
        held = fitting.composable(rows)
        if model in held:
            return fitting.fit(rows, name, model, draft, gap)
        found.append((rows, held))
    offered = sorted({m for _, held in found for m in held})
    raise MissingPart(
        f"{str(path)!r} does not hold the kernels of {model}; it holds: {', '.join(offered) or 'none'}"
    )


@lru_cache(maxsize=8)
def _rows(path: Path, changed: int) -> list[KernelRows]:
    return importers.sources(path)
