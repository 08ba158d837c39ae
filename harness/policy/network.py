"""The network of a learned policy, as it runs: NumPy only, so that it can sit inside a server process.

Two tanh layers beside a straight path: the logits of K are a linear function of what the layers say *and* of the
features themselves. Learned by `harness/sim/ppo.py`, kept as safetensors with the names of its features.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from harness.errors import InputError
from harness.policy.steered import FEATURES, MOST_K

FORMAT = "specdrift-policy-1"


@dataclass(frozen=True)
class Network:
    """`layers`: (weight [out, in], bias [out]) of each hidden layer, then of the logits, float32."""

    layers: tuple[tuple[np.ndarray, np.ndarray], ...]
    learned: Mapping[str, object]
    """Where it was learned: scenarios, latency models, ticks, commit."""

    def logits(self, features: np.ndarray) -> np.ndarray:
        """float32[len(FEATURES)] -> logits of K = 0..MOST_K."""
        hidden = features
        for weight, bias in self.layers[:-1]:
            hidden = np.tanh(weight @ hidden + bias)
        weight, bias = self.layers[-1]
        found: np.ndarray = weight @ np.concatenate([hidden, features]) + bias
        return found

    def draw(self, features: np.ndarray, most: int, rng: np.random.Generator) -> tuple[int, float]:
        """A K of 0..`most`, drawn by its logits, and the probability of that draw."""
        logits = self.logits(features)[: most + 1].astype(np.float64)
        chances = np.exp(logits - logits.max())
        chances /= chances.sum()
        k = int(rng.choice(most + 1, p=chances))
        return k, float(chances[k])


def save(path: Path, layers: Sequence[tuple[np.ndarray, np.ndarray]], learned: Mapping[str, object]) -> None:
    """Write the layers and where they were learned; whole or not at all."""
    tensors = {}
    for i, (weight, bias) in enumerate(layers):
        tensors[f"{i}.weight"] = np.ascontiguousarray(weight, dtype=np.float32)
        tensors[f"{i}.bias"] = np.ascontiguousarray(bias, dtype=np.float32)
    metadata = {"format": FORMAT, "features": json.dumps(FEATURES), "learned": json.dumps(learned)}
    part = path.with_name(path.name + ".part")
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, part, metadata)
    part.replace(path)


def load(path: Path) -> Network:
    """The network of a file; InputError when it is none, or was learned with other features."""
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            names = file.keys()
            tensors = {name: file.get_tensor(name) for name in names}
    except FileNotFoundError:
        raise InputError(
            f"there is no policy file {str(path)!r}; specdrift train-policy --out makes one"
        ) from None
    except (SafetensorError, OSError) as error:
        raise InputError(f"{str(path)!r} is no policy file: {error}") from None
    if metadata.get("format") != FORMAT or metadata.get("features") != json.dumps(FEATURES):
        raise InputError(
            f"{str(path)!r} holds no policy for this version (format {FORMAT}, {len(FEATURES)} features); learn it anew"
        )
    try:
        layers = tuple((tensors[f"{i}.weight"], tensors[f"{i}.bias"]) for i in range(len(tensors) // 2))
        learned = json.loads(metadata["learned"])
    except (KeyError, json.JSONDecodeError) as error:
        raise InputError(f"{str(path)!r} is no policy file: {error} is missing or damaged") from None
    _check(path, layers)
    return Network(layers, learned)


def _check(path: Path, layers: Sequence[tuple[np.ndarray, np.ndarray]]) -> None:
    """InputError unless the shapes fit together and all numbers are finite."""
    width, ok = len(FEATURES), len(layers) >= 1
    for i, (weight, bias) in enumerate(layers):
        last = i == len(layers) - 1
        expected = (len(bias), width + (len(FEATURES) if last and i else 0))
        ok = ok and weight.shape == expected and bool(np.isfinite(weight).all() and np.isfinite(bias).all())
        width = len(bias)
    if not ok or width != MOST_K + 1:
        raise InputError(f"{str(path)!r} is no policy file: its layers do not fit together or are not finite")
