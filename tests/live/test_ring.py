"""The ring: what was put and not dropped comes out in order, byte for byte; a full one drops and never overwrites."""

from __future__ import annotations

import multiprocessing
import time
from collections import deque
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.live.ring import Ring

RECORDS = 20_000


@pytest.fixture
def ring(tmp_path) -> Ring:
    return Ring.create(tmp_path / "r.ring", 256)


def content(n: int, length: int) -> bytes:
    """Bytes that tell records and places in them apart."""
    return bytes((7 * n + i) % 256 for i in range(length))


puts = st.tuples(st.just("put"), st.integers(0, 120))
takes = st.tuples(st.just("take"), st.one_of(st.none(), st.integers(0, 5)))


@settings(max_examples=150, deadline=None)
@given(capacity=st.integers(8, 200), actions=st.lists(st.one_of(puts, takes), max_size=80))
def test_what_is_put_comes_out_in_order_byte_for_byte(tmp_path_factory, capacity, actions):
    writer = Ring.create(tmp_path_factory.mktemp("ring") / "r", capacity)
    reader = Ring(writer.path)
    held: deque[tuple[int, bytes]] = deque()
    dropped = kind = 0
    for what, n in [*actions, ("take", None)]:
        if what == "put":
            kind += 1
            record = kind, content(kind, n)
            if writer.put(*record):
                held.append(record)
            else:
                dropped += 1
        else:
            taken = list(reader.take(n))
            assert len(taken) == (len(held) if n is None else min(n, len(held)))
            assert taken == [held.popleft() for _ in taken]
        assert sum(8 + -(-len(c) // 8) * 8 for _, c in held) <= writer.capacity
        assert (writer.written, writer.dropped) == (kind - dropped, dropped)


@settings(max_examples=80, deadline=None)
@given(capacity=st.integers(16, 200), first=st.integers(0, 60), length=st.integers(0, 192))
def test_an_empty_ring_takes_what_it_can_hold_at_the_second_attempt(
    tmp_path_factory, capacity, first, length
):
    """Wherever its head stands: no record is shut out for good."""
    ring = Ring.create(tmp_path_factory.mktemp("ring") / "r", capacity)
    ring.put(1, bytes(first))
    list(ring.take())
    fits = 8 + -(-length // 8) * 8 <= ring.capacity
    taken = []
    for _ in range(2):
        ring.put(2, content(2, length))
        taken += list(ring.take())
    assert bool(taken) == fits
    assert set(taken) <= {(2, content(2, length))}


@settings(max_examples=80, deadline=None)
@given(first=st.integers(0, 60), more=st.lists(st.integers(0, 60), max_size=6), length=st.integers(0, 90))
def test_room_that_is_promised_is_there(tmp_path_factory, first, more, length):
    ring = Ring.create(tmp_path_factory.mktemp("ring") / "r", 200)
    ring.put(1, bytes(first))
    list(ring.take())
    for size in more:
        ring.put(1, bytes(size))
    if ring.has_room(length):
        assert ring.put(2, bytes(length))


def test_parts_are_joined_and_arrays_written_as_their_bytes(ring):
    numbers = np.arange(3, dtype=np.int32)
    assert ring.put(9, b"ab", numbers, b"", numbers[::2])
    assert list(ring.take()) == [(9, b"ab" + numbers.tobytes() + numbers[::2].tobytes())]


def test_exactly_full_is_not_too_full(ring):
    for n in range(8):
        assert ring.put(n, content(n, 24))
    assert not ring.put(8, b"")
    assert not ring.has_room(0)
    assert list(ring.take(1)) == [(0, content(0, 24))]
    assert ring.put(8, content(8, 17)), "what was read made room for as much again"
    assert not ring.put(9, b"")
    assert list(ring.take()) == [*((n, content(n, 24)) for n in range(1, 8)), (8, content(8, 17))]
    assert (ring.written, ring.dropped) == (9, 2)


def test_a_record_is_freed_as_it_is_handed_over(ring):
    for n in range(8):
        ring.put(n, content(n, 24))
    records = ring.take()
    next(records)
    assert ring.put(8, content(8, 24))
    assert not ring.put(9, b"")
    assert [kind for kind, _ in records] == [*range(1, 8)], "a reading sees what was there when it began"
    assert [kind for kind, _ in ring.take()] == [8]


def test_a_record_larger_than_the_ring_is_in_nobodys_way(ring):
    ring.put(0, bytes(80))
    list(ring.take())
    assert not ring.put(1, bytes(300))
    assert ring.put(2, bytes(150))
    assert list(ring.take()) == [(2, bytes(150))]


def test_the_file_is_private_and_made_once(ring, tmp_path):
    assert ring.path.stat().st_mode & 0o777 == 0o600
    with pytest.raises(FileExistsError):
        Ring.create(tmp_path / "r.ring", 256)


def write_all(path: Path) -> None:
    ring, rng = Ring(path), np.random.default_rng(5)
    for n, length in enumerate(rng.integers(0, 200, RECORDS).tolist()):
        while not ring.put(n, content(n, length)):
            time.sleep(0.0005)


def test_two_processes(tmp_path):
    """The writer tries again when the ring is full, so that all records must come, through many wraps."""
    ring = Ring.create(tmp_path / "r.ring", 20_000)
    process = multiprocessing.get_context("spawn").Process(target=write_all, args=(ring.path,))
    process.start()
    lengths = np.random.default_rng(5).integers(0, 200, RECORDS).tolist()
    came, end = 0, time.monotonic() + 40.0
    while came < RECORDS and time.monotonic() < end:
        for kind, found in ring.take():
            assert (kind, found) == (came, content(came, lengths[came]))
            came += 1
        time.sleep(0.001)
    process.join(5.0)
    assert (came, ring.written, process.exitcode) == (RECORDS, RECORDS, 0)
