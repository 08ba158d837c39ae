"""Swapping weights of a running vLLM model: prepared beside it, flipped between two engine steps, proven by a probe.

On a GPU parameters are copied in place (CUDA graphs hold their addresses). On a CPU a linear layer's weight is packed
at load and its parameter left empty, so loading into it fails, and vLLM's layer-wise reload leaves the old weights
serving without a word: there each layer gets a freshly packed weight, and what changes hands is a reference.

Official endpoints for draft weights exist from vLLM 0.26 on, but they end in the same reload. So this is the one way
for all of them. Where a model is spread over several workers, each swaps its own part (`shards.py`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from harness.errors import InputError
from harness.live.shards import part_of

STACKED = {"qkv_proj": ("q_proj", "k_proj", "v_proj"), "gate_up_proj": ("gate_proj", "up_proj")}
"""vLLM's fused layers, and the layers of a checkpoint that they hold in this order."""

PROBE_ROWS = 4
TOLERANCE = {torch.float32: 1e-3, torch.float16: 2e-2, torch.bfloat16: 5e-2}
"""Largest error of a layer's output on the probe, relative to the largest output, by the model's number format."""


@dataclass(slots=True)
class Change:
    """One module's new weight, ready to serve."""

    name: str
    module: Any
    weight: torch.Tensor
    """In the model's number format, on its device, unpacked."""
    packed: nn.Module | None = None
    """Holds `weight` and `cpu_linear` of a packed CPU layer."""
    probe: torch.Tensor | None = None
    expected: torch.Tensor | None = None
    """Of a linear layer: what it must answer to `probe`."""
    old: Any = None


@dataclass(slots=True)
class Prepared:
    """All changes of one swap. `apply` and `revert` take effect at once; call them between two steps."""

    changes: list[Change]
    in_place: bool
    buffers: list[tuple[nn.Parameter, torch.Tensor]] = field(default_factory=list)
    """Parameters beside the layers (the map of a pruned draft vocabulary), and their new values."""
    _old_buffers: list[torch.Tensor] = field(default_factory=list)

    def apply(self) -> None:
        for change in self.changes:
            _put(change, self.in_place)
        for parameter, value in self.buffers:
            self._old_buffers.append(parameter.data.clone() if self.in_place else parameter.data)
            _set(parameter, value, self.in_place)

    def revert(self) -> None:
        """Serve what served before, also when `apply` broke off half way."""
        for change in reversed(self.changes):  # a weight that two modules share has been changed twice
            if change.old is not None:
                _put_back(change, self.in_place)
        for (parameter, _), old in zip(self.buffers, self._old_buffers, strict=False):
            _set(parameter, old, self.in_place)

    def prove(self) -> tuple[str, float]:
        """(fingerprint of the answers, largest relative error) of the layers that serve now.

        RuntimeError naming the first layer that does not answer as the new weights would."""
        digest, worst = hashlib.sha256(), 0.0
        for change in self.changes:
            answer, error = _answer(change)
            if not error <= TOLERANCE.get(change.weight.dtype, 5e-2):
                raise RuntimeError(f"layer {change.name} answers the probe off by {error:.3g} of its range")
            digest.update(answer.detach().float().cpu().numpy().tobytes())
            worst = max(worst, error)
        for parameter, value in self.buffers:
            if not torch.equal(parameter.data, value):
                raise RuntimeError("the map of the draft vocabulary is not the new one")
        return digest.hexdigest()[:16], worst


def prepare(
    model: nn.Module,
    tensors: Mapping[str, torch.Tensor],
    rename: Callable[[str], str] = lambda name: name,
    make_way: Callable[[], None] = lambda: None,
) -> Prepared:
    """Bring checkpoint tensors into the form that `model` serves with, without touching it.

    `rename` turns the name of a module of the model into its name in the checkpoint (without '.weight'). Modules
    that the checkpoint leaves out keep their weights, if nothing of theirs is there; one that shares its weight with
    a module that is there changes with it. `make_way` is called before each module that changes.

    Raises InputError for a weight that is missing, of another shape or not finite, or left over, as biases are.
    """
    used: set[str] = set()
    shared: dict[int, list[torch.Tensor]] = {}
    changes = []
    for name, module in model.named_modules():
        if "weight" not in module._parameters:
            continue
        found = _tensors_of(rename(name), tensors, used)
        if found is None:
            found = shared.get(id(module.weight))  # tied to the embedding; packed, it holds a copy of its own
        if found is not None:
            shared[id(module.weight)] = found
            make_way()
            changes.append(_change(name, module, part_of(module, found)))
    if left := sorted(n for n in tensors if n not in used and n.endswith(("weight", "bias"))):
        raise InputError(f"weight {left[0]!r} has no place in the serving model")
    if not changes:
        raise InputError("the checkpoint holds no weight of the serving model")
    on_cpu = all(c.weight.device.type == "cpu" for c in changes)
    return Prepared(changes, in_place=not on_cpu)


def _tensors_of(name: str, tensors: Mapping[str, torch.Tensor], used: set[str]) -> list[torch.Tensor] | None:
    """The checkpoint's tensors that a module holds, whole."""
    head, _, last = name.rpartition(".")
    parts = [f"{head}.{p}.weight" if head else f"{p}.weight" for p in STACKED.get(last, (last,))]
    present = [p for p in parts if p in tensors]
    if not present:
        return None
    if len(present) < len(parts):
        missing = next(p for p in parts if p not in tensors)
        raise InputError(f"weight {missing!r} is missing beside {present[0]!r}")
    used.update(parts)
    for part in parts:
        if not bool(torch.isfinite(tensors[part]).all()):
            raise InputError(f"weight {part!r} holds a value that is not a finite number")
    return [tensors[part] for part in parts]


def _change(name: str, module: Any, found: torch.Tensor) -> Change:
    shape = _shape(module)
    padded = getattr(module, "num_embeddings_padded", None)  # with several workers, `part_of` has done it
    if padded is not None and found.ndim == 2 and found.shape[0] < padded and shape[0] == padded:
        found = torch.cat([found, found.new_zeros(padded - found.shape[0], found.shape[1])])
    if tuple(found.shape) != shape:
        raise InputError(f"weight of {name!r} has shape {tuple(found.shape)}; it must be {shape}")
    served = module.weight
    weight = found.to(device=served.device, dtype=served.dtype, copy=True).contiguous()
    change = Change(name, module, weight)
    if weight.ndim == 2 and hasattr(module, "quant_method") and not _is_lookup(module):
        generator = torch.Generator().manual_seed(
            int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big")
        )
        probe = torch.randn(PROBE_ROWS, weight.shape[1], generator=generator)
        change.probe = probe.to(weight.device, weight.dtype)
        change.expected = change.probe.float() @ weight.float().T
    if hasattr(module, "cpu_linear"):
        change.packed = _packed(module, weight)
    return change


def _packed(module: Any, weight: torch.Tensor) -> nn.Module:
    from vllm.model_executor.layers.utils import dispatch_cpu_unquantized_gemm

    shadow = nn.Module()
    shadow.weight = nn.Parameter(weight.clone(), requires_grad=False)
    dispatch_cpu_unquantized_gemm(shadow, remove_weight=module.weight.numel() == 0)
    return shadow


def _shape(module: Any) -> tuple[int, ...]:
    """Shape of the weight, also where packing left the parameter empty."""
    weight = module.weight
    if weight.numel():
        return tuple(weight.shape)
    sizes = (
        ("output_size_per_partition", "num_embeddings_per_partition", "output_size", "num_embeddings_padded"),
        ("input_size_per_partition", "input_size", "embedding_dim"),
    )
    found = [next(getattr(module, n) for n in names if getattr(module, n, None)) for names in sizes]
    return int(found[0]), int(found[1])


def _is_lookup(module: Any) -> bool:
    """A table of embeddings: vLLM's LM heads are a subclass of it, but they multiply."""
    names = [c.__name__ for c in type(module).__mro__]
    return "VocabParallelEmbedding" in names and "ParallelLMHead" not in names


def _put(change: Change, in_place: bool) -> None:
    module = change.module
    if in_place:
        change.old = module.weight.data.clone()
        module.weight.data.copy_(change.weight)
    elif change.packed is not None:
        change.old = (module.cpu_linear, module.weight.data)
        module.cpu_linear, module.weight.data = change.packed.cpu_linear, change.packed.weight.data
    else:
        change.old = module.weight.data
        module.weight.data = change.weight


def _put_back(change: Change, in_place: bool) -> None:
    module = change.module
    if in_place:
        module.weight.data.copy_(change.old)
    elif change.packed is not None:
        module.cpu_linear, module.weight.data = change.old
    else:
        module.weight.data = change.old


def _set(parameter: nn.Parameter, value: torch.Tensor, in_place: bool) -> None:
    if in_place:
        parameter.data.copy_(value)
    else:
        parameter.data = value


def _answer(change: Change) -> tuple[torch.Tensor, float]:
    """What the serving module answers, and how far that is from what it must."""
    module = change.module
    if change.probe is None or change.expected is None:
        served = module.weight
        return served.data.flatten()[:64], 0.0 if torch.equal(served.data, change.weight) else float("inf")
    answer = module.quant_method.apply(module, change.probe)
    scale = float(change.expected.abs().max()) or 1.0
    return answer, float((answer.float() - change.expected).abs().max()) / scale


__all__ = ["Prepared", "prepare"]
