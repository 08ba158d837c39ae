"""The HTML drift report of a run directory. It draws and computes nothing.

Every number is read from summary.json (written once by `harness.compare`) or run.json; a figure whose
series is not there is left out and said to be. Start with `page.py` (what stands on the page, in order),
then `timeline.py` (the central figure) and `templates/report.html`. What the page shows and how to read
it: docs/report.md. matplotlib and jinja2 load when a report is drawn, not on import.
"""

from __future__ import annotations

from pathlib import Path

from reports.write import write_report

__all__ = ["write_report", "write_sweep_report"]


def write_sweep_report(folder: Path) -> Path:
    """Draw the page of a sweep: `reports/sweep.py`."""
    from reports.sweep import write_sweep_report as write

    return write(folder)
