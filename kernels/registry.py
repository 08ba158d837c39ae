"""All operations by name: kernels, then what is composed of them."""

from __future__ import annotations

from kernels import attention, fusion, gemm, kl, lm_head, rejection, rmsnorm, rotary, swiglu, whole
from kernels.common import Op, lookup

OPS: dict[str, Op] = {
    op.name: op
    for op in (
        attention.OP,
        gemm.OP,
        lm_head.OP,
        fusion.OP,
        rmsnorm.OP,
        rotary.OP,
        swiglu.OP,
        rejection.OP,
        kl.FORWARD,
        kl.BACKWARD,
        *whole.OPS,
    )
}


def op(name: str) -> Op:
    """The operation of that name; raises ValueError."""
    return lookup("operation", name, OPS)
