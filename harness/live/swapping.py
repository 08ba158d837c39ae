"""The worker's end of a swap: a thread that prepares weights beside the serving ones, and the flip between two steps.

Requests and answers are one line of JSON each over a Unix socket in the link's folder:

{"op": "swap", "what": "drafter" | "verifier", "path": FILE or FOLDER, "version": N, "kv_invalid": BOOL}
-> {"ok": true, "version": N, "stall": seconds, "prepare": seconds, "fingerprint": hex, "error_of_probe": share}
-> {"ok": false, "error": sentence}: what served before goes on serving.
{"op": "state"} -> {"ok": true, "drafter_version": N, "verifier_version": N, "pid": N, "tap_error": "", ...}

Of several workers that hold one model together, worker 0 is asked so and asks the others in turn (`peers.py`):
{"op": "prepare", "ticket": N, ... as of a swap}, {"op": "hold"}, {"op": "flip"}, {"op": "release"}
"""

from __future__ import annotations

import contextlib
import json
import logging
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
from harness.live.moment import Moments
from harness.live.peers import Peer, Ranks, agreed, hear_all
from harness.live.resting import RestingDrafter
from harness.live.swap import Prepared, prepare
from harness.live.tap import Tap
from harness.speculator import checkpoint

logger = logging.getLogger(__name__)

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
        ranks: Ranks = Ranks(),
    ) -> None:
        self._link = link
        self._target = target
        self._drafter = drafter
        self._tap = tap
        self._resting = resting
        self._ranks = ranks
        self._moments = Moments()
        self._swaps = 0
        self._acts: dict[str, Callable[[Mapping[str, Any]], dict[str, Any]]] = (
            {"swap": self._swap, "state": self._state}
            if ranks.rank == 0
            else {
                "prepare": self._prepare,
                "hold": self._hold,
                "flip": self._flip_held,
                "release": self._release,
            }
        )
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.bind(str(link.socket_of(ranks.rank)))
        self._socket.listen()
        threading.Thread(target=self._listen, name="specdrift-swaps", daemon=True).start()

    def enter_step(self, ticket: int = 0) -> None:
        """`ticket`: the number of the swap that this step carries."""
        self._moments.enter_step(ticket)

    def leave_step(self) -> None:
        self._moments.leave_step()

    # --- the thread ---

    def _listen(self) -> None:
        torch.set_grad_enabled(False)
        while True:
            connection, _ = self._socket.accept()
            # one that hangs up is not the last to ask
            with contextlib.suppress(OSError, ValueError), connection:
                self._converse(connection)

    def _converse(self, connection: socket.socket) -> None:
        try:
            with connection.makefile("rw", encoding="utf-8") as lines:
                for line in lines:
                    lines.write(json.dumps(self._answer(line)) + "\n")
                    lines.flush()
        finally:
            self._moments.release()

    def _answer(self, line: str) -> dict[str, Any]:
        try:
            asked = json.loads(line)
            act = self._acts.get(asked.get("op"))
            if act is None:
                known = " or ".join(map(repr, self._acts))
                return {"ok": False, "error": f"op is {asked.get('op')!r}; it must be {known}"}
            return {"ok": True, **act(asked)}
        except SpecdriftError as error:
            return {"ok": False, "error": str(error)}
        except Exception as error:  # whatever it was, the answer is no and the server goes on
            return {"ok": False, "error": f"{type(error).__name__}: {error}"}

    def _state(self, asked: Mapping[str, Any]) -> dict[str, Any]:
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
        self._swaps += 1
        with contextlib.ExitStack() as stack:
            peers = [
                stack.enter_context(Peer(self._link.socket_of(rank), rank))
                for rank in range(1, self._ranks.size)
            ]
            for peer in peers:
                peer.send({**asked, "op": "prepare", "ticket": self._swaps})
            act = self._prepared(asked)
            agreed(hear_all(peers))
            took = time.monotonic() - began
            found = self._moments.between_steps(act, self._link.control, self._swaps, peers)
        return {"version": int(asked["version"]), "prepare": took, **found}

    def _prepared(self, asked: Mapping[str, Any]) -> Callable[[], dict[str, Any]]:
        """What makes the swap asked for, once it is time."""
        what, version, kv_invalid = asked["what"], int(asked["version"]), bool(asked.get("kv_invalid"))
        if what == "drafter":
            prepared = self._drafter_weights(Path(asked["path"]))
        elif what == "verifier":
            prepared = prepare(self._target, folder_weights(Path(asked["path"])), make_way=self._make_way)
        else:
            raise InputError(f"what is {what!r}; it must be 'drafter' or 'verifier'")
        return lambda: self._flip(prepared, what, version, kv_invalid)

    def _drafter_weights(self, path: Path) -> Prepared:
        if self._drafter is None:
            raise RuntimeError("this server was started without a drafter")
        snapshot = checkpoint.load(path)
        name_of = CHECKPOINT_NAMES.get(snapshot.kind)
        if name_of is None:
            raise InputError(
                f"{path} holds a {snapshot.kind!r} drafter; it must be {' or '.join(CHECKPOINT_NAMES)}"
            )
        prepared = prepare(self._drafter, snapshot.weights, name_of, self._make_way)
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
        fingerprint, off, failure = "", 0.0, None
        try:
            prepared.apply()
            fingerprint, off = prepared.prove()
        except Exception as error:
            failure = error
            logger.error("weights refused: %s", error)
        refused, off = self._ranks.worst([float(failure is not None), off])
        if refused:
            prepared.revert()
            raise failure or RuntimeError("another worker refused its part of the weights")
        if self._ranks.rank == 0:
            control = self._link.control
            if what == "verifier":
                control.set("kv_invalid", float(kv_invalid))
            control.set(f"{what}_version", version)
        return {"stall": time.monotonic() - began, "fingerprint": fingerprint, "error_of_probe": off}

    def _make_way(self) -> None:
        if not self._moments.idle():
            time.sleep(PAUSE)

    # --- what another worker is asked ---

    def _prepare(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        self._moments.arm(self._prepared(asked), int(asked["ticket"]))
        return {}

    def _hold(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        return {"held": self._moments.hold()}

    def _flip_held(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        return self._moments.flip_held()

    def _release(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        self._moments.release()
        return {}


def checkpoint_name(module: str) -> str:
    """Name in an EAGLE-3 checkpoint of a module of vLLM's EAGLE-3 model."""
    return module.removeprefix("model.").replace("layers.0.", "midlayer.")


CHECKPOINT_NAMES: Mapping[str, Callable[[str], str]] = {
    "eagle3": checkpoint_name,
    "llama": lambda module: module.removeprefix("model."),
}
"""By kind of drafter: the name in its checkpoint of a module of the model that vLLM serves."""


def folder_weights(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors of a model folder in Hugging Face format."""
    from safetensors.torch import load_file

    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise FileNotFoundError(f"{folder} holds no weights (*.safetensors)")
    return {name: tensor for file in files for name, tensor in load_file(file).items()}
