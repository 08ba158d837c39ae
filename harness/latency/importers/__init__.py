"""Readers of measured kernels: each turns one tool's files into `rows.KernelRows`.

`profile` reads the file of our own profiler, `vidur` and `aiconfigurator` public tables, `llmservingsim` the
folders that `measured` composes by itself (here only for cross-checks). To add one: a module with `reads`
(whether a folder is its own) and `sources`, and its place in `FOLDERS`.
"""

from __future__ import annotations

from pathlib import Path

from harness.errors import InputError
from harness.latency.importers import aiconfigurator, llmservingsim, profile, vidur
from harness.latency.rows import KernelRows

FOLDERS = {"AIConfigurator": aiconfigurator, "Vidur": vidur, "LLMServingSim": llmservingsim}


def layout(folder: Path) -> str | None:
    """The name of the tool whose layout `folder` has; None if it has none of them."""
    return next((name for name, reader in FOLDERS.items() if reader.reads(folder)), None)


def sources(path: Path) -> list[KernelRows]:
    """Every GPU's rows in a profile file or folder of tables. Raises InputError."""
    if path.is_file():
        return [profile.read(path)]
    if not path.is_dir():
        raise InputError(f"{str(path)!r} is neither a profile file nor a folder of kernel tables")
    name = layout(path)
    if name is None:
        raise InputError(
            f"folder {str(path)!r} has the layout of none of the known tables: {', '.join(sorted(FOLDERS))}"
        )
    return FOLDERS[name].sources(path)
