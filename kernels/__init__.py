"""Triton kernels of a verify step, each with reference, shapes and cost; profiler; ahead-of-time checks.

Start with three files:

1. `common.py`: what an operation is (`Op`, `Cost`), and the one way to launch.
2. `attention.py`: paged verify attention, the kernel that no public profile covers.
3. `profile.py`: the command that measures everything on a GPU.

`aot.py` compiles every kernel for four chips without one. `whole.py` composes layers, verify steps
and draft passes. To add an operation: a file with an `Op`, and its line in `registry.py`.
This package needs torch and triton alone, and imports nothing of `harness`.
"""
