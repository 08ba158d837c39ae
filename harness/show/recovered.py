"""A run as its requests went by: recovery from shifts, speedup along the way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from harness.show.parts import heading, interval, new_table, number


def recovery_table(found: Mapping[str, Any]) -> Group:
    """How fast each arm recovered, what it cost and saved, and the acceptance length by segment."""
    seeds, over = len(found["seeds"]), found["reference"]
    speed = new_table(("arm", "requests to recover", "never", "area under the loss"))
    price = new_table(("arm", "lowest 500", "time saved", "trained s"))
    for arm, entry in found["arms"].items():
        area = interval(entry["area"], 3)
        speed.add_row(arm, interval(entry["recovery"], 0), f"{entry['censored']:.0%}", area)
        dip, saved = interval(entry["dip"], 2), interval(entry["saved"], 2)
        price.add_row(arm, dip, saved, number(entry["trained"]["mean"], 1))
    return Group(
        *(_to_level(found) if "level" in found else ()),
        heading(f"Mean [95% interval] over {seeds} paired seeds; never: share of segments not recovered"),
        speed,
        heading(f"Against {over}: tokens per second in the engine at worst, engine time saved"),
        price,
        heading(f"Acceptance length: {_low(found)}, the best arm's reach, then each arm at the end"),
        _levels(found),
        *_made_good(found),
    )


def curve_table(found: Mapping[str, Any]) -> Group:
    """A row every so many requests: speedup of each arm, then acceptance length of those that draft."""
    over, arms = found["over"], found["arms"]
    drafting = [arm for arm, entry in arms.items() if any(v is not None for v in entry["length"])]
    return Group(
        heading(
            f"Speedup over {over} by requests, in engine time per token; mean of {len(found['seeds'])} seeds"
        ),
        _by_requests(found, "speedup", [arm for arm in arms if arm != over]),
        heading("Acceptance length at the K that was used"),
        _by_requests(found, "length", drafting),
    )


def _by_requests(found: Mapping[str, Any], name: str, arms: Sequence[str]) -> Table:
    table = new_table(("from request", *arms))
    for i, begin in enumerate(found["begins"]):
        table.add_row(f"{begin:,}", *(number(found["arms"][arm][name][i], 2) for arm in arms))
    return table


def _to_level(found: Mapping[str, Any]) -> tuple[Text, Table]:
    table = new_table(("arm", "requests to it", "never"))
    for arm, entry in found["arms"].items():
        table.add_row(arm, interval(entry["to_level"], 0), f"{entry['to_level']['never']:.0%}")
    return heading(f"Requests until acceptance length first stands at {found['level']:g}"), table


def _levels(found: Mapping[str, Any]) -> Table:
    """One column a segment, so that many arms fit."""
    segments = found["segments"]
    table = new_table(("", *(f"{s['begin']}-{s['end']}" for s in segments)))
    table.add_row(_low(found), *(number(s["static"], 2) for s in segments))
    table.add_row("reach", *(number(s["reach"], 2) for s in segments))
    for arm, entry in found["arms"].items():
        table.add_row(arm, *(number(s["last"]["mean"], 2) for s in entry["segments"]))
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
    table = new_table(("", *(f"{segments[i]['begin']}-{segments[i]['end']}" for i in places)))
    for arm in arms:
        of = {"made_good": "its own"} | ({} if arm == over else {"made_good_static": f"{over}'s"})
        for name, whose in of.items():
            shares = [found["arms"][arm]["segments"][i][name]["mean"] for i in places]
            table.add_row(f"{arm}, {whose}", *("" if x is None else f"{x:.0%}" for x in shares))
    return heading(f"Made good of the loss, over the last fifth, down to {_low(found)}"), table
