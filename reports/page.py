"""The page: which sections stand in which order, and what each is given. Markup is in `templates/`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from harness.errors import InputError
from harness.runlog import Run
from reports import facts
from reports.arm_tables import label_tables, per_arm_tables
from reports.arms import KIND_NOTES, Arm, style_arms
from reports.beside import beside_figure, beside_tables
from reports.forest import forest_figure
from reports.kshares import kshares_figure, used_k, varying_arms
from reports.lanes import shown_domains
from reports.marks import GLYPHS, read_mark
from reports.palette import domain_token, k_token
from reports.ratios import matrix_table, other_table, speedup_table
from reports.svg import NARROW, WIDE
from reports.templating import fill
from reports.timeline import shown_panels, timeline_figure

SUMMARY_VERSION = 1
"""The layout of summary.json that this page reads."""
SIDE_BY_SIDE_VERSION = 1
LISTED_EVENTS = 400


def render(run: Run) -> str:
    """The report of an opened run as HTML text. InputError without files that it can read."""
    summary = run.summary
    if summary is None:
        raise InputError(f"{run.path} has no summary.json, so there is nothing to draw; simulate it anew")
    if summary.get("summary_version") != SUMMARY_VERSION:
        raise InputError(
            f"{run.path} has summary version {summary.get('summary_version')!r}; "
            f"this specdrift draws {SUMMARY_VERSION}"
        )
    arms = style_arms(run.info, summary)
    return fill(
        "report.html",
        summary=summary,
        **_head(run, summary),
        **_speedup(arms, summary),
        **_over_time(arms, summary["series"]),
        **_per_arm(arms, summary),
        **_beside(arms, run.side_by_side),
        **_end(run, summary),
    )


def _head(run: Run, summary: Mapping[str, Any]) -> dict[str, Any]:
    first, *others = facts.headlines(summary["verdict"])
    return {
        "question": facts.question(run.info),
        "facts": facts.header_facts(run.info, summary),
        "warnings": facts.warnings(run.info, summary),
        "headline": first,
        "more_headlines": others,
        "passed": sum(c["ok"] for c in summary["verdict"]["checks"]),
    }


def _speedup(arms: Sequence[Arm], summary: Mapping[str, Any]) -> dict[str, Any]:
    ratio = summary["ratios"][summary["headline_ratio"]]
    return {
        "speedup": speedup_table(arms, summary),
        "others": other_table(arms, summary),
        "matrix": matrix_table(arms, summary),
        "forest": _both(forest_figure, arms, summary),
        "ratio": ratio,
        "ratio_metric": summary["metrics"][ratio["of"]],
    }


def _over_time(arms: Sequence[Arm], series: Mapping[str, Any] | None) -> dict[str, Any]:
    if series is None:
        return {"series": None, "arms": arms, "kinds": _kinds(arms)}
    events = [
        (event["time"], arm, event["kind"], event["detail"] or {}) for arm, found in series["marks"].items()
        for event in found
    ]  # fmt: skip
    used = {read_mark(event).glyph for found in series["marks"].values() for event in found}
    return {
        "series": series,
        "arms": arms,
        "kinds": _kinds(arms),
        "timeline": _both(timeline_figure, arms, series),
        "kshares": _both(kshares_figure, arms, series),
        "empty_panels": shown_panels(series)[1],
        "fixed_k": [arm for arm in arms if arm not in varying_arms(arms, series)],
        "k_legend": [(k, k_token(k)) for k in used_k(arms, series)],
        "domain_legend": [(name, domain_token(i)) for i, name in enumerate(shown_domains(series))],
        "glyphs": [GLYPHS[key] for key in GLYPHS if key in used],
        "events": sorted(events, key=lambda e: (e[0], e[1]))[:LISTED_EVENTS],
        "events_left_out": max(0, len(events) - LISTED_EVENTS),
    }


def _per_arm(arms: Sequence[Arm], summary: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "arm_tables": per_arm_tables(arms, summary),
        "domain_tables": label_tables(arms, summary, "by_domain"),
        "tenant_tables": label_tables(arms, summary, "by_tenant"),
    }


def _beside(arms: Sequence[Arm], found: Mapping[str, Any] | None) -> dict[str, Any]:
    """The simulation of this very run beside it. InputError for a layout that this page cannot read."""
    if found is None:
        return {"beside": None}
    if found.get("side_by_side_version") != SIDE_BY_SIDE_VERSION:
        raise InputError(
            f"side-by-side.json has version {found.get('side_by_side_version')!r}; "
            f"this specdrift draws {SIDE_BY_SIDE_VERSION}"
        )
    return {
        "beside": found,
        "beside_tables": beside_tables(arms, found),
        "beside_figure": _both(beside_figure, arms, found),
        "beside_facts": [
            facts.source_fact("Latency of the simulation", found["latency"]),
            facts.source_fact("Acceptance of the simulation", found["acceptance"]),
        ],
    }


def _end(run: Run, summary: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "reproduction": facts.reproduction(run.info),
        "versions": facts.versions(run.info),
        "configuration": facts.configuration_text(run.info),
        "best_static": summary["verdict"]["best_static"],
    }


def _both(draw: Any, arms: Sequence[Arm], data: Mapping[str, Any]) -> list[Markup]:
    """The wide and the narrow form of a figure; empty when there is nothing to draw."""
    return [drawn for form in (WIDE, NARROW) if (drawn := draw(arms, data, form)) is not None]


def _kinds(arms: Sequence[Arm]) -> list[str]:
    return [note for kind, note in KIND_NOTES.items() if any(arm.kind == kind for arm in arms)]
