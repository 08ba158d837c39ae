"""What this machine has, and what was made on it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text


def made_table(found: Mapping[str, Any]) -> Group:
    """Where a made model is and what it took."""
    loss = ", ".join(f"{part} {value:.2f}" for part, value in found["loss"].items())
    return Group(
        Text(f"{found['spec']['name']}, {found['parameters']:,} parameters, seed {found['seed']}", "bold"),
        Text(f"loss in nats per token: {loss}; made in {found['seconds']:.0f} s"),
        Text(found["folder"]),
    )


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
