"""The tables with one row per arm: service, latency, speculation, training, requests, domains, tenants."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from reports.arms import Arm
from reports.numbers import ABSENT, number
from reports.tables import Cell, Column, Row, Source, Table, arm_table

Summary = Mapping[str, Any]
NO_BREAK = "\N{NO-BREAK SPACE}"
PERCENTILES = ("mean", "p50", "p90", "p99")


def per_arm_tables(arms: Sequence[Arm], summary: Summary) -> list[Table]:
    """Everything that summary.json says of each arm over the whole run: means over the seeds."""
    return [
        _service(arms, summary),
        _latency(arms, summary),
        k_table(arms, summary),
        _training(arms, summary),
        _requests(arms, summary),
    ]


def label_tables(arms: Sequence[Arm], summary: Summary, part: str) -> list[Table]:
    """`by_domain` or `by_tenant`: one table per figure, a column per label; none with one label only."""
    labels = sorted({label for a in summary["arms"].values() for label in a["mean"][part]})
    if len(labels) < 2:
        return []
    what = part.removeprefix("by_")
    return [
        _by_label(
            f"Acceptance length by {what}, tokens", arms, labels, summary, part, "acceptance_length", 1.0
        ),
        _by_label(
            f"Engine time per output token by {what}, ms",
            arms,
            labels,
            summary,
            part,
            "engine_time_per_token",
            1e3,
        ),
        _by_label(f"SLO attainment by {what}, %", arms, labels, summary, part, "slo_attainment", 100.0, 2),
    ]


def k_table(arms: Sequence[Arm], summary: Summary) -> Table:
    """Share of decode steps by K, with a bar in each cell."""
    found = {arm.name: (summary["arms"].get(arm.name) or _NOTHING)["mean"]["k_histogram"] for arm in arms}
    ks = sorted({int(k) for shares in found.values() if shares for k in shares})
    rows = tuple(Row(arm.name, tuple(_share(found[arm.name], k) for k in ks), arm) for arm in arms)
    columns = tuple(Column(f"K = {k}".replace(" ", NO_BREAK), "%") for k in ks)
    return Table("K: share of decode steps", columns, rows, note="K is the number of draft tokens of a step.")


_NOTHING: Mapping[str, Any] = {"mean": {"k_histogram": None}}


def _share(shares: Mapping[str, float] | None, k: int) -> Cell:
    if shares is None:
        return Cell(ABSENT)
    share = shares.get(str(k), 0.0)
    return Cell(number(share, 1, 100.0) if share else "0", share)


def _service(arms: Sequence[Arm], summary: Summary) -> Table:
    sources = [
        _metric(summary, "goodput", "goodput (net of training)"),
        _metric(summary, "goodput_gross", "goodput (gross)"),
        _metric(summary, "tokens_per_second", "output tokens"),
        _metric(summary, "requests_per_second", "requests"),
        _metric(summary, "slo_attainment", "SLO attainment", "%", 100.0, 2),
        _metric(summary, "engine_time_per_token", "engine time per token", "ms", 1e3),
        _metric(summary, "duration", "duration"),
        _metric(
            summary,
            "acceptance_length",
            "acceptance length (bonus included)",
            "tokens / verify step",
            digits=3,
        ),
    ]
    return arm_table("Service", sources, arms, summary)


def _latency(arms: Sequence[Arm], summary: Summary) -> Table:
    sources = [_metric(summary, "queue", "mean", "ms", 1e3, group="queue")]
    for name, unit, factor in (("ttft", "ms", 1e3), ("tpot", "ms", 1e3), ("e2e", "s", 1.0)):
        for point in PERCENTILES:
            column = Column(point, unit, summary["metrics"][name]["better"], name.upper())
            sources.append(Source(column, _at("mean", name, point), factor))
    return arm_table("Latency", sources, arms, summary, "Percentiles within a seed, averaged over seeds.")


def _training(arms: Sequence[Arm], summary: Summary) -> Table:
    sources = [
        _metric(summary, "swaps", "swaps", "per run", digits=1),
        _metric(summary, "failed_swaps", "failed swaps", "per run", digits=1),
        _metric(summary, "stall_seconds", "stall", "s", digits=2),
        _metric(summary, "trainer_cost", "trainer cost", "accelerator-s", digits=1),
        _metric(summary, "preemptions", "preemptions", "per run", digits=1),
    ]
    bases = sorted({a["mean"]["trainer_cost_basis"] for a in summary["arms"].values()} - {None, "none"})
    said = {
        "busy": "Trainer cost counts the seconds the trainer worked.",
        "held": "Trainer cost counts the whole run: the log does not say when the trainer worked.",
    }
    return arm_table(
        "Swaps, stalls and training", sources, arms, summary, " ".join(said.get(b, b) for b in bases)
    )


def _requests(arms: Sequence[Arm], summary: Summary) -> Table:
    statuses = next(iter(summary["arms"].values()))["requests"]
    sources = [Source(Column(status), _at("requests", status), digits=0) for status in statuses]
    return arm_table("Requests by status, all seeds together", sources, arms, summary)


def _at(*path: str, absent: str = "") -> Callable[[Mapping[str, Any]], float | None]:
    """Reads one number out of an arm's entry; only the key `absent` may be missing on the way."""

    def read(arm: Mapping[str, Any]) -> float | None:
        found: Any = arm
        for key in path:
            if key == absent and key not in found:
                return None
            found = found[key]
        value: float | None = found
        return value

    return read


def _metric(
    summary: Summary,
    name: str,
    title: str,
    unit: str = "",
    factor: float = 1.0,
    digits: int | None = None,
    group: str = "",
) -> Source:
    """A metric's column: unit and better-direction as summary.json has them unless shown in another unit."""
    note = summary["metrics"][name]
    column = Column(title, unit or note["unit"], note["better"], group)
    return Source(column, _at("mean", name), factor, digits)


def _by_label(
    caption: str,
    arms: Sequence[Arm],
    labels: Sequence[str],
    summary: Summary,
    part: str,
    metric: str,
    factor: float,
    digits: int = 3,
) -> Table:
    path = ("mean", part)
    sources = [Source(Column(x), _at(*path, x, metric, absent=x), factor, digits) for x in labels]
    return arm_table(caption, sources, arms, summary)
