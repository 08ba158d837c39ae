"""All operations by name."""

from __future__ import annotations

from harness.errors import UnknownName
from kernels import attention, fusion, gemm, kl, lm_head, rejection, rmsnorm, rotary, swiglu
from kernels.common import Op

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
    )
}


def op(name: str) -> Op:
    """The operation of that name; raises UnknownName."""
    if name not in OPS:
        raise UnknownName("operation", name, OPS)
    return OPS[name]
