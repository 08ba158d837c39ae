"""The profiling loop on a fake device and clock."""

from __future__ import annotations

from pathlib import Path

import pytest
from profiling_fakes import CEILINGS, FakeBackend

from kernels.profiling.plan import FULL_CHECK, Item, plan
from kernels.profiling.rows import ERROR, OK, TOO_FAST, WRONG, Store, read
from kernels.profiling.runner import DeviceLost, measure, run

ITEMS = [item for item in plan() if item.op == "gemm"][:12]


def test_rows_come_in_order_and_carry_their_provenance(tmp_path: Path) -> None:
    store = Store(tmp_path / "rows.jsonl.gz")
    outcome = run(ITEMS, FakeBackend(), store, budget=1e6)
    rows = read(store.path)
    assert [row.key for row in rows[1:]] == [item.key for item in ITEMS]
    assert outcome.counts[OK] == len(ITEMS)
    assert outcome.left == 0
    assert rows[0].op == "device"
    assert rows[0].extra["copy_gb_per_s"] == 4000.0
    last = rows[-1]
    assert (last.device, last.versions, last.commit) == ("Fake", "torch 0, triton 0", "c0ffee")
    assert last.floor_ratio == pytest.approx(last.median_us / last.floor_us)
    assert last.q10_us < last.median_us < last.q90_us
    assert last.clock_mhz == 1980


def test_the_floor_takes_the_faster_of_copy_and_read() -> None:
    item = max(ITEMS, key=lambda i: i.cost.cold_bytes / max(i.cost.flops, 1))
    row = measure(item, FakeBackend(), CEILINGS)
    assert row.floor_us == pytest.approx(item.cost.cold_bytes / 4200e3)


def test_budget_stops_and_resume_finishes_without_repeating(tmp_path: Path) -> None:
    path, sweep = tmp_path / "rows.jsonl.gz", [i for i in ITEMS if i.impl != FULL_CHECK]
    first = FakeBackend(seconds=10.0)
    outcome = run(sweep, first, Store(path), budget=35.0)
    assert len(first.measured) == 4, "three take 30 s, a fourth still fits its estimate, a fifth does not"
    assert outcome.left == len(sweep) - 4
    second = FakeBackend()
    assert run(sweep, second, Store(path, resume=True), budget=1e6).left == 0
    assert first.measured + second.measured == [item.key for item in sweep]
    keys = [row.key for row in read(path)]
    assert len(set(keys) - {keys[0]}) == len(sweep)


def test_without_resume_a_file_is_begun_anew(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl.gz"
    run(ITEMS[:3], FakeBackend(), Store(path), 1e6)
    run(ITEMS[:2], FakeBackend(), Store(path), 1e6)
    assert len(read(path)) == 3


def test_an_item_too_long_for_the_rest_is_left_and_shorter_ones_run(tmp_path: Path) -> None:
    items = plan()
    long = max(items, key=lambda i: i.seconds())
    short = min(items, key=lambda i: i.seconds())
    backend = FakeBackend()
    outcome = run(
        [long, short], backend, Store(tmp_path / "r.gz"), budget=(long.seconds() + short.seconds()) / 2
    )
    assert backend.measured == [short.key]
    assert outcome.left == 1


@pytest.mark.parametrize(
    ("backend", "status", "given"),
    [
        (FakeBackend(), OK, {"rel_err", "median_us", "floor_us"}),
        (FakeBackend(ratio=lambda i: 0.96), OK, {"rel_err", "median_us", "floor_us"}),
        (FakeBackend(ratio=lambda i: 0.94), TOO_FAST, {"rel_err", "floor_us"}),
        (FakeBackend(errors=lambda i: 0.02), WRONG, {"rel_err"}),
        (FakeBackend(errors=lambda i: float("inf")), WRONG, set()),
        (FakeBackend(errors=lambda i: float("nan")), WRONG, set()),
        (FakeBackend(fails=lambda i: RuntimeError("no kernel image")), ERROR, set()),
    ],
)
def test_numbers_stand_exactly_where_they_were_measured(
    backend: FakeBackend, status: str, given: set[str]
) -> None:
    item = max((i for i in ITEMS if i.impl != FULL_CHECK), key=lambda i: i.cost.cold_bytes)
    row = measure(item, backend, CEILINGS)
    assert row.status == status
    assert {name for name in ("rel_err", "median_us", "floor_us") if getattr(row, name) is not None} == given
    assert bool(row.reason) is (status != OK)


def test_a_wrong_kernel_is_not_timed() -> None:
    backend = FakeBackend(errors=lambda item: 1.0)
    measure(ITEMS[0], backend, CEILINGS)
    assert backend.clock == 100.0


def test_full_checks_give_an_error_and_no_time() -> None:
    item = next(i for i in plan() if i.impl == FULL_CHECK)
    row = measure(item, FakeBackend(), CEILINGS)
    assert (row.status, row.rel_err, row.median_us) == (OK, 1e-3, None)


def test_a_lost_device_ends_the_session_with_its_row_kept(tmp_path: Path) -> None:
    def fails(item: Item) -> Exception | None:
        return RuntimeError("illegal memory access") if item.key == ITEMS[2].key else None

    store = Store(tmp_path / "rows.jsonl.gz")
    with pytest.raises(DeviceLost, match="illegal memory access"):
        run(ITEMS, FakeBackend(fails=fails, lives=False), store, 1e6)
    rows = read(store.path)
    assert [row.status for row in rows[1:]] == [OK, OK, ERROR]
    after = FakeBackend()
    run(ITEMS, after, Store(store.path, resume=True), 1e6)
    assert ITEMS[2].key not in after.measured


def test_a_failure_that_leaves_the_device_alive_goes_on(tmp_path: Path) -> None:
    def fails(item: Item) -> Exception | None:
        return MemoryError("out of memory") if item.key == ITEMS[0].key else None

    outcome = run(ITEMS, FakeBackend(fails=fails), Store(tmp_path / "r.gz"), 1e6)
    assert outcome.counts == {OK: len(ITEMS) - 1, WRONG: 0, TOO_FAST: 0, ERROR: 1}
