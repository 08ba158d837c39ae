"""Who computes where: servers and trainer on the GPUs that are visible, or on the CPU."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from harness.errors import InputError, MissingPart
from harness.gpus import Gpu, gpus
from harness.live.models import ModelSpec

ALONE, BESIDE_TRAINER = 0.9, 0.7
"""Of a GPU's memory, what all servers on it take: vLLM's own default, and where the trainer is on it too."""
TRAINER_GIB = 20.0
"""What the trainer of an EAGLE-3 head 4,096 wide takes, by arithmetic: 0.4e9 weights with gradient, two moments, their
average and a judged copy in float32, and of the target the LM head and the embedding (128k tokens)."""


@dataclass(frozen=True, slots=True)
class Placement:
    """Where trainer and servers are."""

    trainer: str = "cpu"
    """`cpu` or `cuda:N`, N as the server's own processes count."""
    share: float | None = None
    """Of each GPU's memory, what one server takes; None: no GPU."""
    own_gpu: bool = False
    """Whether the trainer has a GPU that no server is on: one that could serve, so it is charged."""


ON_CPU = Placement()


def place(spec: ModelSpec, servers: int = 1, trainer: str | None = None) -> Placement:
    """`servers` of this model side by side, each on the same GPUs, and a trainer.

    Where no device is asked for, the trainer takes the first GPU that the servers leave alone; else a part of their
    first one, if it fits; else the CPU. InputError for a device that is not there, MissingPart for too little memory.
    """
    found = gpus() if spec.device == "gpu" else ()
    device = _automatic(spec, servers, found) if trainer is None else _checked(trainer, len(found))
    if not found:
        return Placement(device)
    usable = _usable(spec, device)
    share = usable / servers
    least = min(gpu.gib for gpu in found[: spec.tensor_parallel])
    if share * least < _needs(spec):
        raise MissingPart(_too_little(spec, servers, share * least, device))
    return Placement(device, round(share, 3), own_gpu=device != "cpu" and usable == ALONE)


def _too_little(spec: ModelSpec, servers: int, have: float, device: str) -> str:
    what = "a server" if servers == 1 else f"each of {servers} servers side by side"
    ways = [
        *(["leave out arm none, which has a server of its own"] if servers > 1 else []),
        *(["move the trainer off (--trainer-device cpu)"] if _usable(spec, device) < ALONE else []),
        "take a larger GPU or a smaller model",
    ]
    return f"{what} of {spec.name} needs {_needs(spec):.0f} GiB of a GPU and has {have:.0f}: {', or '.join(ways)}"


def _automatic(spec: ModelSpec, servers: int, found: Sequence[Gpu]) -> str:
    if len(found) > spec.tensor_parallel:
        return f"cuda:{spec.tensor_parallel}"
    fits = found and (
        found[0].gib * BESIDE_TRAINER / servers >= _needs(spec)
        and found[0].gib * (1.0 - BESIDE_TRAINER) >= TRAINER_GIB
    )
    return "cuda:0" if fits else "cpu"


def _checked(asked: str, visible: int) -> str:
    known = ["cpu", *(f"cuda:{i}" for i in range(visible))]
    device = "cuda:0" if asked == "cuda" else asked
    if device not in known:
        raise InputError(f"trainer device is {asked!r}; here it must be {' or '.join(known)}")
    return device


def _usable(spec: ModelSpec, device: str) -> float:
    """Share of the servers' GPUs that is theirs."""
    kind, _, number = device.partition(":")
    return BESIDE_TRAINER if kind == "cuda" and int(number) < spec.tensor_parallel else ALONE


def _needs(spec: ModelSpec) -> float:
    """GiB of each GPU for one server; `min_gpu_gib` is of a GPU that it has to itself."""
    return spec.min_gpu_gib * ALONE
