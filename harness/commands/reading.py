"""`specdrift report`, `recovery` and `curve`: what a run directory tells."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from harness.commands.base import Json, RunDir, answer


def report(
    run: RunDir,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="HTML file; default: RUN/report.html.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Draw the HTML drift report of a run."""
    from reports import write_report

    path = write_report(run, out)
    answer(as_json, {"report": str(path)}, lambda: str(path))


def recovery(
    run: RunDir,
    over: Annotated[
        str | None,
        typer.Option(
            help="Arm to compare with; default: the first that never swaps, else the first that drafts."
        ),
    ] = None,
    level: Annotated[
        float | None, typer.Option(help="Also count requests until acceptance length first stands here.")
    ] = None,
    as_json: Json = False,
) -> None:
    """How fast each arm's drafter recovered from the shifts of a run, and how deep it dipped."""
    from harness.compare.recovery import recovery as measure
    from harness.runlog import read_run
    from harness.show.recovered import recovery_table

    found = measure(read_run(run), over, level)
    answer(as_json, found, lambda: recovery_table(found))


def curve(
    run: RunDir,
    every: Annotated[int, typer.Option(min=1, help="Requests of one row.")] = 100,
    over: Annotated[
        str | None, typer.Option(help="Arm to compare with; default: none, else the first.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Speedup and acceptance length of each arm as requests went by."""
    from harness.compare.by_requests import by_requests
    from harness.runlog import read_run
    from harness.show.recovered import curve_table

    found = by_requests(read_run(run), every, over)
    answer(as_json, found, lambda: curve_table(found))
