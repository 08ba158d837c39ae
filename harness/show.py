"""Tables for the terminal. Everything shown is read from what the called part returned."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from harness.progress import in_quarters


@contextmanager
def cell_progress() -> Iterator[Callable[[int, int], None]]:
    """A bar on standard error while it is a terminal; otherwise silent."""
    columns = (TextColumn("simulating"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty()) as progress:
        task = progress.add_task("cells", total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


@contextmanager
def stage_progress() -> Iterator[Callable[[str, int, int], None]]:
    """One bar per stage on standard error while it is a terminal; otherwise a line each quarter of a stage."""
    if not sys.stderr.isatty():
        yield in_quarters(stage_lines())
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        tasks: dict[str, Any] = {}

        def on_step(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = progress.add_task(stage, total=total)
            progress.update(tasks[stage], completed=done)

        yield on_step


def stage_lines() -> Callable[[str], None]:
    """One line a stage on standard error, with the seconds so far: live runs take minutes, and logs are read too."""
    began = time.monotonic()

    def say(text: str) -> None:
        print(f"specdrift [{time.monotonic() - began:5.0f} s] {text}", file=sys.stderr, flush=True)

    return say


def summary_table(summary: Mapping[str, Any], out: Path) -> Group:
    """Speedups with intervals, what each arm did, the verdict, and where the report is."""
    from harness.compare.drift import unsteady

    best = (summary["verdict"]["best_static"] or {}).get("arm")
    verdict = summary["verdict"]
    seeds = len(summary["seeds"])
    lines: list[Any] = [
        _title(f"{summary['scenario']}: speedup over the same requests, 95% interval, {seeds} paired seeds"),
        _speedups(summary, best),
        _title("Mean over seeds; length: acceptance length, bonus token included"),
        _arms(summary),
    ]
    lines += [
        Text(f"check failed: {c['name']}: {c['detail']}", "red") for c in verdict["checks"] if not c["ok"]
    ]
    if told := unsteady(summary.get("step_drift")):
        lines.append(Text(told, "yellow"))
    lines += [_headline(sentence, summary["arms"]) for sentence in verdict["headline"].split("; ")]
    return Group(*lines, Text(f"report: {out / 'report.html'}"))


def _headline(sentence: str, arms: Iterable[str]) -> Text:
    """The sentence with the names of arms set apart: an arm may be called `goodput`, like a metric."""
    words = sentence.split(" ")
    named = [f"`{w}`" if i == 0 and w in arms else w for i, w in enumerate(words)]
    return Text(" ".join(f"`{w[:-1]}`:" if w.endswith(":") and w[:-1] in arms else w for w in named), "bold")


def _speedups(summary: Mapping[str, Any], best: str | None) -> Table:
    over = [arm for arm in dict.fromkeys((best, "none")) if arm and arm in summary["arms"]]
    table = _table(("arm", *(f"over {arm}" for arm in over), "tokens/s", "goodput"))
    for arm, entry in summary["arms"].items():
        mean = entry["mean"]
        table.add_row(
            arm,
            *(_speedup(summary, arm, other) for other in over),
            _number(mean["tokens_per_second"], 0),
            _number(mean["goodput"], 0),
        )
    return table


def _arms(summary: Mapping[str, Any]) -> Table:
    columns = ("arm", "TTFT p50 ms", "TPOT ms", "E2E p90 s", "length", "mean K", "swaps", "SLO")
    table = _table(columns)
    for arm, entry in summary["arms"].items():
        mean = entry["mean"]
        shares = mean["k_histogram"] or {}
        table.add_row(
            arm,
            _number(mean["ttft"]["p50"], 0, 1e3),
            _number(mean["tpot"]["mean"], 2, 1e3),
            _number(mean["e2e"]["p90"], 2),
            _number(mean["acceptance_length"], 2),
            _number(sum(int(k) * share for k, share in shares.items()) if shares else None, 2),
            _number(mean["swaps"], 1),
            _number(mean["slo_attainment"], 3),
        )
    return table


def _title(text: str) -> Text:
    return Text(text, "italic")


def _table(columns: Sequence[str]) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for i, name in enumerate(columns):
        table.add_column(name, justify="right" if i else "left", no_wrap=True)
    return table


def _speedup(summary: Mapping[str, Any], arm: str, over: str) -> str:
    if arm == over:
        return "1"
    pair = next((p for p in summary["pairs"] if p["arm"] == arm and p["over"] == over), None)
    if pair is None:
        return "-"
    found = pair["ratios"][summary["headline_ratio"]]
    if found["low"] is None:
        return _number(found["estimate"], 3)
    return f"{found['estimate']:.3f} [{found['low']:.3f}, {found['high']:.3f}]"


def validation_table(result: Mapping[str, Any]) -> Group:
    """Measured against simulated, metric by metric, beside the best public simulator's error."""
    tables: list[Any] = []
    for check in result["checks"]:
        tables.append(_title(check["title"]))
        table = _table(check["columns"])
        for row in check["rows"]:
            table.add_row(*(_cell(v) for v in row))
        tables.append(table)
        tables += [Text(note) for note in check["notes"]]
    tables.append(Text("within the bars" if result["ok"] else "NOT within the bars", "bold"))
    return Group(*tables)


def side_by_side_table(result: Mapping[str, Any]) -> Group:
    """Live beside simulated: error by arm and metric, a * at each that is not within its bar."""
    bars = result["bars"]
    columns = ("arm", "tokens/s", "TPOT", "TTFT p50", "length", "speedup", "K differs")
    table = _table(columns)
    for arm, entry in result["arms"].items():
        found = entry["metrics"]
        names = ("tokens_per_second", "tpot", "ttft_p50", "acceptance_length", "speedup")
        errors = (_error(found.get(name)) for name in names)
        differs = entry["k_distance"]
        table.add_row(arm, *errors, "-" if differs is None else f"{differs:.1%}")
    told = ", ".join(f"{name.replace('_', ' ')} {bar:.0%}" for name, bar in bars.items())
    return Group(
        _title(f"{result['scenario']}: simulated against {result['mode']}, relative errors; bars: {told}"),
        table,
        Text(f"latency: {(result['latency'] or {}).get('note', 'not said')}"),
        Text("within the bars" if result["ok"] else "NOT within the bars (*)", "bold"),
    )


def _error(found: Mapping[str, Any] | None) -> str:
    if found is None or found["error"] is None:
        return "-" if found is None or found["within"] is None else "- *"
    return f"{found['error']:+.1%}{' *' if found['within'] is False else ''}"


def curves_table(result: Mapping[str, Any]) -> Group:
    """Acceptance length along the requests, live / learnt anew by the simulator; then how far apart they are."""
    arms, block = result["arms"], result["block"]
    table = _table(("requests from", *arms))
    for i in range(max(len(entry["live"]) for entry in arms.values())):
        table.add_row(f"{i * block:,}", *(_point(entry, i) for entry in arms.values()))
    table.add_section()
    table.add_row("mean difference", *(_length(entry["mean"]) for entry in arms.values()))
    largest = (_length(e["largest"]) + ("" if e["within"] else " *") for e in arms.values())
    table.add_row("largest difference", *largest)
    pace = result["samples_per_second"]
    trained = "nothing was trained" if pace is None else f"the trainer's pace was {pace:.1f} traces a second"
    return Group(
        _title(f"{result['scenario']}: acceptance length, live / simulated with its own learner"),
        table,
        Text(f"means over seeds; {trained}; bar: {result['bar']} at every point"),
        Text("within the bar" if result["ok"] else "NOT within the bar (*)", "bold"),
    )


def _point(entry: Mapping[str, Any], i: int) -> str:
    return f"{_length(entry['live'][i])} / {_length(entry['simulated'][i])}"


def _length(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def calibration_table(result: Mapping[str, Any]) -> Group:
    """Held-out errors by operation and of whole steps, fitted gaps, cross-checks."""
    lines: list[Any] = _engine(result["engine"]) if result["engine"] else []
    for source in result["sources"]:
        lines += [*_errors(source), *(Text(note) for note in source["notes"])]
        for reason, count in source["left_out"].items():
            lines.append(Text(f"{count} rows not fitted: {reason}"))
        for fitted in source["models"]:
            lines += _errors(fitted) if fitted["whole"] else []
            lines += [Text(fitted["note"]), Text(_price(fitted))]
    for check in result["cross"]:
        lines += _ratios(check)
    if result["out"]:
        lines.append(Text(f"fitted model: {result['out']}"))
    if result["sources"] or result["engine"]:
        lines.append(Text("within the bar" if result["ok"] else "NOT within the bar", "bold"))
    return Group(*lines)


def _engine(found: Mapping[str, Any]) -> list[Any]:
    table = _table(("arm", "K", "typical", "mean", "bias", "shapes", "steps"))
    for e in found["errors"]:
        k = "all" if e["k"] is None else str(e["k"])
        shares = (f"{e['typical']:.1%}", f"{e['mean']:.1%}", f"{e['bias']:+.1%}")
        table.add_row(e["arm"], k, *shares, str(e["shapes"]), f"{e['steps']:,}")
    told = [Text(f"{name}: {said}") for name, said in found["provenance"].items()]
    title = f"{found['name']}: held-out error of the typical step, of mean steps, and bias of their sum"
    return [_title(title), table, Text(found["note"]), *told]


def _errors(found: Mapping[str, Any]) -> list[Any]:
    whole = "whole" in found
    title = f"{found['model']}: whole passes" if whole else f"{found['name']} ({found['device']}): kernels"
    columns = ("operation", "mean", "median", "90%", "bias", "held-out shapes")
    table = _table(columns)
    for error in found["whole" if whole else "kernels"]:
        shares = (error.get(name) for name in ("mean", "median", "p90", "bias"))
        cells = ("-" if share is None else f"{share:.1%}" for share in shares)
        table.add_row(error["op"], *cells, _number(error.get("shapes"), 0))
    return [Text(f"{title}, held-out absolute relative error", "bold"), table]


def _price(fitted: Mapping[str, Any]) -> str:
    price = fitted["price"]
    told = [f"{name.replace('_', ' ')} {value:.2f}x" for name, value in price.items() if value is not None]
    gap = f"fitted gap {fitted['gap_us']:.0f} us; " if fitted["whole"] else ""
    at = "K = 4 over K = 0 at batch 64 and 4096 tokens of context"
    return f"{fitted['model']}: {gap}{at}: {', '.join(told)}"


def _ratios(check: Mapping[str, Any]) -> list[Any]:
    table = _table(("operation", "10%", "median", "90%", "shapes", "median > 20 us", "shapes > 20 us"))
    for row in check["ratios"]:
        cells = [_number(row[name], 2) for name in ("q10", "median", "q90")]
        large = [_number(row["large_median"], 2), _number(row["large_shapes"], 0)]
        table.add_row(row["op"], *cells, _number(row["shapes"], 0), *large)
    return [Text(f"time of {check['first']} over time of {check['second']}", "bold"), table]


def gate_table(result: Any) -> Group:
    """The gate's own table, and its decision."""
    return Group(result.table(), Text(result.decision, "bold"))


def made_table(found: Mapping[str, Any]) -> Group:
    """Where a made model is and what it took."""
    loss = ", ".join(f"{part} {value:.2f}" for part, value in found["loss"].items())
    return Group(
        Text(f"{found['spec']['name']}, {found['parameters']:,} parameters, seed {found['seed']}", "bold"),
        Text(f"loss in nats per token: {loss}; made in {found['seconds']:.0f} s"),
        Text(found["folder"]),
    )


def recovery_table(found: Mapping[str, Any]) -> Group:
    """How fast each arm recovered, what it cost and saved, and the acceptance length by segment."""
    seeds, over = len(found["seeds"]), found["reference"]
    speed = _table(("arm", "requests to recover", "never", "area under the loss"))
    price = _table(("arm", "lowest 500", "time saved", "trained s"))
    for arm, entry in found["arms"].items():
        area = _interval(entry["area"], 3)
        speed.add_row(arm, _interval(entry["recovery"], 0), f"{entry['censored']:.0%}", area)
        dip, saved = _interval(entry["dip"], 2), _interval(entry["saved"], 2)
        price.add_row(arm, dip, saved, _number(entry["trained"]["mean"], 1))
    return Group(
        *(_to_level(found) if "level" in found else ()),
        _title(f"Mean [95% interval] over {seeds} paired seeds; never: share of segments not recovered"),
        speed,
        _title(f"Against {over}: tokens per second in the engine at worst, engine time saved"),
        price,
        _title(f"Acceptance length: {_low(found)}, the best arm's reach, then each arm at the end"),
        _levels(found),
        *_made_good(found),
    )


def curve_table(found: Mapping[str, Any]) -> Group:
    """A row every so many requests: speedup of each arm, then acceptance length of those that draft."""
    over, arms = found["over"], found["arms"]
    drafting = [arm for arm, entry in arms.items() if any(v is not None for v in entry["length"])]
    return Group(
        _title(
            f"Speedup over {over} by requests, in engine time per token; mean of {len(found['seeds'])} seeds"
        ),
        _by_requests(found, "speedup", [arm for arm in arms if arm != over]),
        _title("Acceptance length at the K that was used"),
        _by_requests(found, "length", drafting),
    )


def _by_requests(found: Mapping[str, Any], name: str, arms: Sequence[str]) -> Table:
    table = _table(("from request", *arms))
    for i, begin in enumerate(found["begins"]):
        table.add_row(f"{begin:,}", *(_number(found["arms"][arm][name][i], 2) for arm in arms))
    return table


def _to_level(found: Mapping[str, Any]) -> tuple[Text, Table]:
    table = _table(("arm", "requests to it", "never"))
    for arm, entry in found["arms"].items():
        table.add_row(arm, _interval(entry["to_level"], 0), f"{entry['to_level']['never']:.0%}")
    return _title(f"Requests until acceptance length first stands at {found['level']:g}"), table


def _levels(found: Mapping[str, Any]) -> Table:
    """One column a segment, so that many arms fit."""
    segments = found["segments"]
    table = _table(("", *(f"{s['begin']}-{s['end']}" for s in segments)))
    table.add_row(_low(found), *(_number(s["static"], 2) for s in segments))
    table.add_row("reach", *(_number(s["reach"], 2) for s in segments))
    for arm, entry in found["arms"].items():
        table.add_row(arm, *(_number(s["last"]["mean"], 2) for s in entry["segments"]))
    return table


def _low(found: Mapping[str, Any]) -> str:
    over = found["reference"]
    return f"{over}, first {found['window']} requests" if found["adapts"] else f"{over}, mean"


def _made_good(found: Mapping[str, Any]) -> tuple[Text, Table] | tuple[()]:
    """How much of what each arm's own drafter lost, and of what a static one did, was made good by the last fifth."""
    over, segments = found["reference"], found["segments"]
    places = [i for i, s in enumerate(segments) if s["before"]]
    arms = [arm for arm in found["arms"] if arm != over or found["adapts"]]
    if not (places and arms):
        return ()
    table = _table(("", *(f"{segments[i]['begin']}-{segments[i]['end']}" for i in places)))
    for arm in arms:
        of = {"made_good": "its own"} | ({} if arm == over else {"made_good_static": f"{over}'s"})
        for name, whose in of.items():
            shares = [found["arms"][arm]["segments"][i][name]["mean"] for i in places]
            table.add_row(f"{arm}, {whose}", *("" if x is None else f"{x:.0%}" for x in shares))
    return _title(f"Made good of the loss, over the last fifth, down to {_low(found)}"), table


def _interval(found: Mapping[str, float | None], digits: int) -> str:
    mean, low, high = (_number(found[key], digits) for key in ("mean", "low", "high"))
    return mean if found["low"] is None else f"{mean} [{low}, {high}]"


def doctor_table(findings: Mapping[str, Any]) -> Group:
    """What is installed, what would run."""
    table = Table(title=f"{findings['cpus']} CPUs, GPUs: {', '.join(findings['gpus']) or 'none'}")
    for name in ("part", "packages", "missing", "how to get it"):
        table.add_column(name)
    for part, entry in findings["parts"].items():
        present = ", ".join(f"{p} {v}" for p, v in entry["packages"].items() if v)
        advice = Text(entry["advice"])  # plain text: [live] is no markup
        table.add_row(part, present, ", ".join(entry["missing"]) or "-", advice)
    live = Table(title="live mode (what to do: specdrift doctor --json)")
    for name in ("model", "runs here", "what is missing"):
        live.add_column(name)
    for model, missing in findings["live"].items():
        what = "\n".join(sentence.partition(";")[0] for sentence in missing)
        live.add_row(model, "no" if missing else "yes", Text(what or "-"))
    return Group(table, live)


def _cell(value: Any) -> str:
    return _number(value, 3) if isinstance(value, float) else str(value)


def _number(value: float | None, digits: int, factor: float = 1.0) -> str:
    return "-" if value is None else f"{value * factor:,.{digits}f}"
