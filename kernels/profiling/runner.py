"""The profiling loop: check, measure, judge, store; stops at the budget. Device and clock are handed in."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Protocol

from kernels.profiling.plan import FULL_CHECK, Item
from kernels.profiling.rows import ERROR, OK, TOO_FAST, WRONG, Row, Store
from kernels.registry import OPS

FLOOR_SHARE = 0.95
"""A median under this share of the floor is not believed."""


class DeviceLost(RuntimeError):
    """The device answers no more: a kernel faulted. The process must end; a new one may resume."""


@dataclass(frozen=True, slots=True)
class Ceilings:
    """Measured on this device, in this session: what floors are made of."""

    device: str
    copy_gb_per_s: float
    """Device-to-device copy, bytes read plus bytes written."""
    read_gb_per_s: float
    """Streaming read. The floor takes the larger of the two: reads may outrun copies."""
    tflops: float
    """bf16 matrix product of 8192 cubed, random data."""
    multiprocessors: int
    l2_bytes: int
    versions: str
    commit: str

    @property
    def gb_per_s(self) -> float:
        return max(self.copy_gb_per_s, self.read_gb_per_s)


@dataclass(frozen=True, slots=True)
class Timing:
    median_us: float
    q10_us: float
    q90_us: float
    samples: int
    clock_mhz: int | None


class Job(Protocol):
    """One item with its inputs in place."""

    def error(self) -> float:
        """Relative error against the reference; infinite where not finite."""

    def time(self) -> Timing:
        """Timing under CUDA graphs, weights and KV cold."""


class Backend(Protocol):
    def now(self) -> float:
        """Seconds on a clock that never runs back."""

    def ceilings(self) -> Ceilings: ...

    def job(self, item: Item) -> Job: ...

    def alive(self) -> bool:
        """Whether the device still answers after a failure."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a session went: rows added by status, items left for want of time."""

    counts: dict[str, int]
    left: int


def run(
    items: Iterable[Item],
    backend: Backend,
    store: Store,
    budget: float,
    progress: Callable[[Row, float], None] = lambda row, elapsed: None,
    before: Callable[[Item], None] = lambda item: None,
) -> Outcome:
    """Measure the items in order, for `budget` seconds; each row goes to `store` as it comes.

    Items whose estimate no longer fits are left out, smaller ones after them still run. Items
    already in the store are not repeated. Raises DeviceLost after storing the row that did it.
    """
    begin = backend.now()
    ceilings = backend.ceilings()
    store.add(device_row(ceilings))
    counts = dict.fromkeys((OK, WRONG, TOO_FAST, ERROR), 0)
    left = 0
    try:
        for item in items:
            if item.key in store.done:
                continue
            elapsed = backend.now() - begin
            if elapsed + item.seconds(ceilings.gb_per_s, ceilings.tflops) > budget:
                left += 1
                continue
            before(item)
            row = measure(item, backend, ceilings)
            store.add(row)
            counts[row.status] += 1
            progress(row, backend.now() - begin)
            if row.status == ERROR and not backend.alive():
                raise DeviceLost(row.reason)
    finally:
        store.flush()
    return Outcome(counts, left)


def device_row(c: Ceilings) -> Row:
    """The ceilings as a row; its shape tells sessions of one device apart by version and commit."""
    shape = {"device": c.device, "versions": c.versions, "commit": c.commit}
    return Row(
        "device",
        "-",
        "-",
        shape,
        "-",
        OK,
        device=c.device,
        versions=c.versions,
        commit=c.commit,
        extra=asdict(c),
    )


def measure(item: Item, backend: Backend, ceilings: Ceilings) -> Row:
    """One row, whatever happens."""

    def row(status: str, **values: object) -> Row:
        return Row(
            **item.described, dtype="bf16", status=status,
            device=ceilings.device, versions=ceilings.versions, commit=ceilings.commit, **values,  # type: ignore[arg-type]
        )  # fmt: skip

    try:
        job = backend.job(item)
        error = job.error()
        if not error <= OPS[item.op].tolerance:
            reason = f"relative error {error:.3g} exceeds {OPS[item.op].tolerance:g}"
            return row(WRONG, rel_err=error if error < float("inf") else None, reason=reason)
        if item.impl == FULL_CHECK:
            return row(OK, rel_err=error)
        timing = job.time()
    except Exception as failure:
        return row(ERROR, reason=f"{type(failure).__name__}: {failure}"[:300])
    floor = item.cost.floor_us(ceilings.gb_per_s, ceilings.tflops)
    if timing.median_us < FLOOR_SHARE * floor:
        reason = f"{timing.median_us:.2f} us is under {FLOOR_SHARE} of the floor {floor:.2f} us"
        return row(TOO_FAST, rel_err=error, floor_us=floor, reason=reason)
    ratio = timing.median_us / floor if floor > 0 else None
    return row(OK, rel_err=error, floor_us=floor, floor_ratio=ratio, **asdict(timing))
