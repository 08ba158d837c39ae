"""The worker's end of a swap: a thread that prepares weights beside the serving ones, and the flip between two steps.

Requests and answers are one line of JSON each over a Unix socket in the link's folder:

{"op": "swap", "what": "drafter" | "verifier", "path": FILE or FOLDER, "version": N, "kv_invalid": BOOL}
-> {"ok": true, "version": N, "stall": seconds, "prepare": seconds, "fingerprint": hex, "error_of_probe": share}
-> {"ok": false, "error": sentence}: what served before goes on serving.
{"op": "state"} -> {"ok": true, "drafter_version": N, "verifier_version": N, "pid": N, "tap_error": "", ...}
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from harness.errors import InputError, SpecdriftError
from harness.live.link import Link
from harness.live.resting import RestingDrafter
from harness.live.swap import Prepared, prepare
from harness.live.tap import Tap
from harness.speculator import checkpoint

IDLE_WAIT = 0.02
"""Seconds without a step after which the engine counts as idle, and a prepared swap no longer waits for the next."""
PAUSE = 0.005
"""Seconds before each module that is prepared while requests run. Both threads share one interpreter: all modules
in a row made the steps beside them half as long again (`benchmarks/live_swaps.py`)."""


class SwapServer:
    """Owns which weights serve. `enter_step` and `leave_step` are called by the engine's own thread."""

    def __init__(
        self,
        link: Link,
        target: nn.Module,
        drafter: nn.Module | None,
        tap: Tap | None,
        resting: RestingDrafter | None = None,
    ) -> None:
        self._link = link
        self._target = target
        self._drafter = drafter
        self._tap = tap
        self._resting = resting
        self._step = threading.Lock()
        self._in_step = False
        self._left = time.monotonic()
        self._waiting: Callable[[], None] | None = None
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.bind(str(link.socket))
        self._socket.listen()
        threading.Thread(target=self._listen, name="specdrift-swaps", daemon=True).start()

    def enter_step(self) -> None:
        if not self._in_step:
            self._step.acquire()
            self._in_step = True
        waiting = self._waiting
        if waiting is not None:
            waiting()

    def leave_step(self) -> None:
        if self._in_step:
            self._in_step, self._left = False, time.monotonic()
            self._step.release()

    # --- the thread ---

    def _listen(self) -> None:
        torch.set_grad_enabled(False)
        while True:
            connection, _ = self._socket.accept()
            # one that hangs up is not the last to ask
            with contextlib.suppress(OSError, ValueError), connection:
                self._converse(connection)

    def _converse(self, connection: socket.socket) -> None:
        with connection.makefile("rw", encoding="utf-8") as lines:
            for line in lines:
                lines.write(json.dumps(self._answer(line)) + "\n")
                lines.flush()

    def _answer(self, line: str) -> dict[str, Any]:
        try:
            asked = json.loads(line)
            if asked.get("op") == "state":
                return {"ok": True, **self._state()}
            if asked.get("op") == "swap":
                return {"ok": True, **self._swap(asked)}
            return {"ok": False, "error": f"op is {asked.get('op')!r}; it must be 'swap' or 'state'"}
        except SpecdriftError as error:
            return {"ok": False, "error": str(error)}
        except Exception as error:  # whatever it was, the answer is no and the server goes on
            return {"ok": False, "error": f"{type(error).__name__}: {error}"}

    def _state(self) -> dict[str, Any]:
        control = self._link.control
        return {
            "drafter_version": int(control.get("drafter_version")),
            "verifier_version": int(control.get("verifier_version")),
            "pid": os.getpid(),
            "has_drafter": self._drafter is not None,
            "tap_error": self._tap.error if self._tap is not None else "",
            "drafter_rested": self._resting.rested if self._resting is not None else 0,
            "drafter_error": self._resting.error if self._resting is not None else "",
            "traces": self._link.traces.written,
            "dropped": self._link.traces.dropped,
        }

    def _swap(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        began = time.monotonic()
        what, version, kv_invalid = asked["what"], int(asked["version"]), bool(asked.get("kv_invalid"))
        if what == "drafter":
            prepared = self._drafter_weights(Path(asked["path"]))
        elif what == "verifier":
            prepared = prepare(self._target, folder_weights(Path(asked["path"])), make_way=self._make_way)
        else:
            raise InputError(f"what is {what!r}; it must be 'drafter' or 'verifier'")
        took = time.monotonic() - began
        found = self._between_steps(lambda: self._flip(prepared, what, version, kv_invalid))
        return {"version": version, "prepare": took, **found}

    def _drafter_weights(self, path: Path) -> Prepared:
        if self._drafter is None:
            raise RuntimeError("this server was started without a drafter")
        snapshot = checkpoint.load(path)
        prepared = prepare(self._drafter, snapshot.weights, checkpoint_name, self._make_way)
        table = getattr(self._drafter, "draft_id_to_target_id", None)
        if table is not None:
            value = snapshot.vocabulary.d2t.to(device=table.device, dtype=table.dtype)
            if value.shape != table.shape:
                raise RuntimeError(
                    f"the draft vocabulary has {len(value)} tokens; the server's has {len(table)}"
                )
            prepared.buffers.append((table, value))
        return prepared

    def _flip(self, prepared: Prepared, what: str, version: int, kv_invalid: bool) -> dict[str, Any]:
        """Runs between two steps, in whichever thread found the moment."""
        began = time.monotonic()
        try:
            prepared.apply()
            fingerprint, error = prepared.prove()
        except Exception:
            prepared.revert()
            raise
        control = self._link.control
        if what == "verifier":
            control.set("kv_invalid", float(kv_invalid))
        control.set(f"{what}_version", version)
        return {"stall": time.monotonic() - began, "fingerprint": fingerprint, "error_of_probe": error}

    def _make_way(self) -> None:
        if not self._idle():
            time.sleep(PAUSE)

    def _idle(self) -> bool:
        return not self._in_step and time.monotonic() - self._left >= IDLE_WAIT

    def _between_steps(self, act: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Let the engine's thread act at its next step; act here when it is idle, and only then: between two steps
        this thread would have to be woken, and hand the interpreter back, while the engine waits."""
        done = threading.Event()
        result: list[dict[str, Any] | Exception] = []

        def once() -> None:
            if not result:
                self._waiting = None
                try:
                    with torch.inference_mode():
                        result.append(act())
                except Exception as error:
                    result.append(error)
                done.set()

        self._waiting = once
        while not done.wait(IDLE_WAIT):
            if self._idle() and self._step.acquire(blocking=False):
                try:
                    once()
                finally:
                    self._step.release()
        if isinstance(result[0], Exception):
            raise result[0]
        return result[0]


def checkpoint_name(module: str) -> str:
    """Name in an EAGLE-3 checkpoint of a module of vLLM's EAGLE-3 model."""
    return module.removeprefix("model.").replace("layers.0.", "midlayer.")


def folder_weights(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors of a model folder in Hugging Face format."""
    from safetensors.torch import load_file

    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise FileNotFoundError(f"{folder} holds no weights (*.safetensors)")
    return {name: tensor for file in files for name, tensor in load_file(file).items()}
