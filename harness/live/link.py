"""The link between a running vLLM server and us: one folder of shared files, and who writes what.

control        we write: K by batch size, share of requests to trace. The worker writes: versions in service.
steps.ring     the scheduler writes: engine steps, verify outcomes, begin and end of requests. The controller reads.
traces.ring    the worker's tap writes; the trainer reads.
worker.sock    the worker listens: swap these weights in. Further workers of the same model listen to the first one,
               at worker-1.sock and so on.

The folder is private to its owner (0700); the server finds it by `--additional-config`. Nothing in it outlives the
run, and no text is ever written to disk: the rings lie in shared memory where the system has it.
"""

from __future__ import annotations

import mmap
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from harness.contract import KSchedule
from harness.errors import MissingPart
from harness.live.ring import Ring

CONFIG_KEY = "specdrift_link"
RESTS_KEY = "specdrift_rests"
"""Keys of vLLM's `--additional-config`: the folder; false where the drafter shall not rest (`resting.py`)."""

FLIP = "specdrift_flip"
"""What the scheduler adds to a step: the swap that all workers make before it (`Control`'s `flip`)."""

MAX_BATCH = 4096
STEPS_BYTES = 16 << 20
TRACES_BYTES = 64 << 20

STEP, VERIFIED, BEGIN, END = range(1, 5)
"""Kinds of records in steps.ring."""

STEP_ROW = np.dtype(
    [
        ("start", "f8"),
        ("seconds", "f8"),
        ("batch", "i4"),
        ("k", "i4"),
        ("prefill_tokens", "i4"),
        ("output_tokens", "i4"),
        ("offered", "i4"),
        ("accepted", "i4"),
        ("running", "i4"),
        ("waiting", "i4"),
        ("kv_blocks", "i4"),
        ("drafter_version", "i4"),
        ("verifier_version", "i4"),
        ("context_tokens", "i8"),
        ("kv_total", "i4"),
        ("drafted", "i4"),
    ]
)
"""The fields of `contract.StepRecord` in their order (times: seconds of the monotonic clock), then context tokens of
the running sequences, KV blocks in all and draft tokens per sequence proposed for the next step."""

VERIFY_ROW = np.dtype([("number", "i8"), ("at", "i4"), ("k", "i4"), ("accepted", "i4"), ("version", "i4")])
"""One request in one verify step: `number` of the request on this server, output tokens before the step, drafts."""

_CONTROL = np.dtype(
    [
        ("sequence", "u8"),  # odd while the table below is being written
        ("sample", "f8"),
        ("drafter_version", "i8"),
        ("verifier_version", "i8"),
        ("kv_invalid", "i8"),
        ("flip", "i8"),  # the swap that workers shall make at the next step, where there are several; 0: none
        ("k_by_batch", "i4", (MAX_BATCH + 1,)),
    ]
)


class Control:
    """The shared block of small numbers. One writer a field; a reader never waits for one."""

    def __init__(self, path: Path) -> None:
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), 0)
        self._row = np.frombuffer(self._map, _CONTROL, 1)[0]

    @property
    def sequence(self) -> int:
        """Changes whenever the schedule does; odd while it is changing."""
        return int(self._row["sequence"])

    def write_schedule(self, schedule: KSchedule) -> None:
        """Draft so much by batch size from the next schedule on."""
        table = np.zeros(MAX_BATCH + 1, np.int32)
        for lo, hi, k in schedule:
            table[lo : hi + 1] = k
        table[min(schedule[-1][1] + 1, MAX_BATCH + 1) :] = schedule[-1][2]
        self._row["sequence"] += np.uint64(1)
        self._row["k_by_batch"][:] = table
        self._row["sequence"] += np.uint64(1)

    def read_schedule(self) -> tuple[int, np.ndarray] | None:
        """(sequence, int32[MAX_BATCH + 1]); None while it is being written: read again at the next step."""
        before = self.sequence
        table = self._row["k_by_batch"].copy()
        return (before, table) if before % 2 == 0 and self.sequence == before else None

    def get(self, name: str) -> float:
        """`sample`, `drafter_version`, `verifier_version`, `kv_invalid` or `flip`."""
        return float(self._row[name])

    def set(self, name: str, value: float) -> None:
        self._row[name] = value


@dataclass(frozen=True)
class Link:
    """The open folder."""

    folder: Path
    control: Control
    steps: Ring
    traces: Ring

    @classmethod
    def create(cls, traces_bytes: int = TRACES_BYTES) -> Link:
        """A new folder, in shared memory where there is some. The caller removes it in the end."""
        shm = Path("/dev/shm")
        base = shm if shm.is_dir() and os.access(shm, os.W_OK) else None
        folder = Path(tempfile.mkdtemp(prefix="specdrift-", dir=base))
        (folder / "control").write_bytes(bytes(_CONTROL.itemsize))
        Ring.create(folder / "steps.ring", STEPS_BYTES)
        Ring.create(folder / "traces.ring", traces_bytes)
        return cls.open(folder)

    @classmethod
    def open(cls, folder: Path) -> Link:
        """The link that lies there. MissingPart when there is none."""
        if not (folder / "control").is_file():
            raise MissingPart(
                f"{folder} is no specdrift link (it has no file 'control'); specdrift serve --print-flags makes one"
            )
        return cls(
            folder, Control(folder / "control"), Ring(folder / "steps.ring"), Ring(folder / "traces.ring")
        )

    @classmethod
    def of_config(cls, additional: Mapping[str, Any] | None) -> Link | None:
        """The link named in vLLM's additional configuration; None where it names none."""
        named = (additional or {}).get(CONFIG_KEY)
        return cls.open(Path(named)) if named else None

    @property
    def socket(self) -> Path:
        return self.socket_of(0)

    def socket_of(self, rank: int) -> Path:
        """Where worker `rank` of a model that is spread over several listens."""
        return self.folder / (f"worker-{rank}.sock" if rank else "worker.sock")

    def remove(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
