"""The trainer: a process beside the server that learns the drafter from the server's own traces.

The learner is the one that the simulator runs under `--acceptance model`; here it is fed by the ring of traces. The
process answers to the controller over a pipe and shares nothing else with it. It may die: serving does not notice.
"""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import replace
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any

from harness.contract import TrainerState
from harness.live.report import Report, TrainerConfig

REPORT_SECONDS = 0.25
NICENESS = 10
"""The trainer gives way to the server, where both share cores and niceness counts between sessions (the server has one
of its own): with Linux's `sched_autogroup_enabled` it does not."""


class TrainerProcess:
    """The controller's handle. Every call returns at once; a dead process is a state, not an error."""

    def __init__(self, config: TrainerConfig) -> None:
        context = get_context("spawn")
        ours, theirs = context.Pipe()
        self._pipe: Connection = ours
        self._process = context.Process(
            target=_main, args=(config, theirs), name="specdrift-trainer", daemon=True
        )
        self._process.start()
        theirs.close()
        self.config = config
        self._runs = 0
        self._worked: list[tuple[float, float]] = []
        self.report = Report(TrainerState(alive=True), None, "", 0.0, 0, 0, 0, 0)

    def poll(self) -> Report:
        """The latest report; `state.alive` is False once the process is gone."""
        try:
            while self._pipe.poll():
                self.report = self._pipe.recv()
                self._worked += self.report.worked
        except (EOFError, OSError):
            gone = replace(self.report.state, alive=False, candidate=None)
            self.report = replace(self.report, state=gone, candidate=None)
        return self.report

    def take_worked(self) -> list[tuple[float, float]]:
        """Of the reports polled since the last call: from when to when the trainer worked, by `time.monotonic`."""
        worked, self._worked = self._worked, []
        return worked

    def wait_ready(self, seconds: float = 120.0) -> bool:
        """Until the first report is there; False when it died or took too long."""
        with contextlib.suppress(EOFError, OSError):
            if self._pipe.poll(seconds):
                self.report = self._pipe.recv()
                return True
        return False

    def tell(self, *command: Any) -> None:
        """One of: ('plan', TrainPlan), ('serving', path or None), ('published', path), ('verifier', version, folder),
        ('begin', run, learner, seed, untrained), ('corrupt',), ('stop',)."""
        with contextlib.suppress(OSError):
            self._pipe.send(command)

    def begin(self, learner: str, seed: int, untrained: bool, seconds: float = 60.0) -> None:
        """Start over for another run, and wait until it has: its files are there then."""
        self.poll()
        self._runs += 1
        self.tell("begin", self._runs, learner, seed, untrained)
        end = time.monotonic() + seconds
        while time.monotonic() < end and self.poll().run != self._runs:
            if not self.report.state.alive:
                return
            time.sleep(0.01)
        self._worked = []  # of the run before

    def kill(self) -> None:
        """End it without a word (fault injection)."""
        self._process.kill()

    @property
    def pid(self) -> int | None:
        return self._process.pid

    def stop(self) -> None:
        self.tell("stop")
        self._process.join(5.0)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()


def _main(config: TrainerConfig, pipe: Connection) -> None:
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the controller stops us, also after its own interrupt
    os.nice(NICENESS)
    import torch

    torch.set_num_threads(1)
    from harness.live.training import Training

    training = Training(config)
    pipe.send(training.report())
    said = time.monotonic()
    while True:
        while pipe.poll():
            try:
                command = pipe.recv()
            except (EOFError, OSError):  # the controller is gone
                return
            if command[0] == "stop":
                return
            training.obey(*command)
        changed = training.work()
        if changed or time.monotonic() - said > REPORT_SECONDS:
            try:
                pipe.send(training.report())
            except OSError:
                return
            said = time.monotonic()
