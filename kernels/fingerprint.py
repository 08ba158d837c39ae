"""What a compiled kernel consists of, and what counts as worse.

Counts come from the machine code (SASS, or the AMD assembly), not from hashes: hashes differ
between equal builds, counts tell what changed.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SHARED_LIMIT = {"sm_80": 166912, "sm_90": 232448, "sm_100": 232448, "gfx942": 65536}
"""Bytes of shared memory (LDS) one program may take; the compiler does not check it."""

WIDEST_MATRIX = {"sm_80": "HMMA", "sm_90": "HGMMA", "sm_100": "UTCHMMA", "gfx942": "MFMA"}

SASS = {
    "HGMMA": r"\bHGMMA",
    "HMMA": r"\bHMMA",
    "UTCHMMA": r"\bUTCHMMA",
    "UTMALDG": r"\bUTMALDG",
    "LDGSTS": r"\bLDGSTS",
    "LDG": r"\bLDG\.",
    "LDG128": r"\bLDG\.[\w.]*128",
    "STG": r"\bSTG",
}
GCN = {
    "MFMA": r"\bv_mfma",
    "LOAD": r"\b(?:global|buffer)_load",
    "LOAD128": r"\b(?:global|buffer)_load_dwordx4",
    "STORE": r"\b(?:global|buffer)_store",
}
SLACK = 1.10
"""Registers and shared memory may grow by this factor before it counts as worse."""


@dataclass(frozen=True, slots=True)
class Fingerprint:
    registers: int
    """Per thread (VGPRs on AMD)."""
    shared: int
    """Bytes per program."""
    spills: int
    """Stack bytes plus local loads and stores (AMD: scratch bytes plus spilled registers)."""
    counts: dict[str, int] = field(default_factory=dict)


def of_kernel(kernel: Any, target: str) -> Fingerprint:
    """From a compiled Triton kernel."""
    shared = int(kernel.metadata.shared)
    if target.startswith("gfx"):
        return _amd(kernel.asm["amdgcn"], shared)
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(kernel.asm["cubin"])
        file.flush()
        usage = _tool("cuobjdump", "-res-usage", file.name)
        code = _tool("nvdisasm", "-c", file.name)
    stack = sum(int(n) for n in re.findall(r"STACK:(\d+)", usage))
    local = len(re.findall(r"\b(?:LDL|STL)\b", code))
    registers = max(int(n) for n in re.findall(r"REG:(\d+)", usage))
    return Fingerprint(registers, shared, stack + local, _count(SASS, code))


def _amd(code: str, shared: int) -> Fingerprint:
    def largest(key: str) -> int:
        return max((int(n) for n in re.findall(rf"\.{key}: *(\d+)", code)), default=0)

    spills = largest("vgpr_spill_count") + largest("private_segment_fixed_size")
    return Fingerprint(largest("vgpr_count"), shared, spills, _count(GCN, code))


def _count(patterns: dict[str, str], code: str) -> dict[str, int]:
    return {name: n for name, pattern in patterns.items() if (n := len(re.findall(pattern, code)))}


def _tool(name: str, *args: str) -> str:
    import triton.backends.nvidia as nvidia

    path = Path(next(iter(nvidia.__path__))) / "bin" / name
    return subprocess.run([str(path), *args], capture_output=True, text=True, check=True).stdout


def failed_gates(print_: Fingerprint, target: str, matrix: bool) -> list[str]:
    """Reasons this kernel may not ship; `matrix`: it must use the widest matrix unit."""
    reasons = []
    if print_.spills and target == "sm_90":
        reasons.append(f"spills: {print_.spills}")
    if print_.shared > SHARED_LIMIT[target]:
        reasons.append(f"shared memory {print_.shared} exceeds the chip's {SHARED_LIMIT[target]}")
    if matrix and not print_.counts.get(WIDEST_MATRIX[target]):
        reasons.append(f"no {WIDEST_MATRIX[target]}")
    return reasons


def worse(old: Fingerprint, new: Fingerprint) -> list[tuple[str, bool]]:
    """(what changed, whether for the worse) between two builds of one variant."""
    found = []
    if new.spills != old.spills:
        found.append((f"spills {old.spills} -> {new.spills}", new.spills > old.spills))
    for name in ("registers", "shared"):
        a, b = getattr(old, name), getattr(new, name)
        if a != b:
            found.append((f"{name} {a} -> {b}", b > a * SLACK))
    for kind in sorted(old.counts.keys() | new.counts.keys()):
        a, b = old.counts.get(kind, 0), new.counts.get(kind, 0)
        if a != b:
            found.append((f"{kind} {a} -> {b}", _count_worse(kind, a, b)))
    return found


def _count_worse(kind: str, a: int, b: int) -> bool:
    """A matrix or wide-load kind that vanished; narrow loads that grew by more than half."""
    if kind in ("HGMMA", "UTCHMMA", "MFMA", "UTMALDG", "LDGSTS", "LDG128", "LOAD128"):
        return b == 0
    return kind in ("LDG", "LOAD", "HMMA") and b > a * 1.5 + 4
