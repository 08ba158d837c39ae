"""Drafter checkpoints: safetensors in vLLM's EAGLE-3 layout, with what proves that weights and map belong together.

Never pickle. Files are written beside their place and renamed, so that none is ever half there.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from harness.errors import InputError, MissingPart
from harness.speculator.drafters.base import Drafter
from harness.speculator.vocabulary import DraftVocabulary

WEIGHTS = "model.safetensors"


@dataclass(frozen=True)
class Snapshot:
    """Immutable weights of a drafter, apart from any module."""

    kind: str
    weights: Mapping[str, torch.Tensor]
    vocabulary: DraftVocabulary
    vocabulary_print: str
    """Fingerprint of the draft vocabulary that the weights were trained under."""
    weights_print: str
    """Fingerprint of the weights when the snapshot was taken."""
    samples: int = 0
    """Traces trained on so far."""
    verifier_version: int = 0
    """The target that they were trained against last."""

    @property
    def consistent(self) -> bool:
        """Whether weights and vocabulary are still those of the snapshot."""
        return (
            self.vocabulary.fingerprint() == self.vocabulary_print
            and fingerprint(self.weights) == self.weights_print
        )


def snapshot(
    drafter: Drafter,
    samples: int = 0,
    verifier_version: int = 0,
    weights: Mapping[str, torch.Tensor] | None = None,
) -> Snapshot:
    """A copy, on the CPU, of the drafter's weights as they are now, or of `weights` in their place."""
    weights = dict(drafter.named_parameters()) if weights is None else weights
    weights = {name: w.detach().to("cpu", copy=True) for name, w in weights.items()}
    vocabulary = DraftVocabulary(drafter.vocabulary.ids.to("cpu", copy=True), drafter.vocabulary.target_size)
    print_ = vocabulary.fingerprint()
    return Snapshot(
        drafter.kind, weights, vocabulary, print_, fingerprint(weights), samples, verifier_version
    )


@torch.no_grad()
def load_into(drafter: Drafter, found: Snapshot) -> None:
    """Give `drafter` these weights. InputError names the first tensor that is missing or of another shape."""
    own = dict(drafter.named_parameters())
    for name in sorted(own.keys() | found.weights.keys()):
        here = tuple(own[name].shape) if name in own else None
        there = tuple(found.weights[name].shape) if name in found.weights else None
        if here != there:
            raise InputError(
                f"weight {name!r} of a {found.kind} drafter has shape {there}; it must be {here}"
            )
    drafter.vocabulary.become(found.vocabulary)
    for name, parameter in own.items():
        parameter.copy_(found.weights[name])


def fingerprint(weights: Mapping[str, torch.Tensor]) -> str:
    """16 hex digits over names and bytes."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        digest.update(name.encode())
        digest.update(weights[name].detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def broken(found: Snapshot) -> Snapshot:
    """The snapshot with one weight that is not a number, as a crashed optimiser leaves it: for injected faults."""
    name = next(iter(found.weights))
    bad = found.weights[name].clone()
    bad.view(-1)[0] = torch.nan
    changed = {**found.weights, name: bad}
    return replace(found, weights=changed, weights_print=fingerprint(changed))


def save(found: Snapshot, path: Path) -> None:
    """Write one `.safetensors` file: weights, `d2t` and `t2d`, fingerprints in its header."""
    from safetensors.torch import save_file

    tensors = {name: w.contiguous() for name, w in found.weights.items()}
    tensors |= {"d2t": found.vocabulary.d2t, "t2d": found.vocabulary.t2d}
    header = {
        "format": "pt",
        "kind": found.kind,
        "vocabulary": found.vocabulary_print,
        "weights": found.weights_print,
        "samples": str(found.samples),
        "verifier_version": str(found.verifier_version),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_suffix(f".{os.getpid()}.tmp")
    save_file(tensors, str(beside), header)
    os.replace(beside, path)


def load(path: Path) -> Snapshot:
    """The snapshot of a file written by `save`. InputError when it is damaged or not what it says it is."""
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise MissingPart(f"there is no checkpoint {path}")
    try:
        with safe_open(str(path), "pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        t2d = tensors.pop("t2d")
        d2t = tensors.pop("d2t")
        vocabulary = DraftVocabulary.from_d2t(d2t, len(t2d))
        found = Snapshot(
            header["kind"], tensors, vocabulary, header["vocabulary"], header["weights"],
            int(header["samples"]), int(header["verifier_version"]),
        )  # fmt: skip
    except (SafetensorError, KeyError, ValueError, OSError) as error:
        raise InputError(f"{path} is not a drafter checkpoint: {error}") from error
    if not found.consistent or not torch.equal(t2d, vocabulary.t2d):
        raise InputError(
            f"{path} is damaged: its weights or its draft vocabulary are not those it was saved with"
        )
    return found


def is_ours(path: Path) -> bool:
    """Whether a file was written by `save` (or is there at all but unreadable: `load` says what is wrong)."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), "pt") as file:
            return "weights" in (file.metadata() or {})
    except FileNotFoundError:
        return False
    except (SafetensorError, OSError):
        return True


def load_foreign(folder: Path, target_size: int) -> Snapshot:
    """The EAGLE-3 head of a folder that others made: no fingerprints, perhaps another name for its layer, perhaps a
    full vocabulary or a copy of the target's embedding (left out: the target's own is used).

    MissingPart without a file of weights; InputError for tensors that our head has no place for.
    """
    tensors = {_own_name(n): w for n, w in foreign_tensors(folder).items() if "embed_tokens" not in n}
    tensors.pop("t2d", None)
    d2t = tensors.pop("d2t", None)
    vocabulary = (
        DraftVocabulary.from_d2t(d2t, target_size) if d2t is not None else DraftVocabulary.full(target_size)
    )
    weights = {name: w.float() for name, w in tensors.items()}
    return Snapshot("eagle3", weights, vocabulary, vocabulary.fingerprint(), fingerprint(weights))


def foreign_tensors(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors of a folder that others made. MissingPart without any."""
    from safetensors.torch import load_file

    if found := sorted(folder.glob("*.safetensors")):
        return {name: w for path in found for name, w in load_file(str(path)).items()}
    if found := sorted(folder.glob("*.bin")):
        # weights_only: tensors and nothing that could run
        return {n: w for path in found for n, w in torch.load(path, "cpu", weights_only=True).items()}
    raise MissingPart(f"{folder} holds no weights (*.safetensors or *.bin)")


def _own_name(name: str) -> str:
    return name.removeprefix("model.").replace("layers.0.", "midlayer.")


def write_json(path: Path, content: object) -> None:
    """JSON that appears whole or not at all."""
    beside = path.with_suffix(f".{os.getpid()}.tmp")
    beside.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    os.replace(beside, path)
