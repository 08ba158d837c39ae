"""Measure all kernels, layers and steps of the profiled models on the GPU at hand.

    python -m kernels.profile --out FILE.jsonl.gz [--budget 480] [--resume]
    python -m kernels.profile --list

Needs a CUDA device, torch and triton; nothing else. Correctness comes first, then the sweeps in
order of worth (profiling/plan.py). The file is valid at any moment; `--resume` goes on with what
it lacks. A kernel that faults or hangs costs its row and a new process, not the session. Exit code
0 when all rows are right, 1 when one is wrong, too fast or failed, 2 when nothing can be measured.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from kernels.models import PROFILED, Model, model
from kernels.profiling.plan import TRITON, Item, plan
from kernels.profiling.rows import ERROR, OK, Row, Store, read
from kernels.profiling.summary import summary

LOST = 3
"""Exit code of a worker whose device answers no more."""
STALL_S = 90.0
"""A worker that says nothing for so long is taken to hang (the first compile takes seconds)."""
MAX_RESTARTS = 8
SHOWN = 40
"""Bad rows printed at the end; the file has them all."""


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(prog="python -m kernels.profile", description=__doc__.split("\n")[0])
    p.add_argument("--out", type=Path, help="rows, gzipped JSON lines")
    p.add_argument("--budget", type=float, default=480.0, help="seconds in all (default 480)")
    p.add_argument("--resume", action="store_true", help="keep the rows of --out and measure what is missing")
    p.add_argument("--model", action="append", help="only this model; repeatable")
    p.add_argument("--op", action="append", help="only this operation; repeatable")
    p.add_argument("--list", action="store_true", help="print the plan with estimates and stop")
    p.add_argument(
        "--jobs", type=int, default=min(12, os.cpu_count() or 1), help="processes that compile first"
    )
    p.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    return p


def items(models: Sequence[str] | None, ops: Sequence[str] | None) -> list[Item]:
    """The plan for these models and operations (all by default); ValueError for unknown names."""
    from kernels.profiling import peers
    from kernels.registry import op

    chosen: list[Model] = [model(name) for name in models] if models else list(PROFILED)
    wanted = {op(name).name for name in ops or ()}
    present = {name: peer.supports for name, peer in peers.present().items()}
    return [item for item in plan(present, chosen) if not wanted or item.op in wanted]


def show(todo: list[Item]) -> None:
    """The plan as a table: estimated cold bytes, floor on a 4 TB/s chip, cumulated seconds."""
    total = 0.0
    print(f"{'#':>5} {'op':12} {'impl':16} {'model':15} {'cold MB':>9} {'floor us':>9} {'at s':>7}  shape")
    for number, item in enumerate(todo, 1):
        cost = item.cost
        total += item.seconds()
        shape = " ".join(f"{k}={v}" for k, v in asdict(item.shape).items())
        print(
            f"{number:5} {item.op:12} {item.impl:16} {item.model:15} {cost.cold_bytes / 1e6:9.1f} "
            f"{cost.floor_us(4000, 700):9.1f} {total:7.1f}  {shape}"
        )
    print(f"{len(todo)} items, about {total:.0f} s without compiling")


def work(args: argparse.Namespace) -> int:
    """The worker: measure until done, out of budget, or the device is lost."""
    from kernels.profiling.gpu import CudaBackend
    from kernels.profiling.precompile import compile_ahead
    from kernels.profiling.runner import DeviceLost, run

    backend = CudaBackend()
    begin = backend.now()
    todo = items(args.model, args.op)
    if args.jobs > 1:
        compile_ahead(args.jobs, backend.target, backend.chip, todo)
    store = Store(args.out, resume=args.resume)
    current = _current(args.out)

    def before(item: Item) -> None:
        current.write_text(json.dumps(item.described))

    def progress(row: Row, elapsed: float) -> None:
        print(f"{elapsed:6.1f} s  {line(row)}", flush=True)

    try:
        left = args.budget - (backend.now() - begin)
        outcome = run(todo, backend, store, left, progress, before)
    except DeviceLost as lost:
        print(f"device lost: {lost}", flush=True)
        return LOST
    finally:
        current.unlink(missing_ok=True)
    counts = ", ".join(f"{n} {status}" for status, n in outcome.counts.items())
    print(f"{counts}; {outcome.left} items left for want of time", flush=True)
    return 0


def line(row: Row) -> str:
    """One row for the terminal."""
    shape = " ".join(str(v) for v in row.shape.values())
    if row.status != OK:
        return f"{row.status.upper():8} {row.op} {row.impl} {shape}: {row.reason}"
    timing = f"{row.median_us:10.2f} us" if row.median_us is not None else " " * 13
    ratio = f"x{row.floor_ratio:5.2f} of floor" if row.floor_ratio else ""
    return f"{timing} {ratio:16} err {row.rel_err or 0:.1e}  {row.op} {row.impl} {shape}"


def supervise(args: argparse.Namespace, command: list[str]) -> int:
    """Run workers until one ends by itself; book the item of one that crashed or hung as an error."""
    end = time.monotonic() + args.budget
    resume, code = args.resume, 0
    for _ in range(MAX_RESTARTS):
        left = end - time.monotonic()
        if left <= 0:
            break
        jobs = 0 if resume and not args.resume else args.jobs  # a restart finds everything compiled
        full = [*command, "--worker", "--jobs", f"{jobs}", "--budget", f"{left:.1f}"]
        full += ["--resume"] if resume else []
        code = _watch(full, left + STALL_S)
        if code in (0, 2):
            break
        if code != LOST:
            _book_failure(args.out, code)
        resume = True
    return 2 if code == 2 else _verdict(args.out)


def _watch(command: list[str], limit: float) -> int:
    """Run a worker, passing on its lines; kill it when it stays silent or outlives `limit` seconds."""
    import selectors

    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert process.stdout is not None
    selector = selectors.DefaultSelector()
    selector.register(process.stdout, selectors.EVENT_READ)
    end = time.monotonic() + limit
    while time.monotonic() < end:
        if not selector.select(min(STALL_S, end - time.monotonic())):
            break
        chunk = process.stdout.read1(65536)  # type: ignore[attr-defined]
        if not chunk:
            return process.wait()
        sys.stdout.write(chunk.decode(errors="replace"))
        sys.stdout.flush()
    process.kill()
    process.wait()
    return -9


def _book_failure(out: Path, code: int) -> None:
    """Write the item a dead worker was at as an error row, so that a resumed run passes over it."""
    current = _current(out)
    if not current.exists():
        return
    item = json.loads(current.read_text())
    store = Store(out, resume=True)
    store.add(Row(**item, dtype="bf16", status=ERROR, reason=f"the process ended with code {code} here"))
    store.flush()
    current.unlink()


def _current(out: Path) -> Path:
    """Where a worker notes what it is at."""
    return out.with_name(out.name + ".at")


def _verdict(out: Path) -> int:
    if not out.exists():
        return 2
    rows = read(out)
    print("\n".join(summary(rows)))
    bad = [row for row in rows if row.status != OK and row.impl.startswith((TRITON, "full"))]
    for row in bad[:SHOWN]:
        print(line(row))
    print(f"{len(rows)} rows in {out}, {len(bad)} of ours not ok")
    return int(bool(bad))


def main(argv: list[str] | None = None) -> int:
    p = parser()
    args = p.parse_args(argv)
    try:
        if args.list:
            show(items(args.model, args.op))
            return 0
        if args.out is None:
            p.error("--out is needed (or --list)")
        if args.budget <= 0:
            p.error(f"--budget is {args.budget}; it must be positive")
        if args.worker:
            return work(args)
        items(args.model, args.op)
        command = [sys.executable, "-m", "kernels.profile", "--out", str(args.out)]
        command += [part for name in args.model or () for part in ("--model", name)]
        command += [part for name in args.op or () for part in ("--op", name)]
        return supervise(args, command)
    except ValueError as reason:
        print(f"error: {reason}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
