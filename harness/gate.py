"""The gate: a run's paired speedups against a committed baseline, decided on confidence intervals.

For each gated ratio the change since the baseline is taken seed by seed (both ran the same seeds of
the same configuration), so what the seeds have in common cancels. A ratio passes when its 95%
interval excludes a loss beyond the tolerance (non-inferiority). What cannot be decided fails too, as
does anything missing: a gate that lets doubt through cannot catch anything. docs/statistics.md argues it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from harness.compare import find_pair
from harness.compare.interval import from_logs
from harness.compare.metrics import HEADLINE
from harness.errors import InputError
from harness.runlog import Run, read_json, read_run, write_json

BASELINE_VERSION = 1
BASELINES = Path(__file__).resolve().parents[1] / "reports" / "baselines"
GATED_METRICS = (HEADLINE, "goodput")
TOLERANCE = 0.02
"""Loss that does not count as a regression, unless a baseline says otherwise."""
GOOD = ("pass", "improved")


@dataclass(frozen=True)
class GateRow:
    """One gated ratio. `change` is run / baseline with its 95% interval, paired by seed."""

    arm: str
    over: str
    metric: str
    status: str
    """`pass`, `improved`, `regressed`, `undecided` or `missing`."""
    detail: str
    baseline: float | None = None
    run: float | None = None
    change: float | None = None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class GateResult:
    """The gate's decision. `problems` are what kept it from comparing at all; any of them fails it."""

    run: str
    baseline: str
    tolerance: float | None = None
    problems: list[str] = field(default_factory=list)
    rows: list[GateRow] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return not self.problems and bool(self.rows) and all(r.status in GOOD for r in self.rows)

    @property
    def exit_code(self) -> int:
        """0 pass, 1 anything else."""
        return 0 if self.ok else 1

    @property
    def decision(self) -> str:
        """The outcome in one sentence."""
        if self.ok:
            return f"gate passes: {len(self.rows)} ratios held against {self.baseline}"
        bad = [f"{r.arm} over {r.over} by {r.metric}: {r.status}" for r in self.rows if r.status not in GOOD]
        return f"gate fails: {'; '.join([*self.problems, *bad]) or 'nothing was compared'}"

    def as_dict(self) -> dict[str, Any]:
        """Plain data for `--json`."""
        return {"ok": self.ok, "exit_code": self.exit_code, "decision": self.decision, **asdict(self)}

    def table(self) -> Table:
        """For a terminal: failing ratios first, each with what is wrong."""
        table = Table(title=f"gate: {'pass' if self.ok else 'FAIL'}", box=SIMPLE_HEAD, pad_edge=False)
        for name in ("arm over", "metric", "baseline", "run", "change (95%)", "status"):
            numeric = name in ("baseline", "run")
            table.add_column(name, justify="right" if numeric else "left", no_wrap=name != "arm over")
        for problem in self.problems:
            table.add_row(escape(problem), "", "", "", "", "[red]failed[/red]")
        for row in sorted(self.rows, key=lambda r: r.status in GOOD):
            colour = "green" if row.status in GOOD else "red"
            status = f"[{colour}]{row.status}[/{colour}]"
            change = "" if row.low is None else f"{row.change:.3f} ({row.low:.3f} to {row.high:.3f})"
            values = (_three(row.baseline), _three(row.run), change)
            table.add_row(f"{escape(row.arm)} / {escape(row.over)}", escape(row.metric), *values, status)
            if row.detail and row.status not in GOOD:
                table.add_row(f"  {escape(row.detail)}")
        return table


def gate(run_dir: Path, baseline_path: Path | None = None) -> GateResult:
    """Hold the run at `run_dir` against a baseline (default: the committed one of its scenario).

    Never raises on bad input: a missing or broken run, summary, arm, metric or baseline is a failing result.
    """
    try:
        run = read_run(run_dir)
        path = baseline_path or _committed(run)
        baseline = read_baseline(path)
    except InputError as error:
        return GateResult(str(run_dir), str(baseline_path or ""), problems=[str(error)])
    problems = _problems(run, baseline)
    rows = [] if problems else [_row(run, entry, baseline) for entry in baseline["gated"]]
    return GateResult(str(run_dir), str(path), baseline["tolerance"], problems, rows)


def write_baseline(run_dir: Path, path: Path | None = None, tolerance: float = TOLERANCE) -> dict[str, Any]:
    """Make the run at `run_dir` the baseline at `path` (default: that of its scenario) and return it.

    Gated are, by speedup and goodput: every other arm over `none` (or the first arm), and every
    adaptive arm over the best static one. Raises InputError when the run has no sound verdict.
    """
    run = read_run(run_dir)
    summary = run.summary
    if summary is None or not summary["verdict"]["ok"]:
        why = "it has no summary.json" if summary is None else summary["verdict"]["headline"]
        raise InputError(f"{run_dir} cannot become a baseline: {why}")
    gated = [_entry(summary, arm, over, m) for arm, over in _gated_pairs(summary) for m in GATED_METRICS]
    origin = run.info.get("provenance", {})
    baseline = {
        "baseline_version": BASELINE_VERSION,
        **_identity(run),
        "tolerance": tolerance,
        "made": {key: origin.get(key) for key in ("command", "git", "time_utc")},
        "best_static": summary["verdict"]["best_static"],
        "gated": [entry for entry in gated if entry["estimate"] is not None],
    }
    _check_baseline(baseline, "the baseline")
    path = path or _committed(run)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, baseline)
    except OSError as error:
        raise InputError(f"cannot write the baseline {path}: {error.strerror}") from error
    return baseline


def default_baseline(run_dir: Path) -> Path:
    """Where the committed baseline of the run's scenario lies; live runs have their own.

    Raises InputError when the directory is not a valid run; `gate` and `write_baseline` call it themselves.
    """
    return _committed(read_run(run_dir))


def _committed(run: Run) -> Path:
    mark = ".live" if run.info["mode"] == "live" else ""
    return BASELINES / f"{run.info['scenario']}{mark}.json"


def read_baseline(path: Path) -> dict[str, Any]:
    """A checked baseline. Raises InputError when it is missing, of another version or incomplete."""
    if not path.is_file():
        raise InputError(f"there is no baseline at {path}; make one with --update")
    baseline = read_json(path)
    _check_baseline(baseline, str(path))
    return baseline


def _check_baseline(baseline: Mapping[str, Any], where: str) -> None:
    if baseline.get("baseline_version") != BASELINE_VERSION:
        found = baseline.get("baseline_version")
        raise InputError(f"{where} has baseline version {found!r}; this specdrift reads {BASELINE_VERSION}")
    for key in ("scenario", "mode", "seeds", "configuration", "tolerance", "gated"):
        if key not in baseline:
            raise InputError(f"{where} has no {key!r}")
    tolerance = baseline["tolerance"]
    if isinstance(tolerance, bool) or not isinstance(tolerance, int | float) or not 0 <= tolerance < 1:
        raise InputError(f"tolerance of {where} is {tolerance!r}; it must be a share of at least 0, below 1")
    if not isinstance(baseline["gated"], list) or not baseline["gated"]:
        raise InputError(f"{where} gates nothing; it needs at least one ratio")
    seeds = {str(seed) for seed in baseline["seeds"]}
    for entry in baseline["gated"]:
        by_seed = entry.get("by_seed") if isinstance(entry, Mapping) else None
        if (
            not by_seed
            or by_seed.keys() != seeds
            or any(key not in entry for key in ("arm", "over", "metric"))
        ):
            raise InputError(
                f"{where} has a gated ratio without its arm, over, metric and value for each seed"
            )
        if not all(isinstance(v, int | float) and 0 < v < math.inf for v in by_seed.values()):
            raise InputError(f"{where} has a ratio that is not a positive number: {dict(by_seed)}")


def _identity(run: Run) -> dict[str, Any]:
    """What must be equal for two runs to be comparable."""
    info = run.info
    configuration = info.get("configuration", {})
    return {
        "scenario": info["scenario"],
        "mode": info["mode"],
        "seeds": list(run.seeds),
        "configuration": configuration,
    }


def _problems(run: Run, baseline: Mapping[str, Any]) -> list[str]:
    try:
        summary = run.summary
    except InputError as error:
        return [str(error)]
    if summary is None:
        return [f"{run.path} has no summary.json, so it has no verdict"]
    if not isinstance(summary.get("verdict"), Mapping) or "pairs" not in summary:
        return [f"{run.path / 'summary.json'} has no verdict"]
    found = [] if summary["verdict"]["ok"] else [str(summary["verdict"]["headline"])]
    here = _identity(run)
    now, then = _flat(here), _flat({key: baseline[key] for key in here})
    for key in sorted(now.keys() | then.keys()):
        if now.get(key) != then.get(key):
            found.append(
                f"{key} is {now.get(key, 'not set')!r} here, {then.get(key, 'not set')!r} in the baseline"
            )
    return found


def _row(run: Run, entry: Mapping[str, Any], baseline: Mapping[str, Any]) -> GateRow:
    arm, over, metric = entry["arm"], entry["over"], entry["metric"]
    assert run.summary is not None
    try:
        ratios = find_pair(run.summary, arm, over)["ratios"]
    except InputError as error:
        return GateRow(arm, over, metric, "missing", str(error))
    found = ratios.get(metric)
    if found is None or found["by_seed"] is None:
        why = f"the run has no {metric}" if found is None else f"no {metric}: {found['reason']}"
        return GateRow(arm, over, metric, "missing", why)
    then, now = entry["by_seed"], found["by_seed"]
    change = from_logs({int(s): math.log(now[s]) - math.log(then[s]) for s in then})
    status, detail = _decide(change, float(baseline["tolerance"]))
    before = math.exp(sum(map(math.log, then.values())) / len(then))
    numbers = (before, found["estimate"], change["estimate"], change["low"], change["high"])
    return GateRow(arm, over, metric, status, detail, *numbers)


def _decide(change: Mapping[str, Any], tolerance: float) -> tuple[str, str]:
    """Status and sentence from the interval of run / baseline."""
    low, high, floor = change["low"], change["high"], 1.0 - tolerance
    if low is None:
        return "undecided", "not enough seeds for an interval"
    if low >= floor:
        if low > 1.0 and change["estimate"] > 1.0 + tolerance:
            return "improved", "credibly better; consider a new baseline"
        return "pass", f"a loss above {tolerance:.1%} is excluded"
    if high < 1.0:
        return "regressed", f"credibly lower, by {1 - high:.1%} to {1 - low:.1%}"
    return "undecided", f"a loss of up to {1 - low:.1%} cannot be excluded; run more seeds"


def _gated_pairs(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    arms = summary["arms"]
    base = "none" if "none" in arms else next(iter(arms))
    pairs = [(arm, base) for arm in arms if arm != base]
    best = summary["verdict"]["best_static"]
    if best is not None:
        pairs += [(arm, best["arm"]) for arm, found in arms.items() if found["kind"] == "adaptive"]
    return [pair for pair in dict.fromkeys(pairs) if pair[0] != pair[1]]


def _entry(summary: Mapping[str, Any], arm: str, over: str, metric: str) -> dict[str, Any]:
    found = find_pair(summary, arm, over)["ratios"][metric]
    kept = {key: found[key] for key in ("estimate", "low", "high", "by_seed")}
    return {"arm": arm, "over": over, "metric": metric, **kept}


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """{'a': {'b': 1}} as {'a.b': 1}; lists stay whole."""
    if not isinstance(value, Mapping) or not value:
        return {prefix: value}
    return {
        k: v for name, part in value.items() for k, v in _flat(part, f"{prefix}.{name}".lstrip(".")).items()
    }


def _three(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"
