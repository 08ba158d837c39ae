"""From a run directory to one HTML file."""

from __future__ import annotations

import os
from pathlib import Path

from harness.errors import InputError


def write_report(run: Path, out: Path | None = None) -> Path:
    """Draw the drift report of the run directory `run` into `out` (default: RUN/report.html); return it.

    One file that needs nothing else, the same bytes for the same run. Readers see the old file or the
    new one, never half. Raises InputError when `run` is not a run, has no summary, or `out` cannot be
    written.
    """
    from harness.runlog import read_run
    from reports.page import render

    opened = read_run(Path(run))
    out = Path(out) if out is not None else opened.path / "report.html"
    return write_page(out, render(opened))


def write_page(out: Path, html: str) -> Path:
    """Write a page whole or not at all; return its path. InputError where it cannot be written."""
    if out.is_dir():
        raise InputError(f"{out} is a directory; give the name of an HTML file")
    partial = out.with_name(f".{out.name}.partial-{os.getpid()}")
    try:
        partial.write_text(html, encoding="utf-8")
        os.replace(partial, out)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise InputError(f"cannot write the report {out}: {error.strerror or error}") from error
    return out
