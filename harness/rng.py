"""Named random streams from one seed: a new consumer never shifts another's draws."""

from __future__ import annotations

import zlib

import numpy as np


def stream(seed: int, *names: str | int) -> np.random.Generator:
    """The generator for `names` under `seed`; the same arguments always give the same draws."""
    return np.random.default_rng(np.random.SeedSequence(entropy=seed, spawn_key=_keys(names)))


def stream_key(seed: int, *names: str | int) -> int:
    """A 64-bit key for counter-based generators, under the same naming as `stream`."""
    return int(np.random.SeedSequence(entropy=seed, spawn_key=_keys(names)).generate_state(1, np.uint64)[0])


def _keys(names: tuple[str | int, ...]) -> tuple[int, ...]:
    return tuple(n if isinstance(n, int) else zlib.crc32(n.encode()) for n in names)
