"""A learner on disk: weights and optimiser state, so that a restarted trainer goes on where it stopped.

Traces are not kept: the buffer holds users' text, and fills again within minutes.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import torch

from harness.errors import InputError, MissingPart
from harness.speculator import checkpoint
from harness.speculator.learner import Learner

_MOMENTS = ("exp_avg", "exp_avg_sq", "step")
_AVERAGE = "average"


def save_learner(learner: Learner, folder: Path) -> None:
    """`drafter.safetensors`, `optimiser.safetensors` and, written last, `learner.json`."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    found = checkpoint.snapshot(learner.drafter, learner.samples, learner.verifier_version)
    checkpoint.save(found, folder / "drafter.safetensors")
    beside = folder / f"optimiser.{os.getpid()}.tmp"
    save_file(_moments(learner), str(beside))
    os.replace(beside, folder / "optimiser.safetensors")
    record = {
        "steps": learner.steps,
        "since_shift": learner.since_shift,
        "samples": learner.samples,
        "weights": found.weights_print,
    }
    checkpoint.write_json(folder / "learner.json", record)


def load_learner(learner: Learner, folder: Path) -> None:
    """Bring a learner of the same settings to the saved state. InputError when the files do not fit together."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not (folder / "learner.json").is_file():
        raise MissingPart(f"{folder} holds no saved learner (no learner.json)")
    try:
        record = json.loads((folder / "learner.json").read_text(encoding="utf-8"))
        found = checkpoint.load(folder / "drafter.safetensors")
        moments = load_file(str(folder / "optimiser.safetensors"))
    except (json.JSONDecodeError, SafetensorError, OSError) as error:
        raise InputError(f"{folder} holds no saved learner: {error}") from error
    if found.weights_print != record["weights"]:
        raise InputError(
            f"{folder}: weights and learner.json are of different moments; use another checkpoint"
        )
    checkpoint.load_into(learner.drafter, found)
    for name, parameter in learner.drafter.named_parameters():
        state = {m: moments[f"{name}/{m}"] for m in _MOMENTS if f"{name}/{m}" in moments}
        state = {m: x if m == "step" else x.to(parameter.device) for m, x in state.items()}
        if state:
            learner.optimiser.state[parameter] = dict(state)
        learner.average.of(parameter).copy_(moments[f"{name}/{_AVERAGE}"])
    learner.steps, learner.samples = record["steps"], record["samples"]
    learner.since_shift = record["since_shift"]


def _moments(learner: Learner) -> dict[str, torch.Tensor]:
    names: dict[torch.Tensor, str] = {p: name for name, p in learner.drafter.named_parameters()}
    averages = {f"{name}/{_AVERAGE}": w.contiguous() for name, w in learner.average.weights().items()}
    return averages | {
        f"{names[p]}/{m}": torch.as_tensor(state[m]).contiguous()
        for p, state in learner.optimiser.state.items()
        for m in _MOMENTS
        if m in state
    }
