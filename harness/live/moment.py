"""The moment between two engine steps, at which weights change hands: found by the engine's thread, or in its rest.

Where several workers hold one model (`peers.py`), it has to be the same moment for all of them.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

from harness.live.link import Control
from harness.live.peers import Peer, hear_all

IDLE_WAIT = 0.02
"""Seconds without a step after which the engine counts as idle, and a prepared swap no longer waits for the next."""

Act = Callable[[], dict[str, Any]]


class Flip:
    """What is to be done at the moment. Call it once."""

    def __init__(self, act: Act) -> None:
        self._act = act
        self._result: dict[str, Any] | Exception = {}
        self.done = threading.Event()

    def __call__(self) -> None:
        try:
            with torch.inference_mode():
                self._result = self._act()
        except Exception as error:
            self._result = error
        self.done.set()

    def result(self) -> dict[str, Any]:
        if isinstance(self._result, Exception):
            raise self._result
        return self._result


class Moments:
    """Knows whether a step runs. `enter_step` and `leave_step` are called by the engine's own thread."""

    def __init__(self) -> None:
        self._step = threading.Lock()
        self._in_step = self._held = False
        self._left = time.monotonic()
        self._waiting: Flip | None = None
        self._ticket = 0
        """Which steps the flip that waits may be made before; 0: any."""

    def enter_step(self, ticket: int = 0) -> None:
        """`ticket`: the number of the swap that this step carries."""
        if not self._in_step:
            self._step.acquire()
            self._in_step = True
        if self._waiting is not None and self._ticket in (0, ticket):
            self._flip()

    def leave_step(self) -> None:
        if self._in_step:
            self._in_step, self._left = False, time.monotonic()
            self._step.release()

    def idle(self) -> bool:
        return not self._in_step and time.monotonic() - self._left >= IDLE_WAIT

    def between_steps(
        self, act: Act, control: Control, ticket: int, peers: Sequence[Peer] = ()
    ) -> dict[str, Any]:
        """Let the engine's thread act at its next step; act here when it is idle, and only then: between two steps
        this thread would have to be woken, and hand the interpreter back, while the engine waits.

        With `peers`, which have prepared the same swap: before the first step that carries `ticket`."""
        flip = self.arm(act, ticket if peers else 0)
        control.set("flip", self._ticket)
        try:
            while not flip.done.wait(IDLE_WAIT):
                if self.hold():
                    try:
                        self._together(peers)
                    finally:
                        self.release()
        finally:
            control.set("flip", 0)
        return flip.result()

    def arm(self, act: Act, ticket: int) -> Flip:
        """Do it at the next step that carries `ticket`, or when told to."""
        self._waiting = None
        self._ticket = ticket
        flip = self._waiting = Flip(act)
        return flip

    def hold(self) -> bool:
        """Keep the next step from beginning, if none runs: True, and `release` is called for."""
        if not self.idle() or not self._step.acquire(blocking=False):
            return False
        self._held = True
        return True

    def release(self) -> None:
        if self._held:
            self._held = False
            self._step.release()

    def flip_held(self) -> dict[str, Any]:
        """Do it now: no step runs, and none can begin."""
        flip = self._waiting
        if not self._held or flip is None:
            raise RuntimeError("nothing is held, or nothing is prepared")
        self._flip()
        return flip.result()

    def _flip(self) -> None:
        flip, self._waiting = self._waiting, None
        if flip is not None:
            flip()

    def _together(self, peers: Sequence[Peer]) -> None:
        """This worker holds. Flip, if all the others hold too."""
        try:
            for peer in peers:
                peer.send({"op": "hold"})
            if all(answer.get("held") for answer in hear_all(peers)):
                for peer in peers:
                    peer.send({"op": "flip"})
                self._flip()
                hear_all(peers)  # how it went, they have told each other
        finally:
            for peer in peers:
                peer.send({"op": "release"})
            hear_all(peers)
