"""What every kernel file offers: an `Op` (inputs, launcher, reference, cost, shapes), and one way to launch.

An operation's tensors are either *cold* (weights and KV: streamed from device memory at every
step, because a model is far larger than the L2 cache) or *warm* (activations: written by the
kernel just before). Costs and timings keep the two apart.
"""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import torch
import triton

Inputs = dict[str, Any]
"""Arguments of an op's launcher by name: tensors, and host integers known to a scheduler."""

H200_SMS = 132
"""The committed configurations are for this number of multiprocessors; used where no device is present."""


T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Cost:
    """What an operation must do, whoever implements it."""

    flops: float
    """Matrix-unit floating-point operations (a multiply-add counts 2)."""
    cold_bytes: float
    """Bytes that must come from or go to device memory."""
    warm_bytes: float
    """Bytes of activations, in L2 when the caller has just written them."""

    def floor_us(self, gb_per_s: float, tflops: float) -> float:
        """Roofline floor in microseconds from measured bandwidth (GB/s) and matrix rate (TFLOP/s)."""
        return max(self.cold_bytes / (gb_per_s * 1e3), self.flops / (tflops * 1e6))

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.flops + other.flops,
            self.cold_bytes + other.cold_bytes,
            self.warm_bytes + other.warm_bytes,
        )

    def times(self, n: int) -> Cost:
        return Cost(self.flops * n, self.cold_bytes * n, self.warm_bytes * n)


def relative_error(inputs: Inputs, out: tuple[torch.Tensor, ...], ref: tuple[torch.Tensor, ...]) -> float:
    """Largest ||out - ref|| / ||ref|| over the outputs; infinite where anything is not finite."""
    worst = 0.0
    for o, r in zip(out, ref, strict=True):
        r64 = r.double()
        error = float((o.double() - r64).norm() / r64.norm().clamp_min(1e-30))
        worst = max(worst, error) if error == error else float("inf")
    return worst


def full_check(op: Op, inputs: Inputs) -> float:
    """`op.error` of a launch against the whole reference."""
    return op.error(inputs, op.run(**inputs), op.reference(**inputs))


@dataclass(frozen=True)
class Op:
    """One operation. `inputs -> run` is what is timed; `reference` is plain torch in fp64.

    Shapes are frozen dataclasses of integers, strings and booleans: a profile row's `shape`.
    """

    name: str
    inputs: Callable[[Any, str, torch.dtype, int], Inputs]
    """(shape, device, dtype, seed) -> random inputs; allocates on `meta` too."""
    run: Callable[..., tuple[torch.Tensor, ...]]
    """Launch on `**inputs`."""
    reference: Callable[..., tuple[torch.Tensor, ...]]
    cost: Callable[[Any], Cost]
    """Cost in bf16."""
    shapes: Callable[[Any], list[Any]]
    """The shapes of one model (see models.py), most telling first."""
    specimens: Callable[[], list[Any]]
    """One shape for each compiled variant, for ahead-of-time checks."""
    cold: tuple[str, ...]
    """Names of the inputs that are streamed."""
    matrix: bool = False
    """Whether the kernel must run on the widest matrix unit (wgmma on sm_90)."""
    error: Callable[[Inputs, Any, Any], float] = field(default=relative_error)
    check: Callable[[Op, Inputs], float] = field(default=full_check)
    """The error at every profiled shape, where the full check would take too long."""
    tolerance: float = 1e-2
    """Largest accepted `error` in bf16."""
    composed: bool = False
    """Made of other ops: always checked by `check`, and its input `turn` chooses the set of weights."""


Launcher = Callable[[Any, tuple[Any, ...], dict[str, Any]], None]
_recorder: ContextVar[Launcher | None] = ContextVar("_recorder", default=None)


def launch(kernel: Any, grid: tuple[int, ...], *args: Any, **meta: Any) -> None:
    """`kernel[grid](*args, **meta)`, unless a `recording` is on: then only told to it."""
    recorder = _recorder.get()
    if recorder is None:
        kernel[grid](*args, **meta)
    else:
        recorder(kernel, args, meta)


@contextlib.contextmanager
def recording(recorder: Launcher) -> Iterator[None]:
    """Inside, launches run nothing; `recorder(kernel, args, meta)` gets each (ahead-of-time compiling)."""
    token = _recorder.set(recorder)
    try:
        yield
    finally:
        _recorder.reset(token)


def multiprocessors(tensor: torch.Tensor) -> int:
    """Multiprocessors of the tensor's device; the H200's where it is no GPU."""
    if tensor.device.type != "cuda":
        return H200_SMS
    return torch.cuda.get_device_properties(tensor.device).multi_processor_count


@dataclass(frozen=True, slots=True)
class Chip:
    """What the launchers ask of a chip, beyond its size."""

    tma: bool = True
    """Matrices are loaded through tensor descriptors (NVIDIA from compute capability 9.0)."""
    wgmma: bool = True
    """Products of a whole warpgroup; without, accumulators take more registers a thread."""
    stages: int = 8
    """Deepest software pipeline its shared memory allows."""


HOPPER = Chip()
AMPERE = Chip(tma=False, wgmma=False)
CDNA3 = Chip(tma=False, wgmma=False, stages=2)
_chip: ContextVar[Chip] = ContextVar("_chip", default=HOPPER)


@contextlib.contextmanager
def on_chip(chip: Chip) -> Iterator[None]:
    """Launch as for `chip` where the tensors are on no GPU: compiling ahead of time, interpreting."""
    token = _chip.set(chip)
    try:
        yield
    finally:
        _chip.reset(token)


def chip_of(tensor: torch.Tensor) -> Chip:
    """The chip the tensor is on, or the one of `on_chip`."""
    if tensor.device.type != "cuda":
        return _chip.get()
    if torch.version.hip is not None:
        return CDNA3
    return nvidia_chip(*torch.cuda.get_device_capability(tensor.device))


def nvidia_chip(major: int, minor: int) -> Chip:
    """By compute capability.

    9 and 10 have descriptors and warpgroup products, 12 only descriptors; 8.6, 8.9 and 12 have 99 KB
    of shared memory per block (the others 163 or 227, CUDA C++ Programming Guide): two stages.
    """
    chip = AMPERE if major < 9 else HOPPER if major < 12 else Chip(wgmma=False)
    small = major >= 12 or (major, minor) in ((8, 6), (8, 9))
    return replace(chip, stages=2) if small else chip


def operand(tensor: torch.Tensor, block: list[int], tma: bool) -> Any:
    """A matrix as the kernels take it: a tensor descriptor with `block`, or the tensor itself."""
    if not tma:
        return tensor
    from triton.tools.tensor_descriptor import TensorDescriptor

    return TensorDescriptor.from_tensor(tensor, block)


_counters: dict[torch.device, torch.Tensor] = {}
COUNTERS = 1 << 14


def counters(tensor: torch.Tensor) -> torch.Tensor:
    """int32[COUNTERS] of zeros on the tensor's device; kernels that count in it leave zeros behind.

    Kept between launches (no memset in a CUDA graph), hence for one stream at a time.
    """
    if tensor.device.type == "meta":
        return torch.empty(COUNTERS, dtype=torch.int32, device="meta")
    if tensor.device not in _counters:
        _counters[tensor.device] = torch.zeros(COUNTERS, dtype=torch.int32, device=tensor.device)
    return _counters[tensor.device]


def randn(
    shape: tuple[int, ...], device: str, dtype: torch.dtype, seed: int, scale: float = 1.0
) -> torch.Tensor:
    """Normal random numbers of `scale`, drawn on the device itself."""
    if device == "meta":
        return torch.empty(shape, dtype=dtype, device=device)
    generator = torch.Generator(device).manual_seed(seed)
    return torch.empty(shape, dtype=dtype, device=device).normal_(0.0, scale, generator=generator)


def pow2(n: int, least: int = 1) -> int:
    """The smallest power of two that is at least `n` and `least`."""
    return max(least, triton.next_power_of_2(n))


def cdiv(a: int, b: int) -> int:
    return -(-a // b)


def lookup(kind: str, name: str, table: Mapping[str, T]) -> T:
    """`table[name]`; ValueError names the valid ones. (No import of `harness`: this package runs alone.)"""
    if name not in table:
        near = difflib.get_close_matches(name, table, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ValueError(f"unknown {kind} {name!r}; {hint}valid: {', '.join(sorted(table))}")
    return table[name]
