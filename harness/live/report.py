"""What a trainer process is told at its start, and what it reports."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from harness.contract import TrainerState

STATIC_FILE = "static.safetensors"
"""In the folder of candidates: the drafter of the start, the floor that a policy can always return to."""


@dataclass(frozen=True, slots=True)
class TrainerConfig:
    """All that the process needs to begin."""

    link: Path
    target: Path
    head: Path
    out: Path
    """Where candidates are written."""
    learner: str = "default"
    seed: int = 0
    untrained: bool = False
    """Begin from nothing instead of the head (day zero)."""
    device: str = "cpu"
    """Where it computes, as torch calls it."""


@dataclass(frozen=True, slots=True)
class Report:
    """What the process says about itself, a few times a second."""

    state: TrainerState
    candidate: Path | None
    refusal: str
    busy_seconds: float
    incomplete: int
    """Traces that came with a hole."""
    tokens: int
    """Tokens of the traces taken in."""
    buffer_bytes: int
    peak_buffer_bytes: int
    run: int = 0
    """How often the process was told to start over."""
    worked: tuple[tuple[float, float], ...] = ()
    """From when to when it worked since the report before, by `time.monotonic` (one clock for the machine)."""
