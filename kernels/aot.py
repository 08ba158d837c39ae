"""Compile every kernel for every chip without one, and hold the result to what it was.

    python -m kernels.aot [--target sm_90] [--op gemm] [--update | --plan] [--json]

Each op's launcher runs on `meta` tensors of its specimen shapes; instead of launching, each kernel
is compiled with exactly the specialisation a launch would use. Gates: no spills, shared memory
within the chip's limit, the widest matrix instruction present where the op is a product. The
fingerprint (registers, shared memory, spills, instruction counts) is compared with the committed
one in `kernels/fingerprints/`. Exit code 1 when a gate fails or a figure got worse; 2 when this
cannot run here. `--plan` compiles every variant that the profile would launch, not only the
specimens, and applies the gates alone. One process per target: Triton holds one target per process.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kernels.common import AMPERE, CDNA3, HOPPER, Chip, on_chip, recording
from kernels.fingerprint import WIDEST_MATRIX, Fingerprint, failed_gates, of_kernel, worse

FOLDER = Path(__file__).parent / "fingerprints"
TARGETS: dict[str, tuple[tuple[str, int | str, int], Chip]] = {
    "sm_80": (("cuda", 80, 32), AMPERE),
    "sm_90": (("cuda", 90, 32), HOPPER),
    "sm_100": (("cuda", 100, 32), HOPPER),
    "gfx942": (("hip", "gfx942", 64), CDNA3),
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report."""

    target: str
    kernel: str
    what: str
    bad: bool


def compile_target(target: str, only: Iterable[str] = (), plan: bool = False) -> dict[str, Fingerprint]:
    """Fingerprints of every kernel variant for `target`, by name; of the ops in `only` if any are given.

    Variants are those of the specimens, or with `plan` of all profiled shapes.
    Sets this process's Triton target for good.
    """
    import torch
    from triton.backends.compiler import GPUTarget
    from triton.runtime.driver import driver

    from kernels.registry import OPS

    arch, chip = TARGETS[target]
    driver.set_active(CompileOnly(GPUTarget(*arch)))
    found: dict[str, Fingerprint] = {}
    for op in OPS.values():
        if only and op.name not in only:
            continue

        def compiled(kernel: Any, args: tuple[Any, ...], meta: dict[str, Any], op: Any = op) -> None:
            name = variant(op.name, kernel, meta, args)
            if name not in found:
                found[name] = of_kernel(kernel.warmup(*args, grid=(1,), **meta), target)

        for shape in profiled(op) if plan else op.specimens():
            with recording(compiled), on_chip(chip):
                op.run(**op.inputs(shape, "meta", torch.bfloat16, 0))
    return dict(sorted(found.items()))


def profiled(op: Any) -> list[Any]:
    """The op's shapes over all profiled models; none for what is composed of other ops."""
    from kernels.models import PROFILED

    return [] if op.composed else list(dict.fromkeys(s for model in PROFILED for s in op.shapes(model)))


def variant(op: str, kernel: Any, meta: dict[str, Any], args: tuple[Any, ...]) -> str:
    """`op/kernel[BM=16,...,warps=4,stages=3]`: the constants that make it a kernel of its own."""
    options = {"num_warps": "warps", "num_stages": "stages"}
    parts = [f"{options.get(k, k)}={int(v) if isinstance(v, bool) else v}" for k, v in meta.items()]
    return f"{op}/{kernel.__name__}[{','.join(parts)}]"


def is_product(name: str) -> bool:
    """Whether a variant is the product of an op that must use the widest matrix unit: it has a K block."""
    from kernels.registry import OPS

    return OPS[name.partition("/")[0]].matrix and "BK=" in name


class CompileOnly:
    """The least a Triton driver must be for `kernel.warmup`."""

    def __init__(self, target: Any) -> None:
        self.target = target

    def get_current_target(self) -> Any:
        return self.target

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0


def check(
    target: str, found: dict[str, Fingerprint], known: dict[str, Any], partial: bool = False
) -> list[Finding]:
    """Gates, then the comparison with the committed fingerprints `known` (as in the file)."""
    import triton

    lines = gate(target, found)
    if not known:
        return [*lines, Finding(target, "-", "no committed fingerprints; run with --update", True)]
    if known["triton"] != triton.__version__:
        note = f"made with Triton {known['triton']}, this is {triton.__version__}: gates only"
        return [*lines, Finding(target, "-", note, False)]
    old = {name: Fingerprint(**values) for name, values in known["kernels"].items()}
    for name in sorted(found.keys() | old.keys()):
        if name not in old:
            lines.append(Finding(target, name, "new variant, not in the committed file", True))
        elif name in found:
            lines += [Finding(target, name, text, bad) for text, bad in worse(old[name], found[name])]
        elif not partial:
            lines.append(Finding(target, name, "committed variant is no longer compiled", True))
    return lines


def gate(target: str, found: dict[str, Fingerprint]) -> list[Finding]:
    """What may not ship, whatever it was before."""
    return [
        Finding(target, name, reason, True)
        for name, print_ in found.items()
        for reason in failed_gates(print_, target, is_product(name))
    ]


def read(target: str) -> dict[str, Any]:
    """The committed file, or {}."""
    path = FOLDER / f"{target}.json"
    return json.loads(path.read_text()) if path.exists() else {}


def write(target: str, found: dict[str, Fingerprint]) -> Path:
    import triton

    FOLDER.mkdir(exist_ok=True)
    path = FOLDER / f"{target}.json"
    kernels = {name: asdict(print_) for name, print_ in found.items()}
    lines = ",\n".join(f"  {json.dumps(name)}: {json.dumps(values)}" for name, values in kernels.items())
    head = f'"target": "{target}",\n "triton": "{triton.__version__}"'
    path.write_text(f'{{{head},\n "kernels": {{\n{lines}\n }}\n}}\n')
    return path


def one(target: str, update: bool, only: list[str], plan: bool) -> list[Finding]:
    """Compile and compare one target in this process."""
    found = compile_target(target, only, plan)
    if update:
        write(target, found)
    lines = gate(target, found) if plan else check(target, found, read(target), partial=bool(only))
    products = sum(map(is_product, found))
    summary = f"{len(found)} variants compiled, {products} of them products with {WIDEST_MATRIX[target]}"
    return [*lines, Finding(target, "-", summary, False)]


def _child(target: str, args: argparse.Namespace) -> list[Finding]:
    command = [sys.executable, "-m", "kernels.aot", "--target", target, "--json"]
    command += ["--update"] if args.update else []
    command += ["--plan"] if args.plan else []
    command += [part for name in args.op for part in ("--op", name)]
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode not in (0, 1):
        return [Finding(target, "-", f"compiler process failed: {done.stderr.strip()[-600:]}", True)]
    return [Finding(**line) for line in json.loads(done.stdout)]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m kernels.aot", description="Compile and compare all kernels."
    )
    parser.add_argument("--target", action="append", choices=list(TARGETS), help="one chip; all by default")
    parser.add_argument("--op", action="append", default=[], help="one operation; all by default")
    parser.add_argument("--update", action="store_true", help="write kernels/fingerprints/<target>.json")
    parser.add_argument("--plan", action="store_true", help="every variant of the profile's plan, gates only")
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")
    args = parser.parse_args(argv)
    if args.update and (args.op or args.plan):
        parser.error("--update writes the specimens of all operations; leave --op and --plan out")
    targets = args.target or list(TARGETS)
    if len(targets) == 1 and os.environ.get("TRITON_INTERPRET", "0") in ("", "0"):
        lines = one(targets[0], args.update, args.op, args.plan)
    else:
        lines = [line for target in targets for line in _child(target, args)]
    if args.json:
        print(json.dumps([asdict(line) for line in lines]))
    else:
        for line in sorted(lines, key=lambda entry: entry.bad):
            print(f"{'WORSE' if line.bad else 'ok':5}  {line.target:7}  {line.kernel}  {line.what}")
    return int(any(line.bad for line in lines))


if __name__ == "__main__":
    sys.exit(main())
