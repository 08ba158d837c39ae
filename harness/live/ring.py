"""A bounded ring of records in a shared file: one writer, one reader, and the writer never waits.

When the reader is slow a record is dropped and counted. Head and tail are single aligned 8-byte stores, written
after the bytes they cover; x86-64 keeps that order.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

_HEADER = 256
_ALIGN = 8
_RECORD = 8
_WRAP = 0xFFFF_FFFF
_HEAD, _TAIL, _WRITTEN, _DROPPED = 0, 8, 16, 24  # places in the header, in 8-byte words: apart by cache line


class Ring:
    """Open an existing ring file, or `create` one. Positions count bytes ever written, never wrapped."""

    def __init__(self, path: Path) -> None:
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), 0)
        self.path = path
        self.capacity = len(self._map) - _HEADER
        self._words = np.frombuffer(self._map, np.uint64, _HEADER // 8)
        self._data = memoryview(self._map)[_HEADER:]

    @classmethod
    def create(cls, path: Path, capacity: int) -> Ring:
        """A new, empty ring of `capacity` bytes, rounded up to whole words."""
        size = _HEADER + -(-capacity // _ALIGN) * _ALIGN
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
        try:
            os.ftruncate(descriptor, size)
        finally:
            os.close(descriptor)
        return cls(path)

    @property
    def written(self) -> int:
        """Records put so far."""
        return int(self._words[_WRITTEN])

    @property
    def dropped(self) -> int:
        """Records that found no room."""
        return int(self._words[_DROPPED])

    def has_room(self, length: int) -> bool:
        """Whether a record of `length` bytes fits now, wherever it would lie."""
        need = _RECORD + -(-length // _ALIGN) * _ALIGN
        return self.capacity - int(self._words[_HEAD] - self._words[_TAIL]) >= 2 * need

    def put(self, kind: int, *parts: bytes | np.ndarray) -> bool:
        """Append one record of the joined parts; False when there was no room (counted)."""
        views = [p if isinstance(p, bytes) else p.tobytes() for p in parts]
        length = sum(len(v) for v in views)
        need = _RECORD + -(-length // _ALIGN) * _ALIGN
        head, tail = int(self._words[_HEAD]), int(self._words[_TAIL])
        at = head % self.capacity
        skip = self.capacity - at if at + need > self.capacity else 0
        if head + skip + need - tail > self.capacity:
            self._words[_DROPPED] += np.uint64(1)
            # else a record of over half the ring might never fit
            if skip and head == tail and need <= self.capacity:
                self._mark(at, _WRAP, 0)
                self._words[_HEAD] = head + skip
            return False
        if skip:
            self._mark(at, _WRAP, 0)
            at = 0
        place = at + _RECORD
        for view in views:
            self._data[place : place + len(view)] = view
            place += len(view)
        self._mark(at, length, kind)
        self._words[_WRITTEN] += np.uint64(1)
        self._words[_HEAD] = head + skip + need
        return True

    def take(self, most: int | None = None) -> Iterator[tuple[int, bytes]]:
        """(kind, content) of the records that are there, in order; each is freed as it is handed over."""
        end, taken = int(self._words[_HEAD]), 0
        tail = int(self._words[_TAIL])
        while tail < end and (most is None or taken < most):
            at = tail % self.capacity
            length, kind = self._read_mark(at)
            if length == _WRAP:
                tail += self.capacity - at
                continue
            content = bytes(self._data[at + _RECORD : at + _RECORD + length])
            tail += _RECORD + -(-length // _ALIGN) * _ALIGN
            self._words[_TAIL] = tail
            taken += 1
            yield kind, content
        self._words[_TAIL] = tail

    def _mark(self, at: int, length: int, kind: int) -> None:
        if at + _RECORD <= self.capacity:
            self._data[at : at + _RECORD] = length.to_bytes(4, "little") + kind.to_bytes(4, "little")

    def _read_mark(self, at: int) -> tuple[int, int]:
        mark = bytes(self._data[at : at + _RECORD])
        return int.from_bytes(mark[:4], "little"), int.from_bytes(mark[4:], "little")
