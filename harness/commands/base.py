"""What commands share: options of the same meaning, and how an answer is printed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
RunDir = Annotated[Path, typer.Argument(metavar="RUN", help="A run directory.")]


def answer(as_json: bool, data: Any, readable: Any) -> None:
    """Print one JSON object, or what `readable()` returns, on standard output."""
    if as_json:
        print(json.dumps(data, allow_nan=False))
        return
    from rich.console import Console

    Console().print(readable())
