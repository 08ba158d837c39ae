"""`specdrift make-model` and `doctor`: what this machine has."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from harness.commands.base import Json, answer


def make_model(
    name: Annotated[str, typer.Argument(help="tiny or small; tiny+llama: with an independent drafter.")],
    seed: Annotated[int, typer.Option(min=0, help="Everything of the model follows from it.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Folder; default: the cache.")] = None,
    as_json: Json = False,
) -> None:
    """Make a small target, its tokenizer, a drafter and a fine-tuned successor on this machine."""
    from harness.errors import require_learning
    from harness.show.machine import made_table
    from harness.show.progress import stage_progress

    require_learning()
    from harness.speculator.tiny.make import made_model

    with stage_progress() as on_step:
        made = made_model(name, seed, out, on_step)
    found = {"folder": str(made.folder), **made.record}
    answer(as_json, found, lambda: made_table(found))


def doctor(as_json: Json = False) -> None:
    """Say what is installed and what would run here."""
    from harness.doctor import examine
    from harness.show.machine import doctor_table

    findings = examine()
    answer(as_json, findings, lambda: doctor_table(findings))
