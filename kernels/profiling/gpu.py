"""The CUDA side of the profiler: ceilings, jobs, timing by CUDA graph replay, SM clock.

Cold inputs (weights, KV) are rotated among copies that together exceed COLD_FACTOR x L2, so each
call finds its own evicted; activations stay the same tensors and so stay warm, as in serving.
"""

from __future__ import annotations

import ctypes
import itertools
import math
import os
import statistics
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import torch
import triton

from kernels.common import Chip, Inputs, Op, chip_of, full_check
from kernels.profiling import peers
from kernels.profiling.plan import EAGER, FULL_CHECK, TRITON, Item
from kernels.profiling.runner import Ceilings, Timing
from kernels.registry import OPS

DTYPE = torch.bfloat16
SEED = 1
COLD_FACTOR = 5.0
MAX_COPIES = 256
LEAST_CALLS, GRAPH_US = 16, 500.0
"""A graph holds so many calls, or fewer that fill so many microseconds: long beside the event resolution."""
REPLAY_MS = 30.0
"""Replays together take about this long, between the two counts below."""
REPLAYS = (7, 60)
COMMIT_VARIABLE = "SPECDRIFT_COMMIT"


class CudaBackend:
    """The current CUDA device."""

    device = "cuda"

    def __init__(self) -> None:
        if not torch.cuda.is_available():
            raise ValueError(
                "no CUDA device is present; profiling needs one (--list prints the plan without)"
            )
        self.properties = torch.cuda.get_device_properties(0)
        self.clock = SmClock(str(getattr(self.properties, "uuid", "")))
        self.stream = torch.cuda.Stream()

    @property
    def chip(self) -> Chip:
        return chip_of(torch.empty(0, device="cuda"))

    @property
    def target(self) -> tuple[str, int | str, int]:
        """What Triton compiles for, as in `GPUTarget`."""
        if torch.version.hip is not None:
            return ("hip", self.properties.gcnArchName.split(":")[0], 64)
        return ("cuda", 10 * self.properties.major + self.properties.minor, 32)

    def now(self) -> float:
        return time.monotonic()

    def ceilings(self) -> Ceilings:
        """Measured now: a 2 GB copy, a 2 GB read, a bf16 product of 8192 cubed, on random data."""
        a = torch.empty(1 << 30, dtype=DTYPE, device="cuda").normal_()
        b = torch.empty_like(a)
        size = a.numel() * a.element_size()
        copy = self.graph([lambda: b.copy_(a)] * 4).median_us
        whole = a.view(torch.int32)
        read = self.graph([lambda: whole.amax()] * 4).median_us
        x, y = (torch.empty(8192, 8192, dtype=DTYPE, device="cuda").normal_() for _ in range(2))
        product = self.graph([lambda: x @ y] * 4).median_us
        return Ceilings(
            device=self.properties.name,
            copy_gb_per_s=2 * size / copy / 1e3,
            read_gb_per_s=size / read / 1e3,
            tflops=2 * 8192**3 / product / 1e6,
            multiprocessors=self.properties.multi_processor_count,
            l2_bytes=self.properties.L2_cache_size,
            versions=versions(),
            commit=commit(),
        )

    def job(self, item: Item) -> GpuJob:
        if torch.cuda.memory_reserved() > 0.6 * self.properties.total_memory:
            torch.cuda.empty_cache()
        ours = item.impl in (TRITON, EAGER, FULL_CHECK)
        op = OPS[item.op] if ours else peers.variant(item.op, item.impl)
        return GpuJob(self, item, op)

    def alive(self) -> bool:
        try:
            torch.cuda.synchronize()
            return bool(torch.ones(1, device="cuda").item() == 1)
        except RuntimeError:
            return False

    def graph(self, calls: list[Callable[[], object]]) -> Timing:
        """Capture the calls in one graph, replay it, and divide; the first call is warmed up before."""
        torch.cuda.synchronize()
        with torch.cuda.stream(self.stream):
            calls[0]()
            self.stream.synchronize()
            captured = torch.cuda.CUDAGraph()
            captured.capture_begin()
            try:
                for call in calls:
                    call()
            finally:
                captured.capture_end()
            return self._replay(captured.replay, len(calls))

    def eager(self, call: Callable[[], object]) -> Timing:
        """One call after another, launched from Python: what a graph saves."""
        with torch.cuda.stream(self.stream):
            call()
            return self._replay(call, 1)

    def _replay(self, once: Callable[[], object], calls: int) -> Timing:
        first = self._timed(once, 1)[0][0]
        least, most = REPLAYS
        count = min(most, max(least, math.ceil(REPLAY_MS / max(first, 1e-3))))
        replays, clock = self._timed(once, count)
        times = [ms * 1e3 / calls for ms in replays]
        low, *_, high = statistics.quantiles(times, n=10)
        return Timing(statistics.median(times), low, high, count, clock)

    def _timed(self, once: Callable[[], object], count: int) -> tuple[list[float], int | None]:
        """Milliseconds of each of `count` runs, and the SM clock read while they are on their way."""
        marks = [torch.cuda.Event(enable_timing=True) for _ in range(count + 1)]
        marks[0].record(self.stream)
        for mark in marks[1:]:
            once()
            mark.record(self.stream)
        clock = self.clock.read()
        self.stream.synchronize()
        return [a.elapsed_time(b) for a, b in itertools.pairwise(marks)], clock


class GpuJob:
    """One item on the device."""

    def __init__(self, backend: CudaBackend, item: Item, op: Op) -> None:
        self.backend, self.item, self.op = backend, item, op
        self.inputs = op.inputs(item.shape, backend.device, DTYPE, SEED)

    def error(self) -> float:
        full = self.item.impl == FULL_CHECK and not self.op.composed
        return full_check(self.op, self.inputs) if full else self.op.check(self.op, self.inputs)

    def time(self) -> Timing:
        if self.item.impl == EAGER:
            return self.backend.eager(lambda: self.op.run(**self.inputs))
        cost = self.item.cost
        sets = rotated(self.op, self.inputs, cost.cold_bytes, self.backend.properties.L2_cache_size)
        floor = max(1.0, cost.floor_us(4000.0, 700.0))
        number = max(len(sets), min(LEAST_CALLS, math.ceil(GRAPH_US / floor)))
        return self.backend.graph([_call(self.op, sets[i % len(sets)]) for i in range(number)])


def _call(op: Op, inputs: Inputs) -> Callable[[], object]:
    return lambda: op.run(**inputs)


def copies(cold_bytes: float, l2_bytes: int) -> int:
    """Sets of cold tensors that together exceed COLD_FACTOR x L2, so each is evicted before its next use."""
    return min(MAX_COPIES, math.ceil(COLD_FACTOR * l2_bytes / cold_bytes)) if cold_bytes else 1


def rotated(op: Op, inputs: Inputs, cold_bytes: float, l2_bytes: int) -> list[Inputs]:
    """The inputs, then as many others as `copies` asks for, with cold tensors of their own."""
    more = range(1, copies(cold_bytes, l2_bytes))
    if op.composed:
        return [inputs] + [inputs | {"turn": turn} for turn in more]
    cold = [name for name in op.cold if name in inputs]
    return [inputs] + [inputs | {name: inputs[name].clone() for name in cold} for _ in more]


class SmClock:
    """SM clock in MHz through the driver's own library; reads None where that is not to be had."""

    def __init__(self, uuid: str) -> None:
        self._handle: ctypes.c_void_p | None = None
        handle = ctypes.c_void_p()
        try:
            self._nvml = ctypes.CDLL("libnvidia-ml.so.1")
            found = self._open(uuid, handle)
        except (OSError, AttributeError):
            return
        self._handle = handle if found else None

    def _open(self, uuid: str, handle: ctypes.c_void_p) -> bool:
        return self._nvml.nvmlInit_v2() == 0 and (
            self._nvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}".encode(), ctypes.byref(handle)) == 0
            or self._nvml.nvmlDeviceGetHandleByIndex_v2(0, ctypes.byref(handle)) == 0
        )

    def read(self) -> int | None:
        value = ctypes.c_uint()
        sm_clock = 1
        if self._handle is None:
            return None
        if self._nvml.nvmlDeviceGetClockInfo(self._handle, sm_clock, ctypes.byref(value)) != 0:
            return None
        return value.value


def versions() -> str:
    return f"torch {torch.__version__}, triton {triton.__version__}, cuda {torch.version.cuda}"


def commit() -> str:
    """$SPECDRIFT_COMMIT, else what git says of this checkout, else `unknown`."""
    if named := os.environ.get(COMMIT_VARIABLE):
        return named
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
