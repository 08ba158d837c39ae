"""How far a long command has come, on standard error."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

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
