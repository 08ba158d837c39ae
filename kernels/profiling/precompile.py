"""Fill Triton's cache before measuring, in several processes: one alone would take minutes."""

from __future__ import annotations

import multiprocessing
import zlib
from typing import Any

import torch

from kernels.aot import CompileOnly, variant
from kernels.common import Chip, on_chip, recording
from kernels.profiling.plan import FULL_CHECK, TRITON, Item
from kernels.registry import OPS

Target = tuple[str, int | str, int]
AHEAD = 1200
"""Items looked at; what comes later mostly uses the same kernels."""


def compile_ahead(jobs: int, target: Target, chip: Chip, items: list[Item]) -> None:
    """Compile the kernels of the first AHEAD items for `target` in `jobs` processes, and wait for them."""
    ours = [i for i in items if i.impl in (TRITON, FULL_CHECK) and not OPS[i.op].composed][:AHEAD]
    context = multiprocessing.get_context("spawn")
    processes = [
        context.Process(target=part, args=(job, jobs, target, chip, ours), daemon=True) for job in range(jobs)
    ]
    for process in processes:
        process.start()
    for done, process in enumerate(processes, 1):
        process.join()
        print(f"compiling ahead: {done} of {jobs} processes done", flush=True)


def part(job: int, jobs: int, target: Target, chip: Chip, items: list[Item]) -> int:
    """Compile every kernel variant whose name falls to this job; how many launches that were."""
    from triton.backends.compiler import GPUTarget
    from triton.runtime.driver import driver

    driver.set_active(CompileOnly(GPUTarget(*target)))
    compiled = 0
    for item in items:

        def compile_one(kernel: Any, args: tuple[Any, ...], meta: dict[str, Any], op: str = item.op) -> None:
            nonlocal compiled
            if zlib.crc32(variant(op, kernel, meta, args).encode()) % jobs == job:
                kernel.warmup(*args, grid=(1,), **meta)
                compiled += 1

        with recording(compile_one), on_chip(chip):
            op = OPS[item.op]
            op.run(**op.inputs(item.shape, "meta", torch.bfloat16, 0))
    return compiled
